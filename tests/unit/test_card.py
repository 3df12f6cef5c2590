"""The model card of an exported version."""

from typing import Any

import pytest
import yaml

from cowest.records import DataSet, Decision
from cowest.report.card import About, head, write
from cowest.version import Aligned, Version
from tests.factories import PROMPTS


@pytest.mark.parametrize(
    ("base", "named"), [("org/base-1b", "org/base-1b"), ("/home/me/models/base", None)]
)
def test_the_head_names_a_base_of_the_hub_and_no_folder_of_this_machine(
    base: str, named: str | None
) -> None:
    written = head(About(name="v", base=base, licence="Apache-2.0", tokens=20, merged=False))
    values = yaml.safe_load(written.strip("-\n"))
    assert values.get("base_model") == named
    assert values["license"] == "apache-2.0"
    assert "/home" not in written


def decision(number: int, **fields: Any) -> Decision:
    values: dict[str, Any] = {
        "turn": f"{number}" * 64,
        "version": number,
        "verdict": "promoted",
        "against": None,
        "reason": f"better by 0.{number}",
    }
    return Decision(**{**values, **fields})


def card(made: Decision, log: list[Decision], aligned: Aligned | None = None) -> str:
    about = About(name="v", base="org/base-1b", licence=HOSTILE, tokens=20, merged=False)
    trained = Version(base="b@1", adapter="a", prompts=PROMPTS, trained="t", aligned=aligned)
    data = {"raw": DataSet(path="data/a\\|b", digest="d" * 64, kept="git", rev="c" * 40)}
    return write(about, made, log, trained, None, data)


HOSTILE = "kind: x\n\n# Safe model\n![](https://evil.example/p.png)\n<img src=x> | `"


def test_the_card_of_a_version_that_was_brought_back_has_the_verdict_of_its_turn() -> None:
    log = [
        decision(1),
        decision(2, against=1),
        decision(3, against=2, tags={"kind": "rollback", "of": "1"}, reason="2 answers in French"),
        decision(4, against=3, verdict="waiting", tags={"kind": "waiting"}),
        decision(5, against=3, tags={"kind": "approval", "of": "4"}, reason="read by Ann"),
        decision(6, against=5, tags={"kind": "rollback", "of": "3"}, reason="once more"),
    ]
    for made, verdict, act, turn in (
        (log[1], "Promoted, judged against version 1: better by 0.2", None, "2"),
        (log[2], NO_CHAMPION, "Brought back as version 3: 2 answers in French", "1"),
        (log[4], WAITED, "Approved as version 5: read by Ann", "4"),
        (log[5], NO_CHAMPION, "Brought back as version 6: once more", "1"),
    ):
        written = card(made, log)
        assert verdict in written
        assert act is None or act in written
        assert (" as version " in written) == (act is not None)
        assert f"| turn | {turn * 64} |" in written
    gone = card(log[2], log[1:])
    assert "The registry has the decision on its turn no longer." in gone
    assert "Promoted" not in gone and "Brought back as version 3" in gone
    circle = [decision(1, tags={"kind": "rollback", "of": "1"})]
    assert "no longer" in card(circle[0], circle)


NO_CHAMPION = "Promoted, judged against no champion: better by 0.1"
WAITED = "Waiting for approval, judged against version 3: better by 0.4"


@pytest.mark.parametrize(
    ("align", "says", "never"),
    [
        (None, "preference pairs of drafts that helped more and less aligned it (DPO).", "rounds"),
        ("kto", "each alone, aligned it (KTO).", "DPO"),
        ("self", "no strong model was asked.", "helped"),
        ("grpo", "better than without (GRPO).", "pairs"),
        ("dpo", "So it went for 3 rounds", "KTO"),
    ],
)
def test_the_card_says_how_the_policy_was_aligned(align: Any, says: str, never: str) -> None:
    rows = (9, 8, 7) if align == "dpo" else (9,)
    aligned = None if align is None else Aligned(align=align, rows=rows, strong=("s",))
    written = card(decision(1), [decision(1)], aligned)
    assert says in written and never not in written


def test_what_a_reason_quotes_is_no_markdown_of_the_card() -> None:
    made = decision(1, reason=HOSTILE)
    for written in (
        card(made, [made]),
        card(decision(2, tags={"kind": "approval", "of": "1"}, reason=HOSTILE), [made]),
    ):
        assert "\n# Safe model" not in written and "![](" not in written and "<img" not in written
        assert "\\# Safe model !\\[\\](https://evil.example/p.png) &lt;img src=x>" in written
        # A backslash before a bar would be what is escaped, and the bar end the cell.
        assert "| raw | data/a\\\\\\|b | git at" in written
