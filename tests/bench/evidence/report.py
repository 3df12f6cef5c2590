"""Writes up the finished runs: docs/evidence.json, the tables of docs/evidence.md, and two
figures.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cowest import io, preferences
from cowest.domains import invent
from cowest.records import Feedback
from tests.bench.evidence import plan, pool
from tests.bench.evidence.free import FREE
from tests.bench.evidence.pool import BEST, Run
from tests.bench.evidence.tables import cell, of_costs

NAMES = {
    "strong alone": "strong model alone",
    "policy alone": "policy alone, before",
    "aligned alone": "policy alone, after",
    "self_scored alone": "policy alone, after self-scored pairs",
    "policy": "collaboration before alignment",
    "shuffled": "... shuffled feedback",
    "self_scored": "... self-scored, same queries",
    "self_scored_many": "... self-scored, same number of pairs",
    "sft_on_chosen": "... SFT on the chosen drafts",
    "aligned": "... collaborative feedback",
    "ideal": "ceiling: the needed fact as draft",
}
FREE_NAMES = {
    "both_facts": "both facts: the unaligned policy's replies to its corpus's own two questions",
    "record": "the product's line of the handbook, with no policy",
    "bm25_1": "the archive's nearest reply (BM25)",
    "bm25_3": "the archive's nearest three replies",
    "policy trained anew": "the unaligned policy's draft, trained anew for this table",
    "aligned": "the aligned policy's draft, of the result",
}
NLL_NAMES = {
    "policy": "before alignment",
    "aligned": "DPO with the chosen draft's likelihood (`nll: 1.0`)",
    "no_nll": "DPO alone (`nll: 0`)",
}
DIFFERENCES = {
    "aligned_minus_unaligned": ("aligned", "policy"),
    "aligned_minus_best_single": ("aligned", BEST),
    "aligned_minus_self_scored": ("aligned", "self_scored"),
    "aligned_minus_self_scored_many": ("aligned", "self_scored_many"),
    "aligned_minus_shuffled": ("aligned", "shuffled"),
    "aligned_minus_sft_on_chosen": ("aligned", "sft_on_chosen"),
    "shuffled_minus_unaligned": ("shuffled", "policy"),
    "self_scored_minus_unaligned": ("self_scored", "policy"),
    "sft_on_chosen_minus_unaligned": ("sft_on_chosen", "policy"),
}
MODES = ("greedy", "sampled")


def write(folder: Path, docs: Path) -> None:
    """Everything that the finished runs of `folder` allow to be said."""
    runs = {
        name: json.loads((folder / name / "run.json").read_text())
        for name in plan.runs()
        if (folder / name / "run.json").exists()
    }
    count = sum(name.startswith("result-") for name in runs)
    if count < 2:
        raise SystemExit(
            f"{folder}: {count} runs of the result are finished; there is nothing to pool"
        )
    fed = [name for name in runs if (folder / name / "feedback.jsonl").exists()]
    _write(runs, {name: asdict(_agreement(folder / name)) for name in fed}, docs)


def recount(docs: Path, more: Path | None = None) -> None:
    """Everything that is said, again, from the answers that `docs` keeps of the finished runs.

    Those of `more`, a folder of runs, come to them: they were made later or elsewhere.
    """
    found = json.loads((docs / "evidence.json").read_text())
    answers = json.loads((docs / "evidence-answers.json").read_text())
    kept = {f"result-{one['seed']}": one for one in found["seeds"]} | found["others"]
    runs = {}
    for name, run in answers.items():
        about = {field: kept[name][field] for field in ("pairs", "habits", "costs")}
        runs[name] = {**run, **about, "settings": {"seed": kept[name]["seed"]}}
    agreement = found["agreement"]
    for name in plan.runs():
        if more is None or not (more / name / "run.json").exists():
            continue
        assert name not in runs, f"{name} is in {docs} already"
        runs[name] = json.loads((more / name / "run.json").read_text())
        if (more / name / "feedback.jsonl").exists():
            agreement[name] = asdict(_agreement(more / name))
    _write({name: runs[name] for name in plan.runs() if name in runs}, agreement, docs)


def _write(runs: Mapping[str, Run], agreement: Mapping[str, Mapping[str, int]], docs: Path) -> None:
    result = [run for name, run in runs.items() if name.startswith("result-")]
    found: dict[str, Any] = {
        "plan": "docs/evidence-plan.md",
        "seeds": [_seed(run) for run in result],
        "pooled": _differences(result, "greedy"),
        "pooled_sampled": _differences(result, "sampled"),
        "systems": {
            mode: {name: pool.difference(result, _column(name, mode)) for name in NAMES}
            for mode in MODES
        },
        "ceiling": pool.difference(result, "ideal"),
        "gap_closed": pool.gap_closed(result, "policy greedy", "aligned greedy"),
        "gap_closed_sampled": pool.gap_closed(result, "policy sampled", "aligned sampled"),
        "agreement": agreement,
        "curves": curves(runs, agreement),
        "costs": _costs(result),
        "habits": _habits(result),
        "free": free_of_feedback(runs),
        "nll": without_nll(runs),
        "others": {
            name: _seed(run) for name, run in runs.items() if not name.startswith("result-")
        },
    }
    (docs / "evidence.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    answers = {
        name: {"products": run["products"], "scores": run["scores"]} for name, run in runs.items()
    }
    (docs / "evidence-answers.json").write_text(
        json.dumps(answers, separators=(",", ":")) + "\n", encoding="utf-8"
    )
    from tests.bench.evidence import plots

    plots.systems(found, docs / "evidence.svg")
    plots.curves(found, docs / "evidence-curves.svg")
    fill(docs / "evidence.md", tables(found))


def _agreement(run: Path) -> preferences.Agreement:
    """The share in which a draft's own score says what collaborative feedback says, over the
    training questions of a run.
    """
    found = preferences.Agreement()
    for group in io.groups(run / "feedback.jsonl", Feedback):
        found.add(group)
    return found


def curves(
    runs: Mapping[str, Run], agreement: Mapping[str, Mapping[str, int]]
) -> dict[str, list[dict[str, Any]]]:
    """What the gain depends on, one thing changed at a time: points with `x`, and the gain of
    each arm over no alignment.
    """
    some = [runs[f"result-{seed}"] for seed in plan.CURVE_SEEDS if f"result-{seed}" in runs]
    found: dict[str, list[dict[str, Any]]] = {
        "pairs": [],
        "samples": [],
        "rounds": [],
        "answers": [],
    }
    if some and all("aligned_twice greedy" in run["scores"] for run in some):
        for arm in ("queries_quarter", "queries_half", "aligned"):
            pairs = sum(run["pairs"][arm]["pairs"] for run in some) / len(some)
            found["pairs"].append(
                {
                    "x": round(pairs, 1),
                    "aligned": _gain(some, arm),
                    "sampled": _gain(some, arm, "sampled"),
                }
            )
        for arm, count in (("samples_2", 2), ("samples_4", 4), ("aligned", 6)):
            found["samples"].append(
                {"x": count, "aligned": _gain(some, arm), "sampled": _gain(some, arm, "sampled")}
            )
        for rounds, arm in enumerate(("policy", "aligned", "aligned_twice")):
            found["rounds"].append(
                {"x": rounds, "aligned": _gain(some, arm), "sampled": _gain(some, arm, "sampled")}
            )
    kinds = {
        "plain": "plain-",
        **{share: f"answers-{share:g}-" for share in plan.ANSWER_SHARES},
        invent.MIX["answer"]: "result-",
    }
    for kind, start in sorted(kinds.items(), key=lambda kind: (kind[0] == "plain", kind[0])):
        names = [name for name in runs if name.startswith(start)]
        if names:
            found["answers"].append(
                {
                    "x": kind,
                    **_habit([runs[name] for name in names], [agreement[name] for name in names]),
                }
            )
    return found


def _habit(runs: Sequence[Run], agreement: Sequence[Mapping[str, int]]) -> dict[str, Any]:
    """One mix of habits: whether feedback had to come from the collaboration, and what told so
    before.
    """
    shares = [one["same"] / one["told"] for one in agreement]
    return {
        "agreement": {
            "mean": round(sum(shares) / len(shares), 4),
            "runs": [round(share, 4) for share in shares],
        },
        "before": pool.difference(runs, "policy greedy"),
        "policy_alone_before": pool.difference(runs, "policy alone greedy"),
        "aligned": _gain(runs, "aligned"),
        "self_scored": _gain(runs, "self_scored"),
        "aligned_minus_self_scored": pool.difference(runs, "aligned greedy", "self_scored greedy"),
        "policy_alone": pool.difference(runs, "aligned alone greedy"),
        "aligned_minus_policy_alone": pool.difference(
            runs, "aligned greedy", "aligned alone greedy"
        ),
        "policy_alone_self_scored": pool.difference(runs, "self_scored alone greedy"),
        "ceiling": pool.difference(runs, "ideal"),
    }


def _gain(runs: Sequence[Run], arm: str, mode: str = "greedy") -> dict[str, Any]:
    return pool.difference(runs, f"{arm} {mode}", f"policy {mode}")


def _column(system: str, mode: str) -> str:
    return system if system in ("strong alone", "ideal") else f"{system} {mode}"


def _differences(runs: Sequence[Run], mode: str) -> dict[str, Any]:
    return {
        name: pool.difference(runs, f"{of} {mode}", over if over == BEST else f"{over} {mode}")
        for name, (of, over) in DIFFERENCES.items()
    }


def _seed(run: Run) -> dict[str, Any]:
    """One run: every system's score with the interval over its products."""
    return {
        "seed": run["settings"]["seed"],
        "systems": {name: _without_runs(pool.difference([run], name)) for name in run["scores"]},
        "gap_closed": _own_gap(run),
        "pairs": run["pairs"],
        "habits": run["habits"],
        "costs": run["costs"],
    }


def _own_gap(run: Run) -> dict[str, Any] | None:
    """The share of the gap that a run's alignment closed; None where nothing was aligned."""
    if "aligned greedy" not in run["scores"]:
        return None
    return _without_runs(pool.gap_closed([run], "policy greedy", "aligned greedy"))


def free_of_feedback(runs: Mapping[str, Run]) -> dict[str, Any] | None:
    """What drafts that need no feedback are worth beside the aligned policy's, on the knowledge
    bases that have both; None where fewer than two have.
    """
    both = []
    for seed in plan.SEEDS:
        aligned, free = runs.get(f"result-{seed}"), runs.get(f"free-{seed}")
        if aligned is None or free is None:
            continue
        # The same questions in the same order: else they could not be paired.
        assert aligned["products"] == free["products"], seed
        scores = dict(aligned["scores"])
        for name in FREE:
            scores[f"{name} greedy"] = free["scores"][f"{name} greedy"]
        scores["policy trained anew greedy"] = free["scores"]["policy greedy"]
        both.append({**aligned, "scores": scores})
    if len(both) < 2:
        return None
    found: dict[str, Any] = {"seeds": [run["settings"]["seed"] for run in both]}
    for name in (*FREE, "policy trained anew", "aligned"):
        found[name] = pool.difference(both, f"{name} greedy")
        if name in FREE:
            found[f"aligned_minus_{name}"] = pool.difference(
                both, "aligned greedy", f"{name} greedy"
            )
    return found


def without_nll(runs: Mapping[str, Run]) -> dict[str, Any] | None:
    """Scores of DPO without the chosen draft's likelihood; None with fewer than two runs."""
    some = [run for name, run in runs.items() if name.startswith("nll-")]
    if len(some) < 2:
        return None
    found: dict[str, Any] = {"seeds": [run["settings"]["seed"] for run in some]}
    for name in NLL_NAMES:
        found[name] = pool.difference(some, f"{name} greedy")
        found[f"{name}_minus_policy"] = pool.difference(some, f"{name} greedy", "policy greedy")
    found["no_nll_minus_aligned"] = pool.difference(some, "no_nll greedy", "aligned greedy")
    return found


def _without_runs(estimate: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in estimate.items() if name not in ("runs", "n")}


def _costs(runs: Sequence[Run]) -> dict[str, Any]:
    """What each way of aligning takes beside SFT, which all share: means over runs."""
    drafts = ("draft_policy", "score_policy")
    steps = {
        "aligned": (*drafts, "refine_policy", "train_aligned"),
        "sft_on_chosen": (*drafts, "refine_policy", "train_sft_on_chosen"),
        "self_scored": (*drafts, "train_self_scored"),
        "self_scored_many": (*drafts, "train_self_scored_many"),
        "shuffled": (*drafts, "refine_policy", "train_shuffled"),
    }
    return {
        arm: {
            "strong_calls": _mean(runs, ("refine_policy",), "calls")
            if "refine_policy" in of_it
            else 0,
            "strong_tokens": _mean(runs, ("refine_policy",), "prompt_tokens", "completion_tokens")
            if "refine_policy" in of_it
            else 0,
            "cpu_seconds": _mean(runs, of_it, "cpu_seconds"),
            "pairs": sum(run["pairs"][arm]["pairs"] for run in runs) / len(runs),
        }
        for arm, of_it in steps.items()
    }


def _mean(runs: Sequence[Run], steps: Sequence[str], *fields: str) -> float:
    return round(
        sum(run["costs"][step][field] for run in runs for step in steps for field in fields)
        / len(runs),
        1,
    )


def _habits(runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Shares of what the systems' greedy drafts say."""
    found: dict[str, dict[str, float]] = {}
    for name in (name for name in runs[0]["habits"] if name.endswith("greedy")):
        counts: dict[str, int] = {}
        for run in runs:
            for habit, count in run["habits"].get(name, {}).items():
                counts[habit] = counts.get(habit, 0) + count
        found[name.removesuffix(" greedy")] = {
            habit: round(count / sum(counts.values()), 3) for habit, count in sorted(counts.items())
        }
    return found


def tables(found: Mapping[str, Any]) -> dict[str, str]:
    """The tables of docs/evidence.md, by the name of their place."""
    lines = ["| | greedy drafts | sampled drafts |", "| --- | --- | --- |"]
    lines += [
        f"| {said} | {cell(found['systems']['greedy'][name])} | "
        f"{cell(found['systems']['sampled'][name])} |"
        for name, said in NAMES.items()
    ]
    differences = ["| | greedy drafts | sampled drafts |", "| --- | --- | --- |"]
    differences += [
        f"| {name.replace('_', ' ')} | {cell(found['pooled'][name], '+')} | "
        f"{cell(found['pooled_sampled'][name], '+')} |"
        for name in DIFFERENCES
    ]
    differences.append(
        f"| share of the gap to the ceiling closed | {cell(found['gap_closed'])} | "
        f"{cell(found['gap_closed_sampled'])} |"
    )
    names = {arm: arm.replace("_", " ") for arm in found["costs"]}
    made = {
        "systems": lines,
        "differences": differences,
        "costs": of_costs(found["costs"], names),
        "habits": _habits_table(found),
    }
    if found.get("free"):
        made["free"] = _free_table(found["free"])
    if found.get("nll"):
        made["nll"] = _nll_table(found["nll"])
    return {name: "\n".join(rows) for name, rows in made.items()}


def _free_table(found: Mapping[str, Any]) -> list[str]:
    lines = ["| draft | right | aligned policy, less this |", "| --- | --- | --- |"]
    for name, said in FREE_NAMES.items():
        less = cell(found[f"aligned_minus_{name}"], "+") if name in FREE else ""
        lines.append(f"| {said} | {cell(found[name])} | {less} |")
    return lines


def _nll_table(found: Mapping[str, Any]) -> list[str]:
    lines = ["| objective | right | less before |", "| --- | --- | --- |"]
    for name, said in NLL_NAMES.items():
        less = cell(found[f"{name}_minus_policy"], "+") if name != "policy" else ""
        lines.append(f"| {said} | {cell(found[name])} | {less} |")
    less = cell(found["no_nll_minus_aligned"], "+")
    lines.append(f"| DPO alone, less DPO with the likelihood | {less} | |")
    return lines


def _habits_table(found: Mapping[str, Any]) -> list[str]:
    columns = (
        "own scores agree",
        "before",
        "after",
        "after - before",
        "self-scored - before",
        "after - self-scored",
        "policy alone, after",
    )
    lines = [
        f"| answers among replies | {' | '.join(columns)} |",
        "| --- " * (len(columns) + 1) + "|",
    ]
    for one in found["curves"]["answers"]:
        said = "plain questions" if one["x"] == "plain" else f"{one['x']:.0%}"
        after = one["before"]["mean"] + one["aligned"]["mean"]
        cells = [
            said,
            f"{one['agreement']['mean']:.0%}",
            f"{one['before']['mean']:.3f}",
            f"{after:.3f}",
        ]
        cells += [
            cell(one[name], "+") for name in ("aligned", "self_scored", "aligned_minus_self_scored")
        ]
        lines.append(f"| {' | '.join(cells)} | {one['policy_alone']['mean']:.3f} |")
    return lines


def fill(page: Path, made: Mapping[str, str]) -> None:
    """Puts each table between its marks; the words around them are a person's."""
    if not page.exists():
        return
    text = page.read_text(encoding="utf-8")
    for name, table in made.items():
        text = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)",
            lambda mark, table=table: f"{mark[1]}{table}\n{mark[2]}",
            text,
            flags=re.DOTALL,
        )
    page.write_text(text, encoding="utf-8")
