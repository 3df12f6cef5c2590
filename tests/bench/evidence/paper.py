"""The loop on the paper's own domains with the models that come with CoWest, in its three draft
formats: `make evidence-paper`.

    python -m tests.bench.evidence.paper DATA [--folder .evidence-paper] [--jobs 2]
        [--policy NAME --strong NAME --rows 2]

DATA holds the folders ifqa, medmcqa and prosocial with their published files. A format that the
files at hand say nothing for (there are no rules of thumb in them, say) is left out, and said to
be; where no test split has its answers, dev is judged on. Larger models are named by `--policy` and
`--strong`, more rows by `--rows`. Writes docs/evidence-paper.json and its table in
docs/evidence.md.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from cowest import io
from cowest.domains import domain
from cowest.errors import ContractError
from cowest.raw.intake import Intake
from cowest.records import Feedback, Query, Split, Trial
from cowest.scorers.tally import Tally
from tests.bench.evidence import pool
from tests.bench.evidence.__main__ import ROOT, run
from tests.bench.evidence.report import fill
from tests.bench.evidence.run import Settings


class _Domain(NamedTuple):
    settings: dict[str, Any]
    tokens: dict[str, int]
    """Of a draft, at most, by its format: enough for what the corpus teaches it to say."""
    longest: int
    """Characters of a question with what is learned of it, over which rows are left out: a step
    costs as many tokens.
    """
    shots: int
    """Examples that the base strong model is shown."""
    rows: dict[str, int]
    """Of each part: fewer where a question brings a passage, which costs three times as much."""


ROWS = {"corpus": 96, "train": 32, "held out": 80}
PASSAGES = {"corpus": 64, "train": 20, "held out": 50}
DOMAINS = {
    "ifqa": _Domain(
        {"passage": True},
        {"direct": 16, "knowledge": 176, "chain_of_thought": 192},
        1500,
        2,
        PASSAGES,
    ),
    "medmcqa": _Domain({}, {"direct": 24, "knowledge": 96, "chain_of_thought": 112}, 500, 3, ROWS),
    "prosocial": _Domain(
        {"classes": 3}, {"direct": 16, "knowledge": 64, "chain_of_thought": 80}, 1000, 3, ROWS
    ),
}
FORMATS = ("direct", "knowledge", "chain_of_thought")
SYSTEMS = ("strong alone", "policy alone greedy", "policy greedy", "aligned greedy", "ideal")


def runs(data: Path, rows: float, models: dict[str, str]) -> dict[str, Settings]:
    """A run for each domain and format."""
    found = {}
    for name, (settings, tokens, longest, shots, parts) in DOMAINS.items():
        for draft in FORMATS:
            chosen = {"domain": name, "draft": draft, **settings}
            try:
                splits = {
                    row.split
                    for row in domain(chosen).rows(data / name, Intake())
                    if isinstance(row, Query)
                }
            except ContractError as error:
                print(f"evidence: {name}, {draft} is left out: {error}", file=sys.stderr)
                continue
            split: Split = "test" if "test" in splits else "dev"
            most = {
                split if part == "held out" else part: round(count * rows)
                for part, count in parts.items()
            }
            changes = {
                "sft.training.max_length": 768,
                "sft.training.epochs": 2,
                "sft.training.learning_rate": 0.001,
                "dpo.training.max_length": 768,
                "draft.sampling.n": 4,
                "draft.sampling.max_tokens": tokens[draft],
                "evaluate.drafting.max_tokens": tokens[draft],
                "refine.sampling.max_tokens": 24,
                "models.strong.dtype": "bfloat16",
            }
            if settings.get("passage"):
                changes["models.policy.dtype"] = "bfloat16"
            found[f"{name}-{draft}"] = Settings(
                seed=0,
                domain=chosen,
                raw=data / name,
                arms=("aligned",),
                samples=0,
                split=split,
                most=most,
                longest=longest,
                shots=shots,
                changes=changes | models,
            )
    return found


def main() -> None:
    """Makes the runs that are not there yet, then their table."""
    asked = argparse.ArgumentParser(
        prog="python -m tests.bench.evidence.paper", description=__doc__
    )
    asked.add_argument("data", type=Path)
    asked.add_argument("--folder", type=Path, default=ROOT / ".evidence-paper")
    asked.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    asked.add_argument("--policy", help="another policy than params.yaml's")
    asked.add_argument("--strong", help="another strong model")
    asked.add_argument("--device", help="where both run: cuda")
    asked.add_argument(
        "--rows", type=float, default=1, help="so many times the usual number of rows"
    )
    asked.add_argument(
        "--only",
        default="",
        help="only runs whose name begins so; the table is written once all are there",
    )
    given = asked.parse_args()
    models = {
        f"models.{which}.model": name
        for which in ("policy", "strong")
        if (name := getattr(given, which))
    }
    if given.device:
        models |= {"models.policy.device": given.device, "models.strong.device": given.device}
    planned = runs(given.data.resolve(), given.rows, models)
    wanted = {name: settings for name, settings in planned.items() if name.startswith(given.only)}
    with ThreadPoolExecutor(given.jobs) as workers:
        failed = [
            name
            for name, code in zip(
                wanted,
                workers.map(lambda one: run(*one, given.folder), wanted.items()),
                strict=True,
            )
            if code
        ]
    if failed:
        raise SystemExit(f"these runs failed (their log is in their folder): {', '.join(failed)}")
    made = {
        name: json.loads(path.read_text())
        for name in planned
        if (path := given.folder / name / "run.json").exists()
    }
    if len(made) < len(planned):
        return
    found = {
        "rows": given.rows,
        "runs": {name: _said(one, given.folder / name) for name, one in made.items()},
        "formats": formats(made),
    }
    (ROOT / "docs" / "evidence-paper.json").write_text(
        json.dumps(found, indent=1) + "\n", encoding="utf-8"
    )
    fill(
        ROOT / "docs" / "evidence.md",
        {"paper": _table(found["runs"]), "formats": _formats_table(found["formats"])},
    )


def formats(made: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each format's collaboration after alignment less that with direct drafts, on the questions
    that both were asked.
    """
    found = {}
    for name, one in made.items():
        domain_name, draft = name.split("-")
        if draft == "direct" or f"{domain_name}-direct" not in made:
            continue
        direct = made[f"{domain_name}-direct"]
        place = {query: number for number, query in enumerate(direct["asked"])}
        both = [
            (number, place[query]) for number, query in enumerate(one["asked"]) if query in place
        ]
        values = {
            which: [run["scores"]["aligned greedy"][at] for at in places]
            for which, run, places in zip(
                ("of", "over"), (one, direct), zip(*both, strict=True), strict=True
            )
        }
        products = [one["products"][number] for number, _ in both]
        found[f"{name} minus direct"] = pool.difference(
            [{"products": products, "scores": values}], "of", "over"
        )
    return found


def _said(made: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {
        "systems": {name: pool.difference([made], name) for name in SYSTEMS},
        "aligned_minus_unaligned": pool.difference([made], "aligned greedy", "policy greedy"),
        "choices": _choices(folder / "trials.jsonl"),
        "pairs": made["pairs"],
        "costs": made["costs"],
    }


def _choices(trials: Path) -> dict[str, Any]:
    """Counts of the choices, where the answers are choices: one class for all may score well, and
    macro F1 says so.
    """
    tally = Tally()
    named = (
        [
            Trial(**dict(row), system=system)
            for system, row in zip(("before", "after", "ideal"), group, strict=True)
        ]
        for group in io.groups(trials, Feedback)
    )
    for _ in tally.watch(named):
        pass
    return {system: one.model_dump() for system, one in tally.choices().items()}


def _table(found: dict[str, Any]) -> str:
    columns = (
        "strong alone",
        "policy alone",
        "before",
        "after",
        "after - before",
        "macro F1",
        "gold draft",
        "pairs",
    )
    lines = [f"| domain, draft | {' | '.join(columns)} |", "| --- " * (len(columns) + 1) + "|"]
    for name, one in found.items():
        means = [f"{one['systems'][system]['mean']:.3f}" for system in SYSTEMS]
        gain, fell = one["aligned_minus_unaligned"], one["choices"]
        cells = [
            *means[:4],
            f"{gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]",
            f"{fell['before']['macro_f1']:.2f} to {fell['after']['macro_f1']:.2f}" if fell else "",
            means[4],
            str(one["pairs"]["aligned"]["pairs"]),
        ]
        lines.append(f"| {name.replace('-', ', ').replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _formats_table(found: Mapping[str, Any]) -> str:
    lines = ["| after alignment | difference | questions |", "| --- | --- | --- |"]
    for name, one in found.items():
        said = name.replace("-", ": ").replace("_", " ")
        lines.append(
            f"| {said} | {one['mean']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}] | "
            f"{one['questions']} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
