"""Intervals, paired differences, transitions, gates: what they say on data whose answer is
known.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cowest import evaluation, intervals, io
from cowest.config import parse
from cowest.errors import ConfigError, ContractError
from cowest.gates import BEST, Gate, Rules
from cowest.records import EvalReport, Trial
from tests.factories import make_trial, write_report

GATES = (
    Gate(over="before", at_least=0.0),
    Gate(over="best_single", at_least=0.0),
    Gate(over="champion", at_least=-0.05),
)


def trials(
    count: int = 40,
    per_group: int = 4,
    before: float = 0.0,
    after: float = 1.0,
    ideal: float | None = 1.0,
) -> list[list[Trial]]:
    """Queries in groups; before scores `before` on all but each fourth, where it is right."""
    queries = []
    for number in range(count):
        group = {
            "group": f"g{number // per_group}",
            "tags": ("even" if number % 2 == 0 else "odd",),
        }
        rows = [
            make_trial(number, "before", score=1.0 if number % 4 == 0 else before, **group),
            make_trial(number, "after", score=after, **group),
        ]
        if ideal is not None:
            rows.append(make_trial(number, "ideal", score=ideal, **group))
        queries.append(rows)
    return queries


def rules(gates: tuple[Gate, ...], **fields: Any) -> Rules:
    """Rules that ask for no number of groups and let rows fail, unless the fields say otherwise."""
    return Rules(
        **{
            "gates": gates,
            "draws": 2000,
            "min_groups": 1,
            "max_failed_gap": 1,
            "guards": False,
            "promote_everything": not gates,
            **fields,
        }
    )


def report(queries: list[list[Trial]], gates: tuple[Gate, ...] = GATES) -> EvalReport:
    return evaluation.compare(evaluation.gather(queries), rules(gates))


def changed(row: Trial, **fields: object) -> Trial:
    return Trial(**{**row.model_dump(), **fields})


def interval(
    values: "np.ndarray[tuple[int], np.dtype[np.float64]]", groups: list[str]
) -> tuple[float, float]:
    (found,) = intervals.estimates(groups, [intervals.mean_of(values)])
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def test_interval_agrees_with_theory_for_independent_queries():
    values = np.random.default_rng(1).normal(0.5, 0.2, 400)
    low, high = interval(values, [str(n) for n in range(400)])
    error = values.std() / np.sqrt(400)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_queries_that_share_their_luck_do_not_narrow_the_interval():
    luck = np.random.default_rng(2).normal(0.5, 0.2, 40)
    alone = interval(luck, [str(n) for n in range(40)])
    repeated = interval(np.repeat(luck, 10), [str(n // 10) for n in range(400)])
    assert repeated == pytest.approx(alone, abs=1e-9)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    hits, rng = 0, np.random.default_rng(3)
    for _ in range(200):
        luck = rng.normal(0.0, 1.0, 60)
        low, high = interval(
            np.repeat(luck, 3) + rng.normal(0.0, 0.5, 180),
            [str(n // 3) for n in range(180)],
        )
        hits += low <= 0.0 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_nothing_of_a_report_is_random_and_the_settings_of_resampling_change_nothing():
    queries = trials()
    again = evaluation.compare(evaluation.gather(trials()), rules(GATES))
    other = evaluation.compare(evaluation.gather(queries), rules(GATES, seed=1, draws=9000))
    assert report(queries) == again
    assert other.comparisons == again.comparisons
    assert other.gates == again.gates


def test_means_differences_and_the_gap():
    found = report(trials())
    assert found.systems["before"].mean == 0.25
    assert found.systems["after"].mean == 1.0
    assert found.systems["strong"].mean == 0.0
    assert found.comparisons["after_minus_before"].mean == 0.75
    assert found.comparisons["after_minus_best_single"].over == "policy_before"
    assert found.gap_closed is not None
    assert found.gap_closed.mean == 1.0
    assert (found.queries, found.groups) == (40, 10)
    assert found.tags["even"]["before"].mean == 0.5
    assert found.tags["odd"]["before"].queries == 20
    assert found.policies == {
        "before": "policy@before",
        "after": "policy@after",
        "ideal": "policy@ideal",
    }


def test_gap_is_a_share_of_the_room_there_was():
    found = report(
        [
            [
                make_trial(n, "before", score=0.2),
                make_trial(n, "after", score=0.5),
                make_trial(n, "ideal", score=0.8),
            ]
            for n in range(9)
        ]
    )
    assert found.gap_closed is not None
    assert found.gap_closed.mean == pytest.approx(0.5)
    assert report(trials(ideal=None)).gap_closed is None
    assert (
        report(
            [
                [make_trial(n, "before"), make_trial(n, "after"), make_trial(n, "ideal")]
                for n in range(9)
            ]
        ).gap_closed
        is None
    )


def test_pairs_use_only_queries_that_both_have():
    queries = trials()
    queries[0][1] = changed(queries[0][1], failed="refine: timeout", refinement=None, score=None)
    queries[1] = [row for row in queries[1] if row.system != "ideal"]
    found = report(queries)
    assert found.comparisons["after_minus_before"].queries == 39
    assert found.comparisons["after_minus_before"].left_out == 1
    assert found.comparisons["ideal_minus_after"].left_out == 2
    assert found.systems["before"].queries == 40
    assert (
        found.systems["policy_after"].queries == 39
    )  # its draft was scored, and a failed row counts for nothing
    assert found.gap_closed is not None
    assert found.gap_closed.queries == 38
    assert found.failed == {"after": {"refine: timeout": 1}}


def test_one_group_has_no_interval_and_passes_no_gate():
    found = report(trials(count=8, per_group=8))
    assert found.systems["after"].low is None
    assert "one group" in (found.systems["after"].note or "")
    assert found.gates[0].passed is False
    assert "closed, as there is no interval" in found.gates[0].reason
    assert not found.passed


def test_gates_judge_the_lower_end():
    queries = [
        [
            make_trial(n, "before", score=float(n % 2)),
            make_trial(n, "after", score=float(n % 2 or n % 8 == 0)),
        ]
        for n in range(40)
    ]
    difference = report(queries).comparisons["after_minus_before"]
    assert difference.low is not None
    assert 0 < difference.low < difference.mean == pytest.approx(0.125)
    near = report(
        queries,
        (
            Gate(over="before", at_least=difference.low),
            Gate(over="before", at_least=difference.low + 0.01),
        ),
    )
    assert [gate.passed for gate in near.gates] == [True, False]
    assert near.passed is False


def test_a_champion_is_judged_where_there_is_one():
    queries = trials()
    without = report(queries)
    assert without.gates[2].passed is None
    assert "no champion" in without.gates[2].reason
    assert without.passed
    better = report([[*rows, changed(rows[0], system="champion")] for rows in queries])
    assert better.gates[2].passed is True
    same = report([[*rows, changed(rows[1], system="champion")] for rows in queries])
    assert same.gates[2].passed is False
    assert "0 groups differ, and fewer than 5 could be chance" in same.gates[2].reason
    worse = report(
        [[*rows, changed(rows[0], system="champion", score=1.0)] for rows in trials(after=0.5)]
    )
    assert worse.gates[2].passed is False
    assert not worse.passed


def test_best_single_is_the_better_of_policy_and_strong():
    rows = [
        [
            make_trial(n, "before", solo_score=0.9, draft_score=0.2),
            make_trial(n, "after", solo_score=0.9, draft_score=0.3),
        ]
        for n in range(8)
    ]
    found = report(rows)
    assert found.comparisons[f"after_minus_{BEST}"].over == "strong"
    assert found.comparisons[f"after_minus_{BEST}"].mean == pytest.approx(0.1)
    assert "the best single model is the strong model alone" in found.gates[1].reason


def test_transitions_count_what_drafts_did():
    rows = [
        [
            make_trial(0, "before"),
            make_trial(0, refinement="Italy", solo="France", score=1.0, solo_score=0.0),
        ],
        [
            make_trial(1, "before"),
            make_trial(1, refinement="Spain", solo="Italy", score=0.0, solo_score=1.0),
        ],
        [
            make_trial(2, "before"),
            make_trial(2, refinement="italy.", solo="Italy", score=1.0, solo_score=0.5),
        ],
        [
            make_trial(3, "before"),
            make_trial(3, refinement="Milan", solo="Milan", score=0.4, solo_score=0.0),
        ],
    ]
    found = report(rows).transitions["after"]
    assert (
        found.wrong_to_right,
        found.right_to_wrong,
        found.right_to_right,
        found.wrong_to_wrong,
    ) == (1, 1, 1, 1)
    assert (found.adopted, found.copied, found.ignored) == (3, 1, 1)


@pytest.mark.parametrize(
    ("draft", "refinement", "solo", "expected"),
    [
        ("It is built in Milan.", "Italy", "France", ("adopted",)),
        ("It is Italy.", "ITALY", "Italy", ("adopted", "copied")),
        ("It is Italy.", "Ital", "Ital", ("ignored",)),
        ("Built in South Korea", "south  korea!", "Japan", ("adopted", "copied")),
        ("", "", "", ("ignored",)),
        ("anything", "", "Italy", ("adopted",)),
    ],
)
def test_adoption(draft, refinement, solo, expected):
    assert evaluation.adoption(draft, refinement, solo) == expected


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ({"scorer": "token_f1"}, "2 scorers"),
        ({"strong": "another"}, "2 strong models"),
        ({"policy": "another"}, "several policies"),
    ],
)
def test_rows_that_do_not_belong_together_are_refused(spoil, said):
    queries = trials(count=8)
    queries[3][1] = changed(queries[3][1], **spoil)
    with pytest.raises(ContractError, match=said):
        report(queries)


def test_nothing_to_compare_is_refused():
    with pytest.raises(
        ContractError, match="no good trial of system 'after' to compare: there are none"
    ):
        report([[make_trial(0, "before")]])
    with pytest.raises(ContractError, match="all 1 of them failed"):
        report(
            [
                [
                    make_trial(0, "before"),
                    make_trial(0, failed="draft: refused", draft=None, refinement=None, score=None),
                ]
            ]
        )


def test_gates_name_systems_that_exist():
    with pytest.raises(ConfigError, match=r"gates\.0\.over"):
        parse(Rules, {"gates": [{"over": "yesterday", "at_least": 0}]}, "compare")
    with pytest.raises(ConfigError, match="always 0"):
        parse(Rules, {"gates": [{"over": "after", "at_least": 0}]}, "compare")


def test_the_stage_counts_failures_and_says_what_to_do(tmp_path: Path):
    queries = trials(count=12)
    queries[2][1] = changed(queries[2][1], failed="refine: timeout", refinement=None, score=None)
    io.write(tmp_path / "trials.jsonl", (row for rows in queries for row in rows))
    with pytest.raises(
        ContractError, match=r"1 of 36 trials failed.*1 x after: refine: timeout.*evaluate again"
    ):
        write_report(
            tmp_path / "trials.jsonl",
            tmp_path / "eval.json",
            Rules(gates=GATES, max_failed=0),
        )
    assert not (tmp_path / "eval.json").exists()
    for most in (1, None):
        write_report(
            tmp_path / "trials.jsonl",
            tmp_path / "eval.json",
            Rules(gates=GATES, max_failed=most),
        )
        assert io.read_document(tmp_path / "eval.json", EvalReport).failed["after"] == {
            "refine: timeout": 1
        }


def test_the_strong_model_is_judged_by_this_turns_prompts_alone():
    """A champion's prompts may be older, and what the strong model said to those is another
    system's score.
    """
    queries = trials()
    for rows in queries:
        rows[:] = [changed(row, solo_score=1.0) for row in rows]
        rows.append(
            make_trial(
                queries.index(rows),
                "champion",
                score=1.0,
                solo_score=0.0,
                group=rows[0].group,
                tags=rows[0].tags,
            )
        )
    assert report(queries).systems["strong"].mean == 1.0


def test_a_champions_solo_is_never_the_strong_model_alone_not_even_where_it_is_the_only_one(
    tmp_path: Path,
):
    """Where before and after failed and the champion did not, no answer counts for the strong
    model: not among its choices, and not among its scores. Nor does a champion's solo count where
    its row comes first, as it does if its prompts have the lower digest.
    """
    fields = {"choices": ("red", "blue"), "targets": ("red",), "scorer": "choice", "draft": "red"}
    failed = {"failed": "refine: timeout", "refinement": None, "score": None}
    champion = {"refinement": "A", "solo": "B", "solo_score": 0.0}
    good = {"refinement": "A", "solo": "A", "solo_score": 1.0}
    rows = [
        make_trial(0, "before", **fields, **failed),
        make_trial(0, "after", **fields, **failed),
        make_trial(0, "champion", **fields, **champion),
        make_trial(1, "champion", **fields, **champion),
        make_trial(1, "before", **fields, **good),
        make_trial(1, "after", **fields, **good),
    ]
    io.write(tmp_path / "trials.jsonl", rows)
    write_report(tmp_path / "trials.jsonl", tmp_path / "eval.json", Rules())
    found = io.read_document(tmp_path / "eval.json", EvalReport)
    strong = found.choices["strong"]
    assert (strong.right, strong.wrong, strong.unparseable) == (1, 0, 0)
    assert (found.systems["strong"].queries, found.systems["strong"].mean) == (1, 1.0)
    assert found.choices["champion"].right == found.systems["champion"].queries == 2


@pytest.mark.parametrize(
    ("system", "systems"),
    [
        ("before", ["before", "strong", "policy_before"]),
        ("after", ["after", "strong", "policy_after"]),
        ("champion", ["champion"]),
        ("ideal", ["ideal", "strong"]),
    ],
)
def test_the_systems_whose_answers_a_trial_holds(system: str, systems: list[str]):
    row = make_trial(0, system, score=0.1, solo_score=0.2, draft_score=0.3)
    found = evaluation.answers_of(row)
    assert [given.system for given in found] == systems
    texts = [(row.refinement, 0.1), (row.solo, 0.2), (row.draft, 0.3)]
    assert [(given.answer, given.score) for given in found] == texts[: len(systems)]


def test_a_champion_whose_rows_all_failed_is_no_absent_one():
    queries = trials()
    for number, rows in enumerate(queries):
        fields = {
            "failed": "draft: no power",
            "draft": None,
            "refinement": None,
            "score": None,
            "draft_score": None,
        }
        rows.append(
            make_trial(number, "champion", group=rows[0].group, tags=rows[0].tags, **fields)
        )
    (gate,) = report(queries, (Gate(of="after", over="champion", at_least=0.0),)).gates
    assert gate.passed is False and "no query has a score of both" in gate.reason


def test_an_empty_file_is_refused(tmp_path: Path):
    (tmp_path / "trials.jsonl").touch()
    with pytest.raises(ContractError, match="held-out split has no query"):
        write_report(tmp_path / "trials.jsonl", tmp_path / "eval.json", Rules(gates=GATES))


@pytest.mark.slow
def test_ten_thousand_queries_in_seconds():
    rng = np.random.default_rng(0)
    ratios = [intervals.mean_of(rng.random(10_000)) for _ in range(14)]
    started = time.monotonic()
    intervals.estimates([str(n // 2) for n in range(10_000)], ratios)
    assert time.monotonic() - started < 5  # 0.1 s on an idle core


def test_choices_are_counted_with_the_unparseable_apart_and_f1_is_by_class(tmp_path: Path):
    """Targets A A B B; after says A, B, B, nothing: F1 of A is 2/3, of B 2/4."""
    rows = []
    for number, (target, said) in enumerate(
        [("red", "A"), ("red", "B"), ("blue", "Answer: B"), ("blue", "A or B")]
    ):
        more = {
            "choices": ("red", "blue", "green"),
            "targets": (target,),
            "scorer": "choice",
            "solo": "C",
            "draft": target,
        }
        rows += [
            make_trial(number, "before", refinement=target, **more),
            make_trial(number, "after", refinement=said, **more),
        ]
    io.write(tmp_path / "trials.jsonl", rows)
    write_report(tmp_path / "trials.jsonl", tmp_path / "eval.json", Rules(gates=GATES))
    found = io.read_document(tmp_path / "eval.json", EvalReport).choices
    assert set(found) == {"strong", "before", "after", "policy_before", "policy_after"}
    after, strong, before = found["after"], found["strong"], found["policy_before"]
    assert (after.right, after.wrong, after.unparseable, after.macro_f1) == (
        2,
        1,
        1,
        pytest.approx((2 / 3 + 2 / 4) / 2, abs=1e-6),
    )
    assert (strong.right, strong.wrong, strong.unparseable, strong.macro_f1) == (0, 4, 0, 0)
    assert (before.right, before.macro_f1) == (4, 1)


def test_no_choices_are_counted_where_none_are_given(tmp_path: Path):
    io.write(tmp_path / "trials.jsonl", (row for rows in trials(count=12) for row in rows))
    write_report(tmp_path / "trials.jsonl", tmp_path / "eval.json", Rules(gates=GATES))
    assert io.read_document(tmp_path / "eval.json", EvalReport).choices == {}


@pytest.mark.parametrize("scorer", ["token_f1 after Answer:", "exact_match after Answer:"])
def test_exact_match_and_token_f1_are_both_told_whichever_decides(tmp_path: Path, scorer: str):
    """Targets `1962` and `in 1962`: after says one, shares a word of two, is wrong, and fails;
    the mean is over the rest.
    """
    rows = []
    said = ["It opened so.\nAnswer: In 1962.", "Answer: circa 1962", "Answer: 1900", "Answer: 1962"]
    for number, answer in enumerate(said):
        more = {
            "targets": ("1962", "in 1962"),
            "scorer": scorer,
            "solo": "Answer: 1962",
            "draft": "Answer: in 1962 or so",
        }
        rows.append(make_trial(number, "before", refinement="no answer at all", **more))
        for sample in (0, 1):
            failed = (
                {"failed": "timeout", "refinement": None, "score": None}
                if number == 3
                else {"refinement": answer}
            )
            rows.append(make_trial(number, "after", sample=sample, **{**more, **failed}))
    io.write(tmp_path / "trials.jsonl", rows)
    write_report(tmp_path / "trials.jsonl", tmp_path / "eval.json", Rules(gates=GATES))
    found = io.read_document(tmp_path / "eval.json", EvalReport).matches
    assert set(found) == {"strong", "before", "after", "policy_before", "policy_after"}
    after = found["after"]
    assert (after.queries, after.exact_match, after.token_f1) == (
        3,
        0.333333,
        pytest.approx((1 + 2 / 3 + 0) / 3, abs=1e-6),
    )
    assert (found["before"].exact_match, found["before"].token_f1, found["before"].queries) == (
        0,
        0,
        4,
    )
    assert (found["strong"].exact_match, found["strong"].queries) == (1, 4)
    assert (found["policy_after"].exact_match, found["policy_after"].token_f1) == (
        0,
        pytest.approx(2 / 3, abs=1e-6),
    )
