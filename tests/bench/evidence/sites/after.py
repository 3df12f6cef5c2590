"""Adds to a finished run what was thought of after the first runs had begun; claims nothing of it.

    python -m tests.bench.evidence.sites.after .evidence-2/sites-140 [...]

Reads the folder of a finished run, and keeps `after-140.json` beside its numbers: two arms more,
the wording of each question, what each system's draft says of it, and choices that the run made and
did not keep.

nearest_table        as `table`, but a wording that training had not gets the entry of the nearest
                     one (BM25)
fact_or_likelihood   the unaligned policy's own draft if it states one fact, else what `likelihood`
                     says; needs no feedback
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cowest import collaboration, environment, io
from cowest.domains import sites
from cowest.io import write_text
from cowest.models.hf import HFConfig
from cowest.records import Draft, Feedback, Query, grown
from tests.bench.evidence.free import BM25
from tests.bench.evidence.sites import free, routers
from tests.bench.evidence.sites.plan import Settings
from tests.bench.evidence.sites.run import ROOT, SCORER, Run, said

LETTERS = {
    "needed": "n",
    "needed, not as it is": "w",
    "another": "a",
    "several": "s",
    "guess": "g",
    "letter": "l",
    "none of them": "-",
}
"""A letter for each kind of draft that `run.said` tells apart."""
ONE_FACT = ("needed", "needed, not as it is", "another")


def main(folder: Path, kept: Path) -> None:
    """Writes what is kept of one run."""
    os.environ["COWEST_STORE"] = str(folder / "calls.sqlite")
    environment.settle()
    settings = Settings.model_validate(_json(folder / "run.json")["settings"])
    run = Run(settings, folder)
    asked = list(io.queries(folder / "queries.jsonl", settings.split))
    train = list(io.groups(folder / "feedback_train.jsonl", Feedback))
    dev = list(io.groups(folder / "feedback_dev.jsonl", Feedback))
    replies = free.direct(list(io.read(folder / "direct.jsonl", Draft)))
    drafts = {
        "nearest_table": by_nearest(asked, train, replies),
        "fact_or_likelihood": fact_or(
            asked, drafts_of(folder, "policy"), drafts_of(folder, "likelihood")
        ),
    }
    text = json.dumps(
        {
            "of": folder.name,
            "scores": scored(asked, drafts, run),
            "wordings": [routers.wording(query) for query in asked],
            "said": said_by(folder / "trials.jsonl", run.systems()),
            "best prompt": routers.best_prompt(train),
            "ridge penalty": penalty_of(train, dev, run.policy),
            "calls of candidates": sum(calls_of_candidates(group) for group in train),
        }
    )
    write_text(kept / f"after-{settings.seed}.json", text + "\n")


def by_nearest(asked: Sequence[Query], train: routers.Groups, replies: free.Direct) -> list[str]:
    """The reply to the direct question that helped most in the nearest wording of training."""
    entries, _ = routers.table(train)
    ranked = BM25(list(entries))
    found = []
    for query in asked:
        (nearest,) = ranked.best(routers.wording(query), 1)
        found.append(replies[query.id][entries[nearest]])
    return found


def fact_or(asked: Sequence[Query], own: Sequence[str], otherwise: Sequence[str]) -> list[str]:
    """Its own draft where that states one fact, else another."""
    found = []
    for query, draft, other in zip(asked, own, otherwise, strict=True):
        found.append(draft if said(draft, query) in ONE_FACT else other)
    return found


def drafts_of(folder: Path, system: str) -> list[str]:
    return [row.draft or "" for row in io.read(folder / f"held_{system}.jsonl", Draft)]


def scored(
    asked: Sequence[Query], drafts: Mapping[str, Sequence[str]], run: Run
) -> dict[str, list[float]]:
    """The score of each arm's answer to each question, by the run's strong model and scorer."""
    groups = []
    for number, query in enumerate(asked):
        group = []
        for sample, (name, texts) in enumerate(drafts.items()):
            row = grown(Draft, query, sample=sample, draft=texts[number], policy=name)
            group.append(row)
        groups.append(group)
    found: dict[str, list[float]] = {name: [] for name in drafts}
    with run.strong.open() as strong, SCORER.open() as scorer:
        refined = collaboration.refine(groups, strong, sites.PROMPTS, run.answering)
        for row in collaboration.score(collaboration.by_query(refined), scorer):
            if row.score is None:
                raise SystemExit(f"query {row.id} failed: {row.failed}")
            found[row.policy].append(row.score)
    return found


def said_by(trials: Path, systems: Sequence[str]) -> dict[str, str]:
    """Each system's drafts as letters, one a question."""
    found = {name: "" for name in systems}
    for group in io.groups(trials, Feedback):
        # The last row is the ideal draft's.
        for name, row in zip(systems, group[:-1], strict=True):
            found[name] += LETTERS[said(row.draft or "", row)]
    return found


def penalty_of(train: routers.Groups, dev: routers.Groups, policy: HFConfig) -> float:
    """The penalty that the ridge router chose on dev, one of `routers.PENALTIES`."""
    replies = [[row for row in group if row.candidate != "everything"] for group in dev]
    parts = []
    for groups in (train, replies):
        queries = [group[0] for group in groups]
        parts.append((routers.hidden_states(queries, policy, sites.PROMPTS), groups))
    _, penalty = routers.routes(parts[0], parts[1], parts[1][0])
    return penalty


def calls_of_candidates(group: Sequence[Feedback]) -> int:
    """The calls that feedback on a query's direct replies alone takes, which is all that a router
    learns from."""
    return len(collaboration.shown([row for row in group if row.candidate is not None]))


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    for name in sys.argv[1:]:
        main(Path(name), ROOT / "docs" / "evidence-2")
