"""Gates as settings: each metric passes and closes, nonsense is refused, old settings mean what
they meant.
"""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cowest import evaluation, io
from cowest.config import parse
from cowest.errors import ConfigError, ContractError
from cowest.gates import Gate, Rules
from cowest.records import EvalReport, GateResult, Refinement, Trial
from tests.factories import make_feedback, make_trial, write_report

REFUSED = "refused by the provider's content filter"


def staged(folder: Path, gate: dict[str, Any], rows: list[Trial], **fields: Any) -> GateResult:
    """The outcome of one gate, by the stage, on trials that lie in a file."""
    io.write(folder / "trials.jsonl", rows)
    rules = parse(Rules, {"gates": [gate], "draws": 1000, **fields}, "compare")
    write_report(folder / "trials.jsonl", folder / "eval.json", rules)
    report = io.read_document(folder / "eval.json", EvalReport)
    return next(one for one in report.gates if one.name == rules.gates[0].name)


def trials(after: dict[str, Any], other: dict[str, Any], queries: int = 60) -> list[Trial]:
    """Queries in 20 groups of three; a value that is a list is dealt out in turn."""
    rows = []
    for number in range(queries):
        for system, fields in (("before", other), ("after", after), ("champion", other)):
            values: dict[str, Any] = {"group": f"g{number // 3}"}
            for name, value in fields.items():
                values[name] = value[number % len(value)] if isinstance(value, list) else value
            rows.append(make_trial(number, system, **values))
    return rows


def refused(share: int) -> dict[str, Any]:
    """One row of so many is refused."""
    good, bad = ("Italy", 1.0, None), (None, None, f"refine: {REFUSED}")
    dealt = list(zip(*[bad, *[good] * (share - 1)], strict=True))
    return dict(zip(("refinement", "score", "failed"), map(list, dealt), strict=True))


CHOICE = {"scorer": "choice", "choices": ("red", "blue"), "targets": ("red",)}
UNREAD = {**CHOICE, "refinement": ["red", "red", "who knows"], "score": [1.0, 1.0, 0.0]}
READ = {**CHOICE, "refinement": ["red", "red", "blue"], "score": [1.0, 1.0, 0.0]}
HALF = {"score": [0.0, 1.0]}
"""Differs from 0 and from 1 in each group, so that there is an interval."""


@pytest.mark.parametrize(
    ("gate", "after", "other", "passes"),
    [
        ({"over": "champion", "better_by": 0.2}, {"score": 1.0}, HALF, True),
        ({"over": "champion", "better_by": 0.45}, {"score": 1.0}, HALF, False),
        ({"over": "champion", "no_worse_by": 0.1}, HALF, {"score": [1.0, 0.0]}, False),
        ({"over": "champion", "no_worse_by": 0.7}, HALF, {"score": 1.0}, True),
        ({"over": "champion", "no_worse_by": 0.5}, HALF, {"score": 1.0}, False),
        ({"over": "champion", "unless_worse_by": 0.5}, HALF, {"score": 1.0}, True),
        ({"over": "champion", "unless_worse_by": 0.3}, HALF, {"score": 1.0}, False),
        ({"above": 0.4}, HALF, HALF, True),
        ({"above": 0.5}, HALF, HALF, False),
        # More answers are fully right, though the mean score is the same.
        ({"over": "before", "metric": "accuracy", "better_by": 0.2}, HALF, {"score": 0.5}, True),
        ({"over": "before", "metric": "accuracy", "better_by": 0.2}, {"score": 0.99}, HALF, False),
        ({"above": 0.4, "metric": "accuracy"}, HALF, HALF, True),
        ({"over": "before", "metric": "unparseable", "better_by": 0.1}, READ, UNREAD, True),
        ({"over": "before", "metric": "unparseable", "no_worse_by": 0.1}, UNREAD, READ, False),
        ({"over": "before", "metric": "unparseable", "no_worse_by": 0.5}, UNREAD, READ, True),
        ({"under": 0.5, "metric": "unparseable"}, UNREAD, READ, True),
        ({"under": 0.3, "metric": "unparseable"}, UNREAD, READ, False),
        ({"under": 0.2, "metric": "unparseable"}, HALF, HALF, False),
        (
            {"over": "before", "metric": "length", "no_worse_by": 2},
            {"refinement": ["Rome", "Rome."]},
            {"refinement": "Oslo"},
            True,
        ),
        (
            {"over": "before", "metric": "length", "no_worse_by": 2},
            {"refinement": ["Rome", "Rome, I think."]},
            {"refinement": "Oslo"},
            False,
        ),
        ({"under": 5, "metric": "length"}, {"refinement": ["Rome", "Ro"]}, HALF, True),
        (
            {"over": "champion", "metric": "tokens", "better_by": 3},
            {"refinement_tokens": [4, 5]},
            {"refinement_tokens": 9},
            True,
        ),
        ({"under": 9, "metric": "tokens"}, {"refinement_tokens": [9, 10]}, HALF, False),
        ({"under": 9, "metric": "tokens"}, HALF, HALF, False),
        ({"over": "before", "metric": "refused", "no_worse_by": 0.1}, refused(3), HALF, False),
        ({"over": "before", "metric": "refused", "better_by": 0.1}, HALF, refused(3), True),
        ({"under": 0.5, "metric": "refused"}, refused(3), HALF, True),
        (
            {"over": "champion", "metric": "right_to_wrong", "no_worse_by": 0.1},
            HALF,
            {"score": 1.0},
            False,
        ),
        (
            {"over": "champion", "metric": "right_to_wrong", "no_worse_by": 0.7},
            HALF,
            {"score": 1.0},
            True,
        ),
        (
            {"over": "champion", "metric": "right_to_wrong", "unless_worse_by": 0.3},
            HALF,
            {"score": 1.0},
            False,
        ),
    ],
)
def test_a_gate_passes_and_closes_by_its_metric(
    tmp_path: Path,
    gate: dict[str, Any],
    after: dict[str, Any],
    other: dict[str, Any],
    passes: bool,
) -> None:
    found = staged(tmp_path, gate, trials(after, other))
    assert found.passed is passes, found.reason
    assert "the challenger" in found.reason
    assert (found.at_least is None) != (found.at_most is None)


@pytest.mark.parametrize(
    ("gate", "lacks"),
    [
        ({"over": "champion", "metric": "tokens"}, "whose tokens the provider counted"),
        ({"under": 0.1, "metric": "unparseable"}, "no query has an answer to a multiple choice"),
        ({"over": "champion", "metric": "macro_f1"}, "that names an option"),
        ({"of": "ideal", "over": "champion"}, "no query has a score of both the ideal draft"),
    ],
)
def test_a_metric_that_nobody_measured_closes_its_gate(
    tmp_path: Path, gate: dict[str, Any], lacks: str
) -> None:
    found = staged(tmp_path, gate, trials(HALF, HALF))
    assert found.passed is False
    assert found.reason.startswith("closed: ") and lacks in found.reason
    assert found.value is None


@pytest.mark.parametrize("metric", ["score", "accuracy", "length", "tokens", "refused"])
def test_a_champion_whose_rows_are_gone_or_failed_is_not_beaten(
    tmp_path: Path, metric: str
) -> None:
    """Wherever its rows are missing, what is left says nothing of it."""
    whole = trials({"score": 1.0, "refinement_tokens": [4, 5]}, {"refinement_tokens": 9})
    gate = {"over": "champion", "metric": metric, "no_worse_by": 1}
    for kept in (0, 20):
        failed, gone = [], []
        for place, row in enumerate(whole):
            if row.system != "champion" or place < 3 * kept:
                failed.append(row)
                gone.append(row)
            else:
                reason = {"failed": "refine: timeout", "refinement": None, "score": None}
                failed.append(row.model_copy(update=reason))
        found = staged(tmp_path, gate, failed)
        assert (found.passed, found.reason[:8]) == (False, "closed: "), found.reason
        if kept:
            found = staged(tmp_path, gate, gone)
            assert (found.passed, found.reason[:8]) == (False, "closed: "), found.reason
            assert "66.7% of those of the champion" in found.reason


def test_a_number_is_not_reached_by_the_rows_that_are_left(tmp_path: Path) -> None:
    rows = trials({"score": 1.0, "failed": [None, "refine: timeout", None]}, HALF)
    found = staged(tmp_path, {"above": 0.5}, rows)
    assert found.passed is False
    assert "33.3% of the rows of the challenger failed, and" in found.reason


def test_old_settings_mean_what_they_meant() -> None:
    score = Gate(over="before", at_least=0.005).bound
    assert (score.end, score.relation, score.number) == ("lower", "at least", 0.005)
    assert score == Gate(over="before", better_by=0.005).bound
    assert Gate(over="before").bound == Gate(over="before", better_by=0).bound
    assert Gate(over="before", at_least=-0.1).bound == Gate(over="before", no_worse_by=0.1).bound
    classes = Gate(over="before", metric="macro_f1", at_least=-0.1).bound
    assert (classes.end, classes.number) == ("upper", -0.1)
    assert classes == Gate(over="before", metric="macro_f1", unless_worse_by=0.1).bound


@pytest.mark.parametrize(
    ("gate", "says"),
    [
        ({}, "it names none"),
        ({"at_least": 0.5}, "it names none"),
        ({"over": 0.8}, "for a number write `above: 0.8`"),
        ({"over": "champion", "above": 0.8}, "not over and above"),
        ({"above": 0.8, "better_by": 0.1}, "better_by is a difference"),
        ({"over": "champion", "better_by": 0.1, "no_worse_by": 0.1}, "say one of them"),
        ({"over": "champion", "better_by": -0.1}, "greater than or equal to 0"),
        ({"under": 0.8}, "of score more is better: write `above`"),
        ({"above": 0.8, "metric": "unparseable"}, "of unparseable less is better: write `under`"),
        ({"over": "champion", "metric": "right_to_wrong"}, "needs `no_worse_by`"),
        ({"under": 0.1, "metric": "right_to_wrong"}, "right_to_wrong needs `over`"),
        ({"over": "best_single", "metric": "length"}, "name one by length"),
        ({"over": "policy_before", "metric": "tokens"}, "tokens of a policy alone"),
        ({"over": "champion", "metric": "speed"}, "Input should be 'score'"),
    ],
)
def test_a_gate_that_means_nothing_is_refused(gate: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=r"compare: gates\.0") as caught:
        parse(Rules, {"gates": [gate]}, "compare")
    assert says in str(caught.value)


def test_tokens_are_kept_by_trials_alone() -> None:
    """The rows of training keep their bytes."""
    feedback = make_feedback(refinement_tokens=7, solo_tokens=3)
    assert "tokens" not in feedback.model_dump_json()
    trial = make_trial(refinement_tokens=7)
    assert Trial.model_validate_json(trial.model_dump_json()) == trial
    old = {name: value for name, value in trial.model_dump().items() if "tokens" not in name}
    assert Trial.model_validate(old).refinement_tokens is None
    assert Refinement.model_fields["solo_tokens"].exclude


@settings(max_examples=25)
@given(
    lost=st.sets(st.integers(0, 59), min_size=1),
    how=st.sampled_from(["gone", "failed", "unscored"]),
    whose=st.sampled_from(["champion", "after", "before"]),
    relation=st.sampled_from(["better_by", "no_worse_by", "unless_worse_by"]),
)
def test_no_gate_opens_on_the_rows_that_are_left(
    lost: set[int], how: str, whose: str, relation: str
) -> None:
    """Whatever rows of one side are missing, a perfect challenger is not promoted by the others."""
    whole = trials({"score": 1.0}, {"score": [0.0, 0.1, 0.2]})
    queries = []
    for number in range(60):
        rows = []
        for row in whole[3 * number : 3 * number + 3]:
            if row.system != whose or number not in lost:
                rows.append(row)
            elif how == "failed":
                rows.append(row.model_copy(update={"failed": "refine: timeout", "score": None}))
            elif how == "unscored":
                rows.append(row.model_copy(update={"score": None}))
        queries.append(rows)
    over = "champion" if whose == "champion" else "before"
    gate = Gate(over=over, **{relation: 0.2})
    rules = Rules(gates=(gate,), guards=False)
    try:
        found = evaluation.compare(evaluation.gather(queries), rules)
    except ContractError as error:
        assert "no good trial of system" in str(error)
        return
    (result,) = found.gates
    if how != "unscored":
        assert result.passed is False or (result.passed is None and len(lost) == 60)
        assert result.passed is None or result.reason.startswith("closed: ")
    elif result.passed:
        assert result.estimate is not None and result.estimate.groups >= rules.min_groups
