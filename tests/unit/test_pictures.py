from pathlib import Path
from xml.etree import ElementTree

import pytest

from cowest import evaluation
from cowest.gates import Rules
from cowest.records import DataSet, Decision, Estimate
from cowest.report import description, figures, pictures
from tests.factories import make_trial

pytestmark = pytest.mark.slow


def test_pictures_of_a_page_stand_alone(tmp_path: Path) -> None:
    one = Estimate(mean=0.5, low=0.4, high=0.6, queries=9, groups=3)
    drawn = figures.systems({"before": one, "after": one})
    again = figures.systems({"after": one}, "again")
    page = tmp_path / "index.html"
    page.write_text(f"<html><body>{drawn}<p>words</p>{again}<svg class='mark'></svg></body></html>")
    written = pictures.write(page, tmp_path / "figures")
    assert [path.name for path in written] == ["systems.svg", "again.svg"]
    for path in written:
        text = path.read_text()
        assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
        for variable in ("ink", "paper", "after", "sans"):
            assert f"--{variable}:" in text
    page.write_text("<html></html>")
    assert pictures.write(page, tmp_path / "none") == []


def test_a_description_keeps_its_table_and_its_length() -> None:
    rows = [[make_trial(number, system) for system in ("before", "after")] for number in range(12)]
    report = evaluation.compare(evaluation.gather(rows), Rules(gates=(), promote_everything=True))
    made = Decision(turn="a" * 64, version=2, verdict="refused", against=1, reason="x" * 9000)
    raw = DataSet(path="data/a|b\n", digest="d" * 64, kept="git", rev="c" * 40)
    said = description.of_version(made, report, {"raw": raw})
    assert len(said) <= description.LONGEST
    assert said.startswith("**Refused**, judged against version 1: xxx")
    assert "| raw | data/a\\|b | git at cccccccccccc |  | dddddddddddd |" in said


def test_what_a_reason_quotes_is_no_markdown_of_the_description() -> None:
    rows = [[make_trial(number, system) for system in ("before", "after")] for number in range(12)]
    report = evaluation.compare(evaluation.gather(rows), Rules(gates=(), promote_everything=True))
    reason = "kind: x\n\n# Safe model\n![](https://evil.example/p.png)"
    made = Decision(turn="a" * 64, version=2, verdict="refused", against=1, reason=reason)
    said = description.of_version(made, report, {})
    assert "kind: x \\# Safe model !\\[\\](https://evil.example/p.png)\n\n" in said
