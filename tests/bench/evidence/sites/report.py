"""Folds the finished runs into docs/evidence-2.json and the tables of docs/evidence-2.md."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cowest.io import write_text
from tests.bench.evidence import pool
from tests.bench.evidence.pool import Run
from tests.bench.evidence.report import fill
from tests.bench.evidence.sites import costs, plan, plots, prefer, speaks
from tests.bench.evidence.sites.arms import AFTER, ON_POLICY, SELECTED, TRAINED
from tests.bench.evidence.sites.speaks import HEADLINE
from tests.bench.evidence.tables import cell

WORDINGS = ("all", "new", "seen")
NAMES = {
    "strong alone": "strong model alone",
    "policy alone": "policy alone, unaligned",
    "aligned_joined alone": "policy alone, aligned_joined",
    "policy": "unaligned collaboration",
    "aligned": "aligned: pairs of its own samples",
    "aligned_joined": "**aligned_joined: pairs of samples and candidates**",
    "sft_on_chosen": "SFT on the chosen drafts",
    "self_scored": "self-scored pairs",
    "shuffled": "shuffled feedback",
    "no_nll": "DPO without the likelihood",
    "kto": "KTO",
    "selected_half": "half of the calls, as `refine.select` chooses",
    "stopped_half": "half of the calls, draft by draft until the pairs are made",
    "random_half": "half of the calls, on random questions",
    "grpo": "GRPO",
    "everything": "no feedback: all four direct replies",
    "record": "no feedback: the product's line",
    "bm25_1": "no feedback: nearest reply (BM25)",
    "bm25_3": "no feedback: nearest three",
    "confident": "no feedback: own draft if sure, else everything",
    "routed": "no feedback: the strong model names the fact",
    "likelihood": "no feedback: the question's likelihood after each reply",
    "best_prompt": "feedback, no training: best single prompt",
    "table": "feedback, no training: table by wording",
    "ridge": "feedback, no training of the policy: router on hidden states",
    "ideal": "ceiling: the needed fact as draft",
    "nearest_table": "after the plan: table by the nearest wording",
    "fact_or_likelihood": "after the plan, no feedback: own draft if it states one fact, else "
    "likelihood",
}
OVERS = ("policy", "comparator", "table", "ridge", "aligned", *tuple(TRAINED)[2:], *ON_POLICY)
"""Arms that the headline arm is compared with."""
ALIGNED = "aligned"
"""The arm of the policy's own samples alone, compared with the comparator too."""
ALIGNED_OVER = "aligned over the comparator"


def write(kept: Path, docs: Path) -> None:
    """Everything that the runs whose numbers are in `kept` allow to be said."""
    runs = read(kept, plan.runs())
    if not runs:
        print(f"{kept}: no run of sites is finished yet, and the page is made with the first")
        return
    found = folded(runs, len(plan.SEEDS))
    found["saved"] = saved(kept)
    write_text(docs / "evidence-2.json", json.dumps(found, indent=1) + "\n")
    page = docs / "evidence-2.md"
    if not page.exists():
        write_text(page, PAGE)
    fill(page, tables(found))
    plots.systems(found, NAMES, docs / "evidence-2.svg")


def folded(runs: Sequence[Run], planned: int) -> dict[str, Any]:
    """Means, differences and claims over the runs, on all questions and by wording."""
    systems = [name for name in NAMES if all(name in run["scores"] for run in runs)]
    best = comparator(runs)
    found: dict[str, Any] = {
        "plan": "docs/evidence-plan-2.md",
        "finished": len(runs),
        "planned": planned,
        "comparator": best,
        "systems": {},
        "differences": {},
        "second": {},
    }
    for wording in WORDINGS:
        part = [of_wording(run, wording) for run in runs]
        found["systems"][wording] = {name: pool.difference(part, name) for name in systems}
        found["differences"][wording] = _differences(part, best)
        if all("second" in run for run in runs):
            second = [{**run, "scores": run["second"]["scores"]} for run in part]
            shown = [name for name in systems if name not in AFTER]
            found["second"][wording] = {name: pool.difference(second, name) for name in shown}
    in_new = [of_wording(run, "new") for run in runs]
    found["on_new"] = speaks.on_new(in_new)
    found["by_wording"] = speaks.by_wording(in_new)
    found["says"] = said(runs, systems)
    found["kept"] = kept(runs, systems) if all("second" in run for run in runs) else {}
    found["costs"] = costs.of(runs, [name for name in NAMES if name in costs.arms()])
    found["cut"] = costs.cut(runs)
    found["prefer"] = prefer.of(found)
    found["claims"] = _claims(found) if len(runs) == planned else []
    return found


def saved(kept: Path) -> dict[str, Any]:
    """The gain that half of the calls keeps, by domain and arm, over the runs that are finished.

    The share of the gain of asking about all drafts, with its intervals, and the gain of 100 calls.
    """
    found: dict[str, Any] = {}
    for domain, (names, ending, whole) in {
        "sites": (plan.runs(), "", "aligned_joined"),
        "handbook": (plan.of_handbook(), " greedy", "aligned"),
    }.items():
        runs = [run for run in read(kept, names) if f"selected_half{ending}" in run["scores"]]
        if not runs:
            continue
        planned = planned_of(domain)
        found[domain] = {"runs": len(runs), "whole": len(runs) == planned, "arms": {}}
        found[domain]["less_random"] = {
            arm: pool.difference(runs, arm + ending, f"random_half{ending}") for arm in plan.AIMED
        }
        for arm in (whole, *SELECTED):
            share = pool.gap_closed(runs, f"policy{ending}", arm + ending, whole + ending)
            gain = pool.difference(runs, arm + ending, f"policy{ending}")
            calls = sum(_calls(run, arm) for run in runs) / len(runs)
            by_call = round(100 * gain["mean"] / calls, 4)
            row = {"kept": share, "gain": gain, "calls": calls, "gain of 100 calls": by_call}
            found[domain]["arms"][arm] = row
    return found


def _calls(run: Run, arm: str) -> int:
    """The strong calls behind an arm's feedback."""
    if "calls" in run["pairs"][arm]:
        return int(run["pairs"][arm]["calls"])
    return int(run["pairs"]["selected_half"]["calls of all"])


def comparator(runs: Sequence[Run]) -> str:
    """The arm without feedback that has the highest mean over the runs; of equal ones the first."""
    known = [name for name in plan.COMPARATORS if all(name in run["scores"] for run in runs)]
    return max(known, key=lambda name: pool.difference(runs, name)["mean"])


def of_wording(run: Run, wording: str) -> dict[str, Any]:
    """A run's questions of one kind of wording; all of them for `all`."""
    kept = []
    for number, tags in enumerate(run["tags"]):
        if wording in ("all", tags[2]):
            kept.append(number)
    part = dict(run)
    part["products"] = [run["products"][number] for number in kept]
    part["scores"] = _picked(run["scores"], kept)
    if "wordings" in run:
        part["wordings"] = [run["wordings"][number] for number in kept]
    if "second" in run:
        part["second"] = {"scores": _picked(run["second"]["scores"], kept)}
    return part


def kept(runs: Sequence[Run], systems: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The share of each arm's gain over the unaligned policy that the other strong model keeps,
    on all questions, with its intervals. Arms whose own gain can't be told from none are left out.
    """
    found = {}
    for name in systems:
        gain = pool.difference(runs, name, "policy")
        if name == "policy" or name in AFTER or name.endswith(" alone"):
            continue
        if min(gain["low"], gain.get("t_low", 1)) <= 0:
            continue
        both = []
        for run in runs:
            first, second = pool.scores(run, name), pool.scores(run["second"], name)
            scores = {
                "none": [0.0] * len(first),
                "gain": list(first - pool.scores(run, "policy")),
                "kept": list(second - pool.scores(run["second"], "policy")),
            }
            both.append({**run, "scores": scores})
        found[name] = pool.gap_closed(both, "none", "kept", "gain")
    return found


def said(runs: Sequence[Run], systems: Sequence[str]) -> dict[str, dict[str, float]]:
    """Returns the share of each kind among a system's drafts, over all runs."""
    found = {}
    for name in systems:
        counted: Counter[str] = Counter()
        for run in runs:
            counted.update(run["says"].get(name, {}))
        total = counted.total()
        if total:
            found[name] = {kind: round(count / total, 4) for kind, count in counted.items()}
    return found


def tables(found: Mapping[str, Any]) -> dict[str, str]:
    """The tables of the page, by name."""
    said = f"{found['finished']} of {found['planned']} runs"
    heads = "all | new wordings | seen wordings | the other strong model | of the gain, it keeps"
    rows = [f"| {said} | {heads} |"]
    rows.append("| --- | --- | --- | --- | --- | --- |")
    for name in found["systems"]["all"]:
        cells = [cell(found["systems"][wording][name]) for wording in WORDINGS]
        second = found["second"].get("all", {}).get(name)
        cells.append(cell(second) if second else "")
        cells.append(cell(found["kept"][name]) if name in found["kept"] else "")
        rows.append(f"| {NAMES[name]} | {' | '.join(cells)} |")
    heads = "all | new wordings | seen wordings | above 0, on all"
    differences = [f"| {HEADLINE}, less ({said}) | {heads} |"]
    differences.append("| --- | --- | --- | --- | --- |")
    for name in found["differences"]["all"]:
        shown = f"comparator: {found['comparator']}" if name == "comparator" else name
        if name == ALIGNED_OVER:
            shown = f"{ALIGNED} (in place of {HEADLINE}), less comparator: {found['comparator']}"
        cells = [cell(found["differences"][wording][name], "+") for wording in WORDINGS]
        verdict = speaks.word(found["differences"]["all"][name])
        if found["finished"] < found["planned"]:
            verdict = ""
        differences.append(f"| {shown} | {' | '.join(cells)} | {verdict} |")
    return {
        "systems": "\n".join(rows),
        "differences": "\n".join(differences),
        "costs": "\n".join(costs.table(found, NAMES)),
        "prefer": "\n".join(prefer.lines(found, NAMES)),
        "claims": "\n".join(_claimed(found)),
        "new": "\n".join(speaks.new_lines(found)),
        "against": "\n".join(speaks.against(found)),
        "wordings": "\n".join(speaks.wording_lines(found, NAMES)),
        "saved": "\n".join(saved_lines(found.get("saved", {}))),
    }


def planned_of(domain: str) -> int:
    """The planned number of a domain's runs with half of the calls; `sites` has more without."""
    return len(plan.SELECTED_SEEDS if domain == "sites" else plan.HANDBOOK_SEEDS)


def saved_lines(found: Mapping[str, Any]) -> list[str]:
    lines = ["| domain | arm | calls | gain | share of the gain of all calls | gain of 100 calls |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for domain, part in found.items():
        planned = planned_of(domain)
        for arm, row in part["arms"].items():
            cells = [f"{domain}, {part['runs']} of {planned} runs", NAMES[arm]]
            cells += [f"{row['calls']:.0f}", cell(row["gain"], "+"), cell(row["kept"])]
            lines.append(f"| {' | '.join(cells)} | {row['gain of 100 calls']:+.3f} |")
        for arm in plan.AIMED:
            word = "nothing is claimed yet"
            if part["runs"] == planned:
                mean = part["arms"][arm]["kept"]["mean"]
                word = f"{'reached' if mean >= plan.KEPT else 'not reached'}"
            lines.append(f"| {domain} | aim: {arm} keeps {plan.KEPT:.0%} | | | {word} | |")
    return lines


def _differences(runs: Sequence[Run], best: str) -> dict[str, Any]:
    found = {}
    for over in OVERS:
        name = best if over == "comparator" else over
        if all(HEADLINE in run["scores"] and name in run["scores"] for run in runs):
            found[over] = pool.difference(runs, HEADLINE, name)
    if all(ALIGNED in run["scores"] for run in runs):
        found[ALIGNED_OVER] = pool.difference(runs, ALIGNED, best)
    return found


def _claims(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    claims = []
    for arm, over, wording, least in plan.CLAIMS:
        assert arm == HEADLINE
        difference = found["differences"][wording].get(over)
        if difference is None:
            continue
        claim = {"of": arm, "over": over, "wording": wording, "least": least}
        claim["shown"] = difference["t_low"] >= least
        claim["refuted"] = difference["t_high"] < least
        claims.append(claim)
    return claims


def _claimed(found: Mapping[str, Any]) -> list[str]:
    if found["finished"] < found["planned"]:
        return [f"{found['finished']} of {found['planned']} runs are made, and nothing is claimed."]
    lines = []
    for claim in found["claims"]:
        word = "shown" if claim["shown"] else "refuted" if claim["refuted"] else "not shown"
        over = found["comparator"] if claim["over"] == "comparator" else claim["over"]
        least, wording = claim["least"], claim["wording"]
        lines.append(
            f"- {claim['of']} minus {over} is at least {least:.2f} ({wording}): **{word}**"
        )
    return lines


def _picked(scores: Mapping[str, Sequence[float]], kept: Sequence[int]) -> dict[str, list[float]]:
    return {name: [values[number] for number in kept] for name, values in scores.items()}


def read(kept: Path, names: Iterable[str]) -> list[Run]:
    """The runs of these names that are finished, with what was added to them later."""
    found = []
    for name in names:
        path = kept / f"{name}.json"
        if not path.exists():
            continue
        run = json.loads(path.read_text(encoding="utf-8"))
        more = kept / f"after-{run['settings']['seed']}.json"
        if name.startswith("sites-") and more.exists():
            added = json.loads(more.read_text(encoding="utf-8"))
            run["scores"] |= added["scores"]
            run["wordings"] = added["wordings"]
        found.append(run)
    return found


ABOUT = " ".join(
    (
        "Planned first ([evidence-plan-2.md](evidence-plan-2.md)), and made by `make evidence-2`.",
        "All numbers are in [evidence-2.json](evidence-2.json), the score of each answer in",
        "[evidence-2/](evidence-2). Means have two intervals (95 %):",
        "the two-stage bootstrap, and after `t` Student's over the runs, which decides.",
    )
)
FIGURE = " ".join(
    (
        "Each run is a dot, and a bar is Student's interval over the runs. Blue trains the policy",
        "on the collaboration's feedback, orange on other scores; green trains none, and chooses",
        "by the same feedback among its replies; grey has no feedback.",
    )
)
COSTS = " ".join(
    (
        "Means over runs, beside SFT, which all share, and beside the answers to the held-out",
        "questions, which all need. Strong calls, tokens, pairs and CPU seconds of one core come",
        "once, before an arm is used; the last three columns are the drafts of a run's held-out",
        "questions. Time and tokens of refinements are charged by an arm's calls; drafts and",
        "scores, of samples and candidates together, whole. `ridge` learns in its last column,",
        "and would need the calls for the candidates alone (four a question, and none without a",
        "draft). `confident` is not charged its own drafts. A reading of the question by the",
        "strong model (`likelihood`) counts as a call. Two runs were made at once, so CPU seconds",
        "hold beside each other, and not on a machine that does nothing else.",
    )
)
PREFER = " ".join(
    (
        "`ridge` has the same feedback, trains no policy, and chooses among the policy's replies",
        "to the direct questions. So it can say nothing that no direct question asks for, which",
        "these runs do not measure. Where it is as good, a policy that drafts may still be wanted:",
        "it needs no second model and no list of direct questions, and writes free text. None of",
        "that is measured here. Words after a difference follow from its t interval.",
    )
)
LOST = " ".join(
    (
        "The archive's bad habits (guesses, form letters) stand on the wordings that training",
        "questions have, and on none of the new ones. So every policy's draft is better on new",
        "wordings before it is aligned, and the third column says less of what an aligned policy",
        "loses than the fourth, the same for its gain over the unaligned one.",
    )
)
NEW = " ".join(
    (
        "The second claim asks less than it seems to: a table by exact wording has no entry for a",
        "new one, and says the same site each time, which is right for a quarter of the questions.",
        "Beside it, on new wordings (`nearest_table` was added after the first runs):",
    )
)
WORDINGS_SAID = " ".join(
    (
        "All runs have the same 40 wordings, so intervals over runs are for other products, facts",
        "and seeds, and not for other wordings. Right answers by new wording, over all runs:",
    )
)
PAGE = f"""# The second evidence: what to say depends on the question

{ABOUT}

## Claims

<!-- claims -->
<!-- end -->

{NEW}

<!-- new -->
<!-- end -->

## Systems

![Right answers by wording, and what the drafts say](evidence-2.svg)

{FIGURE}

<!-- systems -->
<!-- end -->

## Differences, paired by question

<!-- differences -->
<!-- end -->

## What would speak against the method

The plan named it before any run.

<!-- against -->
<!-- end -->

## New wordings

{WORDINGS_SAID}

<!-- wordings -->
<!-- end -->

## What it costs

{COSTS}

<!-- costs -->
<!-- end -->

## When to prefer the router

{PREFER}

{LOST}

<!-- prefer -->
<!-- end -->

## Feedback for half of the calls

<!-- saved -->
<!-- end -->
"""
