"""The held-out set wears out: which queries were looked at, and the confidence that it costs."""

from pathlib import Path
from typing import Any

import pytest

from cowest import evaluation, io, wear
from cowest.gates import Gate, Rules
from cowest.records import EvalReport, GateResult, Trial
from cowest.stages import compare
from cowest.wear import Looks
from tests.bench.gate.wear import histories
from tests.factories import make_trial


def queries(count: int = 40) -> list[list[Trial]]:
    """Alignment turns a query in seven from right to wrong, and half of the others to right."""
    found = []
    for number in range(count):
        after = 0.0 if number % 7 == 0 else float(number % 2)
        before = 1.0 if number % 7 == 0 else 0.0
        rows = [make_trial(number, "before", score=before), make_trial(number, score=after)]
        found.append(rows)
    return found


def judged(worn: float | None, gate: Gate | None = None, **fields: Any) -> GateResult:
    rules = Rules(gates=(gate or Gate(over="before"),), guards=False, **fields)
    report = evaluation.compare(evaluation.gather(queries()), rules, wear=worn)
    assert report.wear == worn
    return report.gates[0]


def test_the_lower_end_moves_out_with_every_look_and_the_reason_names_its_confidence() -> None:
    ends = [judged(worn) for worn in (None, 0.0, 1.0, 4.0, 49.0)]
    values = [one.value for one in ends]
    assert values[0] == values[1]
    assert None not in values
    assert values[1:] == sorted(values[1:], reverse=True) and len(set(values[1:])) == 4
    said = [one.reason.partition("end of its ")[2].partition(" interval")[0] for one in ends]
    assert said == ["95 %", "95 %", "97.5 %", "99 %", "99.9 %"]
    assert all(one.estimate is not None and one.estimate.low == one.value for one in ends)
    assert judged(49.0, spend=0.0).value == values[0]


def test_a_guard_is_not_opened_by_wear() -> None:
    """It is closed where the whole interval is bad: a wider one would be so more rarely."""
    guard = Gate(of="before", over="after", unless_worse_by=0.0)
    assert judged(0.0, guard).value == judged(49.0, guard).value


def test_however_much_is_spent_the_ends_are_finite_and_named() -> None:
    for spend, worn in ((3.0, 46.0), (10.0, 1e9), (400.0, 46.0)):
        assert 0.95 < wear.confidence(worn, spend) < 1
        gate = judged(worn, spend=spend)
        assert gate.estimate is not None
        assert gate.estimate.low is not None and gate.estimate.low >= -1
        assert " 99.9" in gate.reason and "100 %" not in gate.reason
    # More than 1,000 groups have their quantile from the normal distribution.
    rows = evaluation.gather(queries(1100))
    rules = Rules(gates=(Gate(over="before"),), guards=False, spend=3.0)
    (gate,) = evaluation.compare(rows, rules, wear=46.0).gates
    assert gate.estimate is not None and gate.estimate.low is not None


def test_looks_are_counted_by_query_and_what_is_unknown_is_said() -> None:
    sets = {"one": ["a", "b"], "other": ["b", "c"]}
    looks = wear.looks_of(sets, ["one", "one", "other", None, "gone"])
    assert looks == Looks(decisions=3, unknown=2, uses={"a": 2, "b": 3, "c": 1})
    assert wear.worn(looks, ["a", "b", "new"]) == pytest.approx(5 / 3, abs=1e-6)
    assert wear.worn(looks, ["new"]) == 0.0
    assert wear.worn(None, ["a"]) is None
    assert wear.said(0.0) is None
    assert wear.said(2.5) == (
        "A held-out query has taken part in 2.5 earlier decisions on average."
    )


def test_ids_are_kept_in_equal_bytes_whatever_their_order() -> None:
    assert wear.packed(["b", "a"]) == wear.packed(["a", "b"])
    assert wear.unpacked(wear.packed(["b", "a"])) == ["a", "b"]
    assert wear.name_of(["b", "a"]) == wear.name_of(["a", "b"])


def test_compare_counts_the_looks_that_it_is_given_and_says_if_it_is_given_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = queries()
    io.write(tmp_path / "trials.jsonl", [row for of_query in rows for row in of_query])
    uses = {of_query[0].id: 2 for of_query in rows[:20]}
    io.write_document(tmp_path / "looks.json", Looks(decisions=2, uses=uses))
    found = {}
    for looks in (None, tmp_path / "looks.json"):
        compare.main(
            tmp_path / "trials.jsonl",
            tmp_path / "eval.json",
            Rules(gates=(Gate(over="before"),)),
            looks=looks,
        )
        found[looks] = io.read_document(tmp_path / "eval.json", EvalReport).wear
    assert list(found.values()) == [None, 1.0]
    assert "compare: how worn the held-out queries are is not counted" in capsys.readouterr().err


def test_a_history_of_twenty_weeks_seldom_promotes_by_chance() -> None:
    """The bench has 50 weeks and 2,000 histories; of these 100, spending nothing lets 25 and more
    promote.
    """
    without = histories(16, 0.3, 0.0, sims=100, weeks=20)
    spent = histories(16, 0.3, 1.0, sims=100, weeks=20)
    assert without.promoted > 0.2
    assert spent.promoted < 0.12
