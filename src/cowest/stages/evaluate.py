"""Every system answers the same held-out queries: what the gate will judge by. This is the stage that pays."""

import tempfile
from collections.abc import Iterable, Iterator
from itertools import cycle, groupby, islice
from pathlib import Path
from typing import Literal

from cowest import collaboration, io, version
from cowest.config import Config, Sampling, digest
from cowest.models import AnyProvider
from cowest.models.estimate import Counting, announce
from cowest.ports import In, Out
from cowest.progress import watch
from cowest.prompts import Prompts
from cowest.protocols import ChatModel, Scorer
from cowest.records import Draft, Query, Refinement, Split, Trial
from cowest.scorers import AnyScorer
from cowest.scorers.exact_match import ExactMatchConfig
from cowest.scorers.judge import JudgeConfig
from cowest.version import Version

System = Literal["before", "after", "champion", "ideal"]
IDEAL: System = "ideal"
"""The system whose draft is the query's own: the ceiling."""
Drafted = tuple[System, Prompts, Path]
"""A system's name, its prompts, and the file of its drafts."""


class EvaluateConfig(Config):
    """Who takes part, and how they decode."""

    policy: AnyProvider
    """The base that all adapters belong to."""
    strong: AnyProvider
    scorer: AnyScorer
    """One for all systems."""
    drafting: Sampling = Sampling(max_tokens=128)
    refining: Sampling = Sampling()
    split: Split = "test"
    """The held-out queries: test to decide, dev to choose settings by."""


def main(queries: In, policy: In, challenger: In, champion: In, trials: Out, config: EvaluateConfig, shard: io.Shard | None = None) -> None:
    """Writes one row a query and system (and sample), adjacent: `before`, `after`, `champion` if there is one, `ideal`.

    One policy is held at a time: their drafts wait in files until the strong model refines those of a query together.
    """
    aligned = version.expect(challenger)
    versions: dict[System, Version | None] = {"before": version.expect(policy), "after": aligned, "champion": version.read(champion)}
    folders: dict[System, Path] = {"before": policy, "after": challenger, "champion": champion}
    with tempfile.TemporaryDirectory(prefix=".evaluate.", dir=trials.parent) as scratch:
        drafted: list[Drafted] = []
        for system, known in versions.items():
            if known is None:
                continue
            drafts = Path(scratch) / f"{system}.jsonl"
            with config.policy.open(adapter=folders[system] / "adapter") as model:
                asked = io.queries(queries, config.split, shard)
                io.write(drafts, watch(collaboration.draft(asked, model, known.prompts, config.drafting), f"draft {system}"))
            drafted.append((system, known.prompts, drafts))
        ideal = Path(scratch) / "ideal.jsonl"
        io.write(ideal, _ideals(io.queries(queries, config.split, shard)))
        drafted.append((IDEAL, aligned.prompts, ideal))
        _announce(drafted, config)
        with config.strong.open() as strong, config.scorer.open() as scorer:
            io.write(trials, watch(_trials(drafted, strong, scorer, config), "evaluate"))


def _announce(drafted: list[Drafted], config: EvaluateConfig) -> None:
    """What strong model and judge will cost at most; the judge's answers are not there yet, and taken as long as they may be."""
    unjudged = ExactMatchConfig()
    with unjudged.open() as free:
        announce("evaluate", config.strong, lambda strong: _trials(drafted, strong, free, config))
    if isinstance(judge := config.scorer, JudgeConfig):
        announce("evaluate", judge.model, lambda model: _trials(drafted, Counting(config.strong), judge.over(model), config))


def _ideals(queries: Iterable[Query]) -> Iterator[Draft]:
    """The best draft that could be given; a row that says so where none is known, so that all files hold the same queries."""
    for query in queries:
        failed = None if query.ideal is not None else "no ideal draft is known"
        yield Draft(**{name: getattr(query, name) for name in Query.model_fields}, sample=0, draft=query.ideal, policy=IDEAL, failed=failed)


def _trials(drafted: list[Drafted], strong: ChatModel, scorer: Scorer, config: EvaluateConfig) -> Iterator[Trial]:
    """The drafts of a query refined together where their prompts are equal, so that `solo` is one call; then scored."""
    drafted = sorted(drafted, key=lambda system: digest(system[1]))
    alike = [list(systems) for _, systems in groupby(drafted, key=lambda system: digest(system[1]))]
    refined = [_refined(systems, strong, config) for systems in alike]
    by_query = ([row for part in parts for row in part] for parts in zip(*refined, strict=True))
    names = [name for name, _, _ in drafted for _ in range(_rows(name, config))]
    for name, row in zip(cycle(names), collaboration.score(by_query, scorer), strict=False):
        if row.policy != IDEAL or row.draft is not None:
            yield Trial(**{field: getattr(row, field) for field in type(row).model_fields}, system=name)


def _refined(systems: list[Drafted], strong: ChatModel, config: EvaluateConfig) -> Iterator[list[Refinement]]:
    """Query by query, the refined drafts of all these systems."""
    files = [io.groups(path, Draft) for _, _, path in systems]
    together = ([row for group in groups for row in group] for groups in zip(*files, strict=True))
    rows = collaboration.refine(together, strong, systems[0][1], config.refining)
    while group := list(islice(rows, sum(_rows(name, config) for name, _, _ in systems))):
        yield group


def _rows(system: System, config: EvaluateConfig) -> int:
    return 1 if system == IDEAL else config.drafting.n
