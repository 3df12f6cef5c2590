"""Gates that hold without being asked: defaults, floors, one draft for all, right to wrong."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cowest import io
from cowest.config import load, parse, section
from cowest.errors import ConfigError
from cowest.gates import DEFAULTS, FLOORS, Gate, Rules
from cowest.records import EvalReport, GateResult, Trial
from tests.factories import make_trial, write_report
from tests.lines import ROOT

SCAFFOLD = "src/cowest/commands/scaffold/params.yaml.template"


def report(folder: Path, rows: list[Trial], **fields: Any) -> EvalReport:
    io.write(folder / "trials.jsonl", rows)
    rules = parse(Rules, {"draws": 1000, **fields}, "compare")
    write_report(folder / "trials.jsonl", folder / "eval.json", rules)
    return io.read_document(folder / "eval.json", EvalReport)


def outcome(found: EvalReport, name: str) -> GateResult:
    return next(gate for gate in found.gates if gate.name == name)


def rows_of(
    queries: int = 60, champion: bool = False, after: Any = 1.0, **fields: Any
) -> list[Trial]:
    """Queries in 20 groups; `after` is right, and all others are wrong on most."""
    rows = []
    for number in range(queries):
        common: dict[str, Any] = {
            "group": f"g{number // 3}",
            "targets": (f"city {number}",),
            "solo_score": float(number % 7 == 0),
            "draft_score": float(number % 5 == 0),
        }
        if champion:
            score = float(number % 4 == 0)
            rows.append(make_trial(number, "champion", score=score, **common))
        draft = {"draft": f"Plant {number}."}
        rows.append(
            make_trial(number, "before", score=float(number % 6 == 0), **{**common, **draft})
        )
        given = {**common, **draft, "score": after, **fields}
        for name, value in given.items():
            if isinstance(value, list):
                given[name] = value[number % len(value)]
        rows.append(make_trial(number, "after", **given))
    return rows


def test_settings_that_name_no_gate_have_the_defaults(tmp_path: Path) -> None:
    found = report(tmp_path, rows_of(champion=True))
    names = [gate.name for gate in found.gates]
    assert names[:3] == ["after over champion", "after over before", "after over best single"]
    assert names[3:] == [
        "distinct drafts of after above 0.2",
        "after over champion in right to wrong",
    ]
    assert found.passed, [gate.reason for gate in found.gates]


@pytest.mark.parametrize("place", ["params.yaml", SCAFFOLD, "examples/multiple-choice/params.yaml"])
def test_the_settings_that_are_shipped_are_the_defaults(place: str, tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    text = (ROOT / place).read_text()
    params.write_text("compare:" + text.split("\ncompare:")[1].split("\n\n")[0] + "\n")
    assert parse(Rules, section(load(params), "compare"), place).gates == DEFAULTS


def test_no_gate_at_all_must_be_said_twice(tmp_path: Path) -> None:
    for wrong, says in (
        ({"gates": []}, "compare: with `gates: \\[\\]` every challenger would be promoted"),
        ({"promote_everything": True}, "contradict each other"),
        ({"promote_everything": True, "gates": [{"over": "before"}]}, "contradict each other"),
    ):
        with pytest.raises(ConfigError, match=says):
            parse(Rules, wrong, "compare")
    worse = rows_of(champion=True, after=0.0, draft="The same.")
    found = report(tmp_path, worse, gates=[], promote_everything=True)
    assert (found.gates, found.passed) == ((), True)


def test_a_first_champion_has_floors(tmp_path: Path) -> None:
    gates = [{"over": "champion", "better_by": 0.1}]
    rows = rows_of(after=[1.0, 0.0], solo_score=1.0, draft_score=[0.0, 1.0])
    found = report(tmp_path, rows, gates=gates)
    floors = [outcome(found, gate.name) for gate in FLOORS]
    assert [gate.name for gate in floors] == ["after over strong", "after over policy after"]
    assert [gate.passed for gate in floors] == [False, False]
    assert "the strong model alone" in floors[0].reason
    assert "the challenger's policy alone" in floors[1].reason
    assert not found.passed
    assert report(tmp_path, rows, gates=gates, guards=False).passed
    assert report(tmp_path, rows_of(), gates=gates).passed


def test_a_floor_that_is_named_is_not_asked_twice() -> None:
    def floors(*gates: Gate) -> list[str]:
        held = Rules(gates=gates).all_gates(choices=False, champion=False)
        return [gate.name for gate in held[len(gates) :] if gate.metric == "score"]

    assert floors(Gate(over="champion")) == ["after over strong", "after over policy after"]
    assert floors(Gate(over="strong", no_worse_by=0.1)) == ["after over policy after"]
    assert floors(Gate(over="best_single")) == []
    assert len(floors(Gate(over="strong", metric="length"))) == 2
    assert len(floors(Gate(over="best_single", slices="kind", no_worse_by=0.5))) == 2
    assert len(floors(Gate(over="best_single", unless_worse_by=0.5))) == 2
    assert len(floors(Gate(of="before", over="best_single"))) == 2
    held = Rules(gates=(Gate(over="champion"),)).all_gates(choices=False, champion=True)
    assert not {gate.name for gate in FLOORS} & {gate.name for gate in held}


DISTINCT = "distinct drafts of after above 0.2"


@pytest.mark.parametrize(
    ("drafts", "passes"),
    [
        (["The same for all."], False),
        (["The same for all.", "the SAME, for all"], False),
        ([f"Only {n}." for n in range(4)], False),
        ([f"Draft {n}." for n in range(5)], True),
        ([f"One per group {n // 3}." for n in range(60)], True),
    ],
)
def test_one_draft_for_all_is_refused_though_the_scores_are_better(
    tmp_path: Path, drafts: list[str], passes: bool
) -> None:
    found = report(tmp_path, rows_of(draft=drafts))
    gate = outcome(found, DISTINCT)
    assert (gate.passed, found.passed) == (passes, passes), gate.reason
    assert "for 60 distinct targets in 20 groups, and 60 distinct drafts before" in gate.reason


@pytest.mark.parametrize(
    ("drafts", "targets", "passes"),
    [
        (["Yes."], ["yes", "no"], False),
        (["Yes.", "No."], ["yes", "no"], True),
        (["Yes."], ["yes"], True),
        (["Rome", "Oslo"], ["Rome", "Oslo", "Lima", "Bonn", "Bern"], True),
    ],
)
def test_a_domain_of_few_answers_has_few_drafts(
    tmp_path: Path, drafts: list[str], targets: list[str], passes: bool
) -> None:
    rows = rows_of(draft=drafts)
    for place, row in enumerate(rows):
        number = int(row.source.split(":")[1]) - 1
        fields = row.model_dump(exclude={"id", "source"})
        fields["targets"] = (targets[number % len(targets)],)
        rows[place] = make_trial(number, **fields)
    assert outcome(report(tmp_path, rows), DISTINCT).passed is passes


def test_where_the_drafts_were_one_before_they_may_be_one_after(tmp_path: Path) -> None:
    rows = [row.model_copy(update={"draft": "One."}) for row in rows_of()]
    assert outcome(report(tmp_path, rows), DISTINCT).passed


@pytest.mark.parametrize("metric", ["score", "accuracy"])
@pytest.mark.parametrize("lost", [0, 1, 4])
def test_where_hardly_anything_differs_nothing_is_surely_worse(
    tmp_path: Path, metric: str, lost: int
) -> None:
    """So a guard is open, and a gate that asks for proof is closed."""
    rows = []
    for number in range(60):
        for system in ("before", "champion", "after"):
            score = float(system != "after" or number >= lost)
            group = f"g{number // 3}"
            # Each in a group of its own.
            if number < lost:
                group = f"lost {number}"
            rows.append(make_trial(number, system, score=score, group=group, draft=f"{number}"))
    for relation, passes in (("unless_worse_by", True), ("no_worse_by", False)):
        gates = [{"over": "champion", "metric": metric, relation: 0.05}]
        gate = report(tmp_path, rows, gates=gates).gates[0]
        assert gate.passed is passes, gate.reason
        assert gate.estimate is not None and gate.estimate.mean == pytest.approx(
            -lost / 60, abs=1e-6
        )
    assert passes or "could be chance" in gate.reason


RIGHT_TO_WRONG = "after over champion in right to wrong"


@pytest.mark.parametrize(("lost", "passes"), [(0, True), (3, True), (6, True), (20, False)])
def test_right_answers_of_the_champion_may_not_be_lost(
    tmp_path: Path, lost: int, passes: bool
) -> None:
    """Each third group loses some: of 60 queries `lost` go wrong, and all others become right."""
    rows = rows_of(champion=True)
    for place, row in enumerate(rows):
        number = int(row.source.split(":")[1]) - 1
        if number < lost and row.system in ("champion", "after"):
            score = 1.0 if row.system == "champion" else 0.0
            rows[place] = row.model_copy(update={"score": score})
    gate = outcome(report(tmp_path, rows), RIGHT_TO_WRONG)
    assert gate.passed is passes, gate.reason
    assert "are right with the champion and wrong with the challenger" in gate.reason
    assert gate.estimate is not None and gate.estimate.mean == pytest.approx(lost / 60, abs=1e-6)


def test_a_gate_on_the_same_metric_takes_the_place_of_a_guard(tmp_path: Path) -> None:
    gates = [
        {"over": "champion", "metric": "right_to_wrong", "no_worse_by": 0.001},
        {"metric": "distinct", "above": 0.9},
    ]
    found = report(tmp_path, rows_of(champion=True), gates=gates)
    assert [gate.name for gate in found.gates] == [RIGHT_TO_WRONG, DISTINCT.replace("0.2", "0.9")]


@pytest.mark.parametrize(
    "gate",
    [
        {"over": "champion", "metric": "right_to_wrong", "slice": "kind=a", "no_worse_by": 0.9},
        {"of": "before", "over": "champion", "metric": "right_to_wrong", "no_worse_by": 0.9},
    ],
)
def test_a_gate_on_some_queries_or_another_system_takes_no_guards_place(
    gate: dict[str, Any],
) -> None:
    rules = parse(Rules, {"gates": [gate]}, "compare")
    assert Gate(over="champion", metric="right_to_wrong", unless_worse_by=0.1) in rules.all_gates(
        choices=False, champion=True
    )


@pytest.mark.parametrize(("system", "passes"), [(None, True), ("after", False), ("before", False)])
def test_drafts_are_counted_though_questions_fail_that_fail_for_all(
    tmp_path: Path, system: str | None, passes: bool
) -> None:
    """A content filter that refuses the same questions whoever drafts closes no gate."""
    failed = {"failed": "solo: refused", "refinement": None, "score": None, "solo": None}
    rows = rows_of(champion=True)
    for place in range(0, 9):
        if system is None or rows[place].system == system:
            rows[place] = rows[place].model_copy(update=failed)
    gate = outcome(report(tmp_path, rows), DISTINCT)
    assert gate.passed is passes, gate.reason
    assert passes or "5.0% on one side alone" in gate.reason


def test_settings_are_read_as_yaml() -> None:
    """As a person would write them."""
    written = """\
    gates:
      - {over: champion, better_by: 0.005}
      - {over: champion, metric: length, no_worse_by: 40}
      - {metric: unparseable, under: 0.05}
      - {above: 0.6}
    """
    rules = parse(Rules, yaml.safe_load(written), "compare")
    assert [gate.name for gate in rules.gates] == [
        "after over champion",
        "after over champion in length",
        "unparseable share of after under 0.05",
        "score of after above 0.6",
    ]
