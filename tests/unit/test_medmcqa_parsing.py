"""The rule for answers, against a person's verdicts on published completions where they are at
hand, and on our own where not.
"""

from pathlib import Path

import pytest

from tests.bench import medmcqa_parsing as bench
from tests.published import PUBLISHED, medmcqa, write_rows

FOLDER = PUBLISHED["medmcqa"]
published = pytest.mark.skipif(
    not (FOLDER / "strong_answers.jsonl").exists(),
    reason="the published completions are not here: COWEST_DATA names the folder that holds them",
)


@pytest.mark.slow
@published
def test_the_rule_agrees_with_a_careful_person() -> None:
    assert bench.agreement(FOLDER) == {"any": (100, 100), "unusual": (100, 100)}


@pytest.mark.slow
@published
def test_the_page_is_what_the_files_make() -> None:
    assert bench.PAGE.read_text(encoding="utf-8") == bench.page(FOLDER), (
        "python -m tests.bench.medmcqa_parsing --write"
    )


def test_right_wrong_and_unparseable_are_counted(tmp_path: Path) -> None:
    medmcqa(tmp_path)
    said = [
        '{"answer_choice": "A"}',
        '{"answer_choice": "A. Comet gland',
        '{"answer_choice": "None of the above"}',
        "",
        '"answer_choice": "A/B"',
    ]
    rows = [{"id": "invented-0", "model": "invented", "completion": text} for text in said]
    write_rows(tmp_path / "strong_answers.jsonl", [*rows, {**rows[0], "id": "invented-1"}])
    counts = bench.count(tmp_path)["invented"]
    assert (counts["right"], counts["wrong"], counts["unparseable"]) == (1, 1, 4)
    assert counts["of these: empty"] == counts["of these: several options named"] == 1
