"""The second evidence's own arithmetic: what each arm says, which router is chosen by what, and
what is claimed of the runs.
"""

import json
import math
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cowest.config import Sampling
from cowest.domains import invent_sites
from cowest.preferences import PairRule
from cowest.prompts import Template
from cowest.protocols import Completion, Request
from cowest.records import Feedback, Message, Query
from tests import lines
from tests.bench.evidence import pool
from tests.bench.evidence.sites import __main__ as program
from tests.bench.evidence.sites import (
    after,
    free,
    plan,
    plots,
    report,
    routers,
    select_simulation,
    speaks,
)
from tests.bench.evidence.sites import run as runs
from tests.bench.evidence.sites.arms import TRAINED, WAYS, calls_of, pairs_of
from tests.factories import make_feedback, make_query

MADE, SHIPPED = "The Comet pump is made in Oslo.", "The Comet pump is shipped from Hanoi."


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resampled intervals are not what is tested here."""
    monkeypatch.setattr(pool, "DRAWS", 300)


def asked(text: str, number: int = 0, **fields: Any) -> Query:
    return make_query(number, text=text, group="Comet pump", **fields)


QUERY = asked("Which country's customs clear the Comet pump?")
REPLIES = {QUERY.id: {"made": MADE, "shipped": SHIPPED}}


def group(text: str, product: str, rows: list[tuple[str | None, str, float]]) -> list[Feedback]:
    """A query's rows: (candidate, draft, score)."""
    return [
        make_feedback(
            0,
            prompt=(Message(role="user", content=text.format(product=product)),),
            group=product,
            sample=sample,
            candidate=name,
            draft=draft,
            score=score,
            draft_score=0.0,
            solo_score=0.0,
        )
        for sample, (name, draft, score) in enumerate(rows)
    ]


CUSTOMS, LINE = "Which country's customs clear the {product}?", "Who assembles the {product}?"
GROUPS = [
    group(CUSTOMS, "Comet pump", [(None, "a", 0), ("made", "m", 0), ("shipped", "s", 1)]),
    group(CUSTOMS, "Acorn fan", [(None, "s", 1), ("made", "m", 0), ("shipped", "s", 1)]),
    group(LINE, "Comet pump", [(None, "a", 0), ("made", "m", 1), ("shipped", "s", 0)]),
]


def test_what_needs_no_feedback_says_what_it_is_named_for(tmp_path: Path) -> None:
    assert free.everything(REPLIES)(QUERY) == f"{MADE} {SHIPPED}"
    ships = asked("From where is it shipped?")
    known = {ships.id: REPLIES[QUERY.id]}
    assert free.nearest(known, 1)(ships) == SHIPPED
    assert free.nearest(known, 2)(ships) == f"{SHIPPED} {MADE}"
    own = {QUERY.id: ("my draft", -0.5)}
    assert free.confident(own, -0.5, lambda _: "all")(QUERY) == "my draft"
    assert free.confident(own, -0.4, lambda _: "all")(QUERY) == "all"
    invent_sites.write(tmp_path, 0)
    product = json.loads((tmp_path / "products.jsonl").read_text().splitlines()[0])
    of_it = asked("?").model_copy(update={"group": product["product"]})
    assert product["shipped"] in free.record(tmp_path)(of_it)


def test_the_threshold_is_the_best_on_dev() -> None:
    own = {"a": ("x", -0.1), "b": ("y", -0.5), "c": ("z", -2.0)}
    right_if_sure = {"a": (1.0, 0.0), "b": (1.0, 0.0), "c": (0.0, 1.0)}
    assert free.threshold_of(own, right_if_sure) == -0.5
    assert free.threshold_of(own, dict.fromkeys(own, (0.0, 1.0))) == math.inf
    assert free.threshold_of(own, dict.fromkeys(own, (1.0, 0.0))) == -2.0


class Names:
    """A strong model that names a site."""

    name = "names"

    def __init__(self, *answers: str) -> None:
        self._answers = answers

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for answer, _ in zip(self._answers, requests, strict=True):
            yield Completion(answer, self.name)


def test_the_strong_model_routes_by_the_first_site_that_it_names() -> None:
    says = free.routed([QUERY], REPLIES, Names("It is Shipped."), Sampling())
    assert says(QUERY) == SHIPPED
    says = free.routed([QUERY], REPLIES, Names("sold"), Sampling())
    assert says(QUERY) == f"{MADE} {SHIPPED}", "it names none of them"


def test_a_router_by_wording_knows_the_wordings_of_training_alone() -> None:
    entries, other = routers.table(GROUPS)
    assert entries == {CUSTOMS: "shipped", LINE: "made"}
    assert other == "shipped", "it helped in two of three questions"
    assert routers.wording(GROUPS[1][0]) == CUSTOMS
    assert routers.best_prompt(GROUPS) == "shipped"
    own = group(LINE, "Ivy fan", [(None, "x", 1), ("made", "m", 0), ("shipped", "s", 0)])
    assert routers.best_prompt([own]) == routers.OWN


def test_ridge_is_its_closed_form() -> None:
    draw = np.random.default_rng(0)
    features, targets = draw.normal(size=(5, 8)), draw.normal(size=(5, 2))
    weights, middle, level = routers.ridge(features, targets, 2.0)
    centred = features - features.mean(axis=0)
    primal = np.linalg.solve(
        centred.T @ centred + 2.0 * np.eye(8), centred.T @ (targets - targets.mean(axis=0))
    )
    assert np.allclose(weights, primal)
    assert np.allclose(middle, features.mean(axis=0)) and np.allclose(level, targets.mean(axis=0))


def test_the_ridge_router_names_what_helped_where_the_features_tell() -> None:
    train = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    named, penalty = routers.routes((train, GROUPS), (train, GROUPS), np.array([[1, 0], [0, 1.0]]))
    assert named == ["shipped", "made"] and penalty in routers.PENALTIES


def test_samples_alone_or_joined_with_candidates_are_two_sets_of_pairs_and_of_calls() -> None:
    rule, template = PairRule(per_query=2), Template()
    own = pairs_of(TRAINED["aligned"], GROUPS, rule, template, 0)
    joined = pairs_of(TRAINED["aligned_joined"], GROUPS, rule, template, 0)
    assert own == []
    assert {pair.candidates[0] for pair in joined} == {"shipped", "made", None}
    assert calls_of(TRAINED["aligned"], GROUPS, rule) == 3 * (1 + 1)
    assert calls_of(TRAINED["aligned_joined"], GROUPS, rule) == (1 + 3) + (1 + 2) + (1 + 3)
    assert calls_of(TRAINED["self_scored"], GROUPS, rule) == 0


def test_half_of_the_calls_are_half_and_the_rest_makes_no_pair() -> None:
    groups = []
    for number in range(40):
        rows: list[tuple[str | None, str, float]] = [
            (None, f"draft {sample}", float(sample == 0)) for sample in range(2 + number % 5)
        ]
        groups.append(group(f"Question {number}?", "Ivy fan", rows))
    rule = PairRule(per_query=2)
    whole = calls_of(WAYS["aligned_joined"], groups, rule)
    every = pairs_of(WAYS["aligned_joined"], groups, rule, Template(), 0)
    found = {}
    for arm in ("selected_half", "stopped_half", "random_half"):
        calls = calls_of(WAYS[arm], groups, rule)
        assert 0.45 * whole < calls <= 0.5 * whole
        found[arm] = pairs_of(WAYS[arm], groups, rule, Template(), 0)
    for arm in ("selected_half", "random_half"):
        assert {pair.id for pair in found[arm]} < {pair.id for pair in every}
    assert len(found["stopped_half"]) > len(found["selected_half"]) > len(found["random_half"])
    early = {pair.samples for pair in found["stopped_half"]}
    assert early == {(0, 1), (0, 2)}, "the first drafts make two pairs"


@pytest.mark.slow
def test_the_log_has_what_the_simulation_of_rules_gives() -> None:
    log = (lines.ROOT / "docs" / "LOG.md").read_text(encoding="utf-8").splitlines()
    found = select_simulation.lines()
    first = log.index(found[0])
    assert [line for line in log[first:] if line[:1] in "|-" and line][: len(found)] == found


def test_the_gain_that_half_of_the_calls_keeps(tmp_path: Path) -> None:
    for number, (name, ending) in enumerate((("sites-140", ""), ("select-130", " greedy"))):
        run = made_run(140, 0.4)
        scores = dict(run["scores"])
        scores["aligned"] = scores["aligned_joined"]
        scores["selected_half"] = [float(n % 10 < 5) for n in range(40)]
        scores["stopped_half"] = scores["selected_half"]
        scores["random_half"] = scores["policy"]
        run["scores"] = {key + ending: value for key, value in scores.items()}
        run["pairs"] = {
            "aligned_joined": {"calls": 100},
            "aligned": {},
            "random_half": {"calls": 50},
        }
        run["pairs"]["stopped_half"] = {"calls": 50}
        run["pairs"]["selected_half"] = {"calls": 50, "calls of all": 100}
        (tmp_path / f"{name}.json").write_text(json.dumps(run))
        found = report.saved(tmp_path)
        assert len(found) == number + 1
    for domain in ("sites", "handbook"):
        half = found[domain]["arms"]["selected_half"]
        assert half["kept"]["mean"] == pytest.approx(0.75)
        assert half["gain of 100 calls"] == pytest.approx(0.6)
        assert found[domain]["arms"]["random_half"]["kept"]["mean"] == 0
    assert "sites, 1 of 4 runs | half of the calls, as `refine.select` chooses | 50 | +0.300" in (
        "\n".join(report.saved_lines(found))
    )


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (SHIPPED, "needed"),
        ("The Comet pump is shipped from Oslo.", "needed, not as it is"),
        (MADE, "another"),
        (f"{MADE} {SHIPPED}", "several"),
        ("That would be Vietnam.", "guess"),
        ("Please see your Fenwrath manual.", "letter"),
        ("Hm.", "none of them"),
    ],
)
def test_what_a_draft_says_has_a_name(text: str, word: str) -> None:
    query = asked("?", ideal=SHIPPED, tags=("shipped", "country", "seen"))
    assert runs.said(text, query) == word
    assert word in plots.KINDS, "the figure shows it"


def made_run(seed: int, gain: float, count: int = 40) -> dict[str, Any]:
    """A run of which the headline arm is right in `gain` more than the table."""
    tags = [["made", "country", "new" if number % 2 else "seen"] for number in range(count)]
    base = [float(number % 10 < 2) for number in range(count)]
    better = [float(number % 10 < 2 + round(10 * gain)) for number in range(count)]
    scores = {"policy": base, "table": base, "aligned_joined": better, "ideal": [1.0] * count}
    scores |= {"strong alone": [0.0] * count, "everything": base, "record": [0.0] * count}
    return {
        "settings": plan.Settings(seed=seed).model_dump(mode="json"),
        "products": [f"p{number // 8}" for number in range(count)],
        "tags": tags,
        "scores": scores,
        "second": {"scores": {**scores, "aligned_joined": base}},
        "says": {},
        "pairs": {},
        "agreement": {},
        "costs": {},
    }


def test_a_claim_needs_every_run_and_its_lower_t_bound() -> None:
    few = report.folded([made_run(140, 0.4)], 8)
    assert few["claims"] == [] and few["comparator"] == "everything"
    assert "1 of 8 runs are made, and nothing is claimed" in report.tables(few)["claims"]
    sure = report.folded([made_run(140 + number, 0.4) for number in range(8)], 8)
    assert [claim["shown"] for claim in sure["claims"]] == [True, True]
    none = report.folded([made_run(140 + number, 0.0) for number in range(8)], 8)
    assert "at least 0.15 (new): **refuted**" in report.tables(none)["claims"]
    wide = [made_run(140 + number, 0.8 if number % 2 else 0.0) for number in range(8)]
    unsure = report.folded(wide, 8)
    assert unsure["differences"]["all"]["comparator"]["mean"] == pytest.approx(0.4)
    assert unsure["differences"]["all"]["comparator"]["t_low"] < 0.10
    assert [claim["shown"] for claim in unsure["claims"]] == [False, False]
    assert "**not shown**" in report.tables(unsure)["claims"]
    whole = pool.gap_closed(wide[:2], "policy", "aligned_joined", "aligned_joined")
    assert whole["low"] == whole["high"] == 1.0, "draws without a gain have no share of it"


def test_wordings_are_told_apart_and_the_second_model_keeps_its_share() -> None:
    run = made_run(140, 0.4)
    new = report.of_wording(run, "new")
    assert len(new["products"]) == len(new["scores"]["table"]) == 20
    assert all(tags[2] == "new" for tags in np.array(run["tags"])[1::2].tolist())
    second = run["second"]["scores"]
    run["scores"]["sft_on_chosen"] = run["scores"]["aligned_joined"]
    second["sft_on_chosen"] = [float(number % 10 < 3) for number in range(40)]
    found = report.folded([run, run], 8)
    shares = {name: found["kept"][name]["mean"] for name in found["kept"]}
    assert shares == {"aligned_joined": 0.0, "sft_on_chosen": 0.25, "ideal": 1.0}
    assert found["kept"]["sft_on_chosen"]["t_low"] == 0.25, "both runs keep as much"
    (row,) = [
        line for line in report.tables(found)["systems"].splitlines() if "SFT on the chosen" in line
    ]
    assert row.split("|")[-2].startswith(" 0.250 [") and row.count("|") == 7


def test_what_the_drafts_say_is_counted_over_all_runs() -> None:
    runs_made = [made_run(140, 0.4), made_run(141, 0.4)]
    runs_made[0]["says"] = {"table": {"needed": 3, "letter": 1}}
    runs_made[1]["says"] = {"table": {"needed": 4}}
    found = report.said(runs_made, ["table", "strong alone"])
    assert found == {"table": {"needed": 0.875, "letter": 0.125}}


def cost(calls: int, cpu: float) -> dict[str, float]:
    """A step's cost: a call of the strong model has 100 tokens."""
    return {"strong_calls": calls, "strong_tokens": 100 * calls, "cpu_seconds": cpu, "begun": 1}


def costly_run(seed: int, gain: float) -> dict[str, Any]:
    """A run with arms of every kind and what their steps took."""
    run = made_run(seed, gain)
    scores = run["scores"]
    for arm in ("aligned", "self_scored", "grpo", "likelihood", "ridge"):
        scores[arm] = scores["aligned_joined"]
        run["second"]["scores"][arm] = scores["policy"]
    run["pairs"] = {
        "aligned_joined": {"pairs": 70, "calls": 200},
        "aligned": {"pairs": 30, "calls": 50},
        "self_scored": {"pairs": 9, "calls": 0},
    }
    run["costs"] = {
        "draft_train": cost(0, 10),
        "refine_train": cost(200, 40),
        "score_train": cost(0, 1),
        "draft_dev": cost(0, 1),
        "refine_dev": cost(60, 5),
        "score_dev": cost(0, 1),
        "train_aligned_joined": cost(0, 100),
        "train_aligned": cost(0, 50),
        "train_self_scored": cost(0, 20),
        "train_grpo": cost(180, 150),
        "held_direct": cost(0, 8),
        "held_likelihood": cost(0, 30) | {"calls": 160, "prompt_tokens": 9000},
    }
    for arm in ("aligned_joined", "aligned", "self_scored", "grpo"):
        run["costs"][f"held_policy_{arm}"] = cost(0, 2)
    run["costs"]["held_ridge"] = cost(0, 2)
    return run


def test_calls_tokens_and_cpu_time_stand_beside_the_scores() -> None:
    runs = [costly_run(140, 0.4), costly_run(141, 0.4)]
    runs[1]["costs"]["train_grpo"] |= {"strong_calls": 100, "strong_tokens": 10000, "begun": 2}
    found = report.folded(runs, 8)
    once = {}
    for arm, row in found["costs"].items():
        once[arm] = [row[name] for name in ("strong_calls", "strong_tokens", "pairs")]
        once[arm] += [row["cpu_seconds"]]
    assert once == {
        "aligned_joined": [200, 20000, 70, 10 + 40 + 1 + 100],
        "aligned": [50, 5000, 30, 10 + 40 / 4 + 1 + 50],
        "self_scored": [0, 0, 9, 10 + 1 + 20],
        "grpo": [140, 14000, 0, 150],
        "likelihood": [0, 0, 0, 0],
        "ridge": [260, 26000, 0, 10 + 40 + 1 + 7],
    }, "an arm without its steps' costs is left out"
    read = found["costs"]["likelihood"]
    names = ("drafting_calls", "drafting_tokens", "drafting_cpu_seconds")
    assert [read[name] for name in names] == [160, 9000, 38]
    table = report.tables(found)["costs"]
    assert "| GRPO | 0.600 | 140 | 14,000 | 0 | 150 | 0 | 0 | 2 |" in table
    assert "CPU time since a step was begun again: 141 train_grpo." in table


def test_the_arm_of_own_samples_is_compared_with_the_comparator_too() -> None:
    runs = [costly_run(140, 0.4), costly_run(141, 0.2)]
    for run in runs:
        run["scores"]["likelihood"] = run["scores"]["everything"]
        run["scores"]["aligned_joined"] = [1.0] * 40
    found = report.folded(runs, 8)
    assert found["differences"]["all"][report.ALIGNED_OVER]["mean"] == pytest.approx(0.3)
    assert "less comparator: everything | +0.300" in report.tables(found)["differences"]


def test_when_to_prefer_the_router_is_filled_from_the_runs() -> None:
    runs = []
    for number in range(8):
        run = costly_run(140 + number, 0.4)
        # Right in all seen wordings, and in no new one.
        run["scores"]["ridge"] = [float(tags[2] == "seen") for tags in run["tags"]]
        runs.append(run)
    few = report.tables(report.folded(runs[:3], 8))["prefer"]
    assert "- seen: ridge less aligned_joined +0.400" in few and "ahead" not in few
    found = report.folded(runs, 8)
    assert found["prefer"]["ridge"]["mean"] == 1.0
    assert found["prefer"]["aligned_joined"]["mean"] == 0.0
    lines = report.tables(found)["prefer"].splitlines()
    assert [line.split("**")[1] for line in lines if "**" in line and line[0] == "-"] == [
        "the router is ahead",
        "the aligned policy is ahead",
        "the aligned policy is ahead",
    ]
    assert "- ridge: 58 CPU seconds once, 10 to draft" in lines
    assert "- aligned_joined: 151 CPU seconds once, 2 to draft" in lines


def test_what_would_speak_against_the_method_is_said_by_the_intervals() -> None:
    runs = []
    for number in range(8):
        run = costly_run(140 + number, 0.4)
        best = run["scores"]["aligned_joined"]
        run["scores"] |= {"sft_on_chosen": best, "shuffled": run["scores"]["table"]}
        run["scores"]["self_scored"] = run["scores"]["table"]
        run["scores"]["ridge"] = [1.0] * 40
        run["second"]["scores"] |= {"sft_on_chosen": best, "shuffled": best}
        runs.append(run)
    found = report.folded(runs, 8)
    said = [line.partition(" (aligned_joined less")[0] for line in speaks.against(found)]
    assert said == [
        "- The comparator (likelihood) is as good as aligned_joined: **so it is, as far as these "
        "runs can tell**",
        "- shuffled is as good as aligned_joined: **not so**",
        "- self_scored is as good as aligned_joined: **not so**",
        "- sft_on_chosen is as good as aligned_joined: **so it is, as far as these runs can tell**",
        "- ridge is ahead on new wordings: **so it is**",
        "- table is ahead on new wordings: **not so**",
        "- The other strong model keeps 0.000 [0.000, 0.000] t [0.000, 0.000] of the gain of "
        "aligned_joined; of the gain of the needed fact itself it keeps 1.000 [1.000, 1.000] "
        "t [1.000, 1.000]",
    ]
    verdicts = {}
    for line in report.tables(found)["differences"].splitlines()[2:]:
        name, *_, verdict = line.strip("| ").split(" | ")
        verdicts[name] = verdict
    assert verdicts == {
        "policy": "shown",
        "comparator: likelihood": "not shown",
        "table": "shown",
        "ridge": "refuted",
        "aligned": "not shown",
        "sft_on_chosen": "not shown",
        "self_scored": "shown",
        "shuffled": "shown",
        "grpo": "not shown",
        "aligned (in place of aligned_joined), less comparator: likelihood": "not shown",
    }
    # Four of the runs of `sites` have half of the calls, and these are all there are to be.
    less = {"mean": 0.0, "low": -0.1, "high": 0.1, "t_low": -0.1, "t_high": 0.1}
    for runs_made, says in ((4, "as far as these runs can tell"), (2, "nothing is said")):
        whole = runs_made == report.planned_of("sites")
        found["saved"] = {"sites": {"less_random": {"selected_half": less}, "whole": whole}}
        assert says in speaks.against(found)[-1]
    few = report.folded(runs[:2], 8)
    assert speaks.against(few) == ["2 of 8 runs are made, and nothing is said."]
    assert "not shown" not in report.tables(few)["differences"]


def test_new_wordings_are_told_apart_and_left_out_in_turn(tmp_path: Path) -> None:
    """Right in the first of two new wordings alone. The wordings are in a file of their own."""
    for seed in (140, 141):
        run = made_run(seed, 0.4)
        (tmp_path / f"sites-{seed}.json").write_text(json.dumps(run))
        texts = [f"wording {number % 4}" for number in range(40)]
        right = [float(text == "wording 1") for text in texts]
        more = {"scores": {"nearest_table": right}, "wordings": texts}
        (tmp_path / f"after-{seed}.json").write_text(json.dumps(more))
    runs_made = report.read(tmp_path, plan.runs())
    found = report.folded(runs_made, 8)
    part = found["by_wording"]
    assert list(part["wordings"]) == ["wording 1", "wording 3"], "the others are seen"
    assert part["wordings"]["wording 1"]["nearest_table"] == 1.0
    assert part["wordings"]["wording 1"]["questions"] == 20
    headline = [row["aligned_joined"] for row in part["wordings"].values()]
    expected = sorted([headline[0] - 1.0, headline[1] - 0.0])
    assert part["left out"]["nearest_table"] == pytest.approx(expected)
    assert found["on_new"]["aligned_joined less nearest_table"]["n"] == 2
    text = "\n".join(speaks.wording_lines(found, report.NAMES))
    assert "| wording 3 | 20 | " in text and "with one wording left out in turn" in text
    assert speaks.wording_lines(report.folded([made_run(140, 0.4)], 8), report.NAMES) == [
        "Not known yet: `python -m tests.bench.evidence.sites.after` keeps the wordings."
    ]


def test_a_table_takes_the_nearest_wording_and_a_draft_without_a_fact_gives_way() -> None:
    train = [
        group("Which country's customs clear the {product}?", "Bolt", [("shipped", "x", 1.0)]),
        group("Who mends the {product}?", "Bolt", [("made", "y", 1.0)]),
    ]
    new = asked("Which country's stamps clear the Comet pump?", ideal=SHIPPED)
    replies = {new.id: {"made": MADE, "shipped": SHIPPED}}
    assert after.by_nearest([new], train, replies) == [SHIPPED]
    new = new.model_copy(update={"tags": ("shipped", "country", "new")})
    own = ["That would be Norway.", MADE, f"{MADE} {SHIPPED}"]
    assert after.fact_or([new] * 3, own, ["?"] * 3) == ["?", MADE, "?"]
    assert after.calls_of_candidates(train[0]) == 1
    assert set(after.LETTERS) == set(plots.KINDS)


def test_the_page_is_made_once_and_then_filled(tmp_path: Path) -> None:
    docs, kept = tmp_path / "docs", tmp_path / "kept"
    docs.mkdir()
    kept.mkdir()
    for seed in (140, 141):
        (kept / f"sites-{seed}.json").write_text(json.dumps(made_run(seed, 0.4)))
    report.write(kept, docs)
    page = (docs / "evidence-2.md").read_text()
    assert "2 of 8 runs are made, and nothing is claimed." in page
    assert "| unaligned collaboration | 0.200" in page
    assert "](evidence-2.svg)" in page and (docs / "evidence-2.svg").stat().st_size > 10_000
    (docs / "evidence-2.md").write_text(page.replace("## Systems", "## A person's words"))
    report.write(kept, docs)
    assert "## A person's words" in (docs / "evidence-2.md").read_text()


def test_given_settings_come_to_those_of_the_plan() -> None:
    made = plan.Settings(
        seed=0, changes={"dpo.beta": 0.1, "sft.training.epochs": 2}, grpo={"grpo.dev": 8}
    )
    assert made.changes == {**plan.CHANGES, "dpo.beta": 0.1, "sft.training.epochs": 2}
    assert made.changes["draft.candidates"] == {"max_tokens": 20}
    assert made.grpo == {**plan.GRPO, "grpo.dev": 8}
    assert plan.Settings.model_validate_json(made.model_dump_json()) == made
    with pytest.raises(ValueError, match="aligned_joined is left out"):
        plan.Settings(seed=0, trained=("aligned",))


def test_what_is_made_is_not_made_again_and_other_settings_are_refused(tmp_path: Path) -> None:
    begun = []
    folder, kept = tmp_path / "folder", tmp_path / "kept"

    def run(name: str, settings: plan.Settings, folder: Path) -> int:
        begun.append(name)
        folder.mkdir(parents=True, exist_ok=True)
        if name == "sites-143":
            return 1
        values = {"settings": settings.model_dump(mode="json")}
        (folder / "run.json").write_text(json.dumps(values))
        return 0

    assert program.make(folder, kept, "sites-14", 1, run) == ["sites-143"]
    assert begun == list(plan.runs())
    assert program.make(folder, kept, "sites", 1, run) == ["sites-143"]
    assert begun[8:] == ["sites-143"], "the run that failed goes on, and no other"
    assert program.make(folder, kept, "select", 1, run) == []
    assert begun[9:] == list(plan.of_handbook()) == [f"select-{seed}" for seed in range(130, 134)]
    assert program.make(folder, kept, "select", 1, run) == [] and len(begun) == 13
    shutil.rmtree(folder)
    assert program.make(folder, kept, "select", 1, run) == [] and len(begun) == 13
    (kept / "sites-140.json").write_text('{"settings": {"seed": 9}}')
    with pytest.raises(SystemExit, match="other settings than the plan's"):
        program.make(folder, kept, "", 1, run)
