"""General questions that policies answer alone: asked, folded, and held by gates."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cowest import io
from cowest.config import parse
from cowest.errors import ConfigError, ContractError, CoWestError
from cowest.gates import GUARD_OF_PROBE, Gate, Rules
from cowest.models.scripted import ScriptedConfig, ScriptRule
from cowest.power import is_weak, told_by
from cowest.probe import ProbeConfig, asked_alone, probed, questions_in
from cowest.records import EvalReport, GateResult
from cowest.report import words
from cowest.report_parts import ProbeAnswer, ProbeSystem
from cowest.stages import compare
from tests.factories import make_trial
from tests.lines import ROOT

NAME = GUARD_OF_PROBE.name
VERSIONS = {"before": "b" * 64, "after": "a" * 64, "champion": "c" * 64}
ROW = {"question": "What is the capital of Italy?", "targets": ["Rome"], "kind": "capitals"}


def written(folder: Path, *rows: Any) -> Path:
    text = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    (folder / "general.jsonl").write_text(text)
    return folder


def answers_of(system: ProbeSystem, scores: list[float | None], **fields: Any) -> list[ProbeAnswer]:
    """One answer per score; None is a failed one."""
    rows = []
    for number, score in enumerate(scores):
        values: dict[str, Any] = {
            "system": system,
            "version": VERSIONS.get(system),
            "model": f"policy@{system}",
            "question": f"What is {number} plus 1?",
            "targets": (str(number + 1),),
            "kind": "sums" if number % 2 else None,
            "answer": None if score is None else "2",
            "failed": "too long" if score is None else None,
            "score": score,
            "scorer": "contains:2",
            "file": "f" * 64,
            "questions": len(scores),
        }
        rows.append(ProbeAnswer(**values | fields))
    return rows


def judged(
    folder: Path, rows: list[ProbeAnswer] | None, *, champion: bool = True, **rules: Any
) -> EvalReport:
    """The report of `compare` on trials in which the challenger is better than all others."""
    trials = []
    for number in range(20):
        for system in ("before", "after", "champion") if champion else ("before", "after"):
            score = 1.0 if system == "after" else 0.0
            draft, version = f"Plant {number}.", VERSIONS[system]
            trials.append(make_trial(number, system, score=score, draft=draft, version=version))
    io.write(folder / "trials.jsonl", trials)
    given = None
    if rows is not None:
        given = folder / "probe.jsonl"
        io.write(given, rows)
    config = parse(Rules, rules, "compare")
    compare.main(folder / "trials.jsonl", folder / "eval.json", config, probe=given)
    return io.read_document(folder / "eval.json", EvalReport)


def outcome(report: EvalReport, name: str = NAME) -> GateResult:
    (found,) = [gate for gate in report.gates if gate.name == name]
    return found


def right(count: int, of: int = 300) -> list[float | None]:
    return [1.0] * count + [0.0] * (of - count)


def test_questions_are_asked_as_they_are_and_scored(tmp_path: Path) -> None:
    other = {"question": "What is the capital of Norway?", "targets": ["Oslo"]}
    hard = {"question": "What is the capital of Nauru?", "targets": ["Yaren"]}
    found = questions_in(written(tmp_path, ROW, other, hard), ProbeConfig(file="general.jsonl"))
    rules = (
        ScriptRule(match="^What is the capital of Italy\\?$", replies=("It is Rome, I think.",)),
        ScriptRule(match="Norway", replies=("Not Oslo.",)),
        ScriptRule(match="", failed="out of order"),
    )
    with ScriptedConfig(rules=rules).open() as model:
        rows = list(asked_alone(found, model, "base", None))
    assert [(row.score, row.failed) for row in rows] == [
        (1.0, None),
        (0.0, None),
        (None, "out of order"),
    ]
    assert [row.kind for row in rows] == ["capitals", None, None]
    assert {(row.model, row.questions, row.file) for row in rows} == {(model.name, 3, found.digest)}


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "has 0 questions: a probe has 1 to 10,000"),
        ([ROW, ROW], "has the question 'What is the capital of Italy\\?' 2 times"),
        ([ROW, "{"], r"general\.jsonl:2 is not a ProbeQuestion"),
        ([ROW | {"targets": []}], r"general\.jsonl:1 is not a ProbeQuestion: targets"),
        ([ROW | {"targets": ["Rome", " "]}], "targets: .*an empty text"),
        ([ROW | {"question": " "}], "question: .*an empty text"),
        ([ROW | {"answer": "Rome"}], r"general\.jsonl:1 is not a ProbeQuestion: answer"),
        ([ROW, {"question": "Why?", "targets": "Rome"}], r"general\.jsonl:2 is not a"),
        (['{"question": "\\ud800?", "targets": ["Rome"]}\n'], r"general\.jsonl:1 is not a"),
    ],
)
def test_a_file_that_asks_nothing_sound_is_refused(
    tmp_path: Path, rows: list[Any], says: str
) -> None:
    with pytest.raises(CoWestError, match=says):
        questions_in(written(tmp_path, *rows), ProbeConfig(file="general.jsonl"))


def test_a_file_that_no_turn_would_know_is_refused(tmp_path: Path) -> None:
    for name in ("../general.jsonl", "/general.jsonl", ".general.jsonl", "a/.b/general.jsonl"):
        with pytest.raises(ConfigError, match="no turn would know its version"):
            parse(ProbeConfig, {"file": name}, "evaluate.probe")
    config = ProbeConfig(file="general.jsonl")
    with pytest.raises(CoWestError, match=r"no such file: evaluate\.probe names it"):
        questions_in(tmp_path, config)
    written(tmp_path, ROW)
    with pytest.raises(CoWestError, match=r"is a file: put it into a folder"):
        questions_in(tmp_path / "general.jsonl", config)


def test_the_demos_questions_are_enough_and_none_says_its_answer() -> None:
    found = questions_in(ROOT / "data/raw/handbook", ProbeConfig(file="general.jsonl"))
    assert len(found.rows) >= 300
    echo = ScriptedConfig(rules=(ScriptRule(match="(?s).*", replies=("{0}",)),))
    with echo.open() as model:
        assert not [one for one in asked_alone(found, model, "base", None) if one.score]


@pytest.mark.parametrize(
    ("after", "passes"), [(150, True), (145, True), (140, True), (115, False), (0, False)]
)
def test_a_challenger_that_is_surely_worse_than_the_champion_is_refused(
    tmp_path: Path, after: int, passes: bool
) -> None:
    """Though its score on the domain is better."""
    rows = [*answers_of("champion", right(150)), *answers_of("after", right(after))]
    report = judged(tmp_path, rows)
    gate = outcome(report)
    assert (gate.passed, report.passed) == (passes, passes), gate.reason
    assert gate.reason.startswith(
        "300 general questions, each policy alone: the challenger minus the champion: difference "
    )
    assert gate.at_least == -0.05
    known = words.general(report)
    assert known is not None
    assert f"the challenger's policy {after / 300:.3f}, the champion's policy 0.500" in known


def test_a_first_champion_is_held_to_what_is_asked_of_it(tmp_path: Path) -> None:
    rows = [*answers_of("base", right(200)), *answers_of("after", right(60))]
    gate = outcome(judged(tmp_path, rows, champion=False))
    assert (gate.passed, gate.reason) == (None, "does not apply: there is no champion yet")
    for asked, passes in (
        ({"above": 0.1}, True),
        ({"above": 0.2}, False),
        ({"over": "base", "unless_worse_by": 0.5}, True),
        ({"over": "base", "unless_worse_by": 0.3}, False),
        ({"over": "base", "no_worse_by": 0.5}, False),
        ({"over": "before", "no_worse_by": 0.1}, False),
    ):
        named = Gate(metric="probe", **asked)
        given = [{"over": "before"}, {"metric": "probe", **asked}]
        report = judged(tmp_path, rows, champion=False, gates=given)
        assert outcome(report, named.name).passed is passes, asked
        assert NAME not in [gate.name for gate in report.gates], "it takes the guard's place"


@pytest.mark.parametrize(
    ("asked", "questions", "lost", "says"),
    [
        ({"over": "champion", "unless_worse_by": 0.05}, 60, 9, "closes from 9 lost answers on"),
        ({"over": "champion", "unless_worse_by": 0.05}, 300, 25, "(0.083), if none is gained"),
        ({"over": "champion", "unless_worse_by": 1.0}, 60, None, "nothing closes it"),
    ],
)
def test_the_fewest_lost_answers_that_close_a_guard_are_said(
    tmp_path: Path, asked: dict[str, Any], questions: int, lost: int | None, says: str
) -> None:
    for fewer in (1, 0):
        count = questions if lost is None else lost - fewer
        rows = answers_of("champion", right(questions, questions))
        rows += answers_of("after", right(questions - count, questions))
        gate = outcome(
            judged(tmp_path, rows, gates=[{"metric": "probe", **asked}]),
            Gate(metric="probe", **asked).name,
        )
        assert gate.passed is (lost is None or fewer == 1)
        assert f"with {questions} questions" in gate.reason and says in gate.reason


@pytest.mark.parametrize(
    ("asked", "questions", "weak", "says"),
    [
        ({"over": "base", "no_worse_by": 0.05}, 60, True, "lower end is -0.060 where no answer"),
        ({"over": "base", "no_worse_by": 0.05}, 72, False, "lower end is -0.050 where no answer"),
        ({"above": 0.95}, 60, True, "the lower end is 0.940 where all are right"),
        ({"above": 0.9}, 60, False, "the lower end is 0.940 where all are right"),
        ({"over": "champion", "unless_worse_by": 0.05}, 299, True, "closes from 25 lost"),
        ({"over": "champion", "unless_worse_by": 0.05}, 300, False, "closes from 25 lost"),
        ({"over": "champion", "better_by": 0.05}, 60, False, None),
    ],
)
def test_few_questions_prove_little(
    asked: dict[str, Any], questions: int, weak: bool, says: str | None
) -> None:
    gate = Gate(metric="probe", **asked)
    assert is_weak(gate, questions) is weak
    told = told_by(gate, questions)
    assert told is None if says is None else told is not None and says in told


def test_equal_answers_are_no_loss(tmp_path: Path) -> None:
    rows = [*answers_of("champion", right(150)), *answers_of("after", right(150))]
    for asked in ({"unless_worse_by": 0.0}, {"no_worse_by": 0.05}):
        gates = [{"over": "champion", "metric": "probe", **asked}]
        assert outcome(judged(tmp_path, rows, gates=gates)).passed


def test_without_evidence_the_gate_is_closed(tmp_path: Path) -> None:
    champion, after = answers_of("champion", right(150)), answers_of("after", right(150))
    gone: list[float | None] = [None] * 6
    few = [*answers_of("champion", right(5, 9)), *answers_of("after", right(5, 9))]
    closed = {
        "of both the challenger and the champion": after,
        "2.0% on one side alone": [*champion, *answers_of("after", right(150, 294) + gone)],
        "9 general questions were compared": few,
        "no query has an answer to a general question": [
            *champion,
            *answers_of("after", [None] * 300),
        ],
    }
    for says, rows in closed.items():
        gate = outcome(judged(tmp_path, rows))
        assert gate.passed is False
        assert gate.reason.startswith("closed: ") and says in gate.reason, gate.reason
    for rows in (None, []):
        gates = [{"over": "champion", "metric": "probe", "unless_worse_by": 0.9}]
        report = judged(tmp_path, rows, gates=gates)
        assert report.probe is None
        assert outcome(report).passed is False
        assert "(evaluate.probe) of both" in outcome(report).reason
        assert NAME not in [gate.name for gate in judged(tmp_path, rows).gates]


def cut(rows: list[ProbeAnswer]) -> list[ProbeAnswer]:
    return rows[:-1]


def another_version(rows: list[ProbeAnswer]) -> list[ProbeAnswer]:
    return [row.model_copy(update={"version": "0" * 64}) for row in rows]


def other_questions(rows: list[ProbeAnswer]) -> list[ProbeAnswer]:
    return [*rows[:-1], rows[-1].model_copy(update={"question": "Why?"})]


def a_question_twice(rows: list[ProbeAnswer]) -> list[ProbeAnswer]:
    return [*rows[:-1], rows[0]]


def of_two_files(rows: list[ProbeAnswer]) -> list[ProbeAnswer]:
    return [row.model_copy(update={"file": "0" * 64}) for row in rows]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (cut, "has 19 answers of 'after' to 20 questions"),
        (another_version, "is of another version of 'after' than the trials \\(000000000000\\)"),
        (other_questions, "it is not whole: run evaluate again"),
        (a_question_twice, "it is not whole: run evaluate again"),
        (of_two_files, "has answers to two files"),
    ],
)
def test_answers_that_are_not_whole_or_of_something_else_are_refused(
    tmp_path: Path, spoil: Callable[[list[ProbeAnswer]], list[ProbeAnswer]], says: str
) -> None:
    rows = [*answers_of("champion", right(9, 20)), *spoil(answers_of("after", right(9, 20)))]
    io.write(tmp_path / "probe.jsonl", rows)
    with pytest.raises(ContractError, match=says):
        probed(tmp_path / "probe.jsonl", {name: {one} for name, one in VERSIONS.items()})


def test_kinds_are_told_apart(tmp_path: Path) -> None:
    rows = [*answers_of("base", [1.0, 0.0, 1.0, None]), *answers_of("after", [0.0, 1.0, 0.0, 1.0])]
    found = judged(tmp_path, rows, champion=False).probe
    assert found is not None
    assert (found.questions, found.kinds) == (4, {"sums": 2})
    base, after = found.systems["base"], found.systems["after"]
    assert (base.score, base.failed, base.kinds) == (pytest.approx(2 / 3, abs=1e-6), 1, {"sums": 0})
    assert (after.score, after.failed, after.kinds) == (0.5, 0, {"sums": 1.0})


@pytest.mark.parametrize(
    ("gate", "says"),
    [
        ({"over": "base"}, "the base model answers general questions alone"),
        ({"over": "strong", "metric": "probe"}, "strong answers no general question"),
        ({"of": "ideal", "over": "base", "metric": "probe"}, "ideal answers no general question"),
        ({"over": "best_single", "metric": "probe"}, "name one by probe"),
        ({"over": "champion", "metric": "probe", "slices": "kind"}, "none of the queries' tags"),
        ({"metric": "probe", "under": 0.5}, "of probe more is better"),
    ],
)
def test_a_gate_that_means_nothing_is_refused(gate: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse(Rules, {"gates": [gate]}, "compare")
