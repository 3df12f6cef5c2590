"""Every system answers the same held-out queries: what the gate will judge by. This is the stage that pays."""

import tempfile
from collections.abc import Iterable, Iterator
from itertools import cycle, groupby, islice
from pathlib import Path
from typing import Literal

from pydantic import Field

from cowest import collaboration, io, version
from cowest.config import Config, Sampling, digest
from cowest.failures import Failures
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
    max_failed: int | None = Field(default=0, ge=0)
    """Rows that may fail in this stage; null for any number. Failed rows stay, and are left out of pairs and comparisons."""


def main(
    queries: In,
    policy: In,
    challenger: In,
    champion: In,
    trials: Out,
    config: EvaluateConfig,
    shard: io.Shard | None = None,
) -> None:
    """Writes one row a query and system (and sample), adjacent: `before`, `after`, `champion` if there is one, `ideal`.

    One policy is held at a time: their drafts wait in files until the strong model refines those of a query together.
    """
    aligned, failures = version.expect(challenger), Failures("evaluate")
    versions: dict[System, Version | None] = {
        "before": version.expect(policy),
        "after": aligned,
        "champion": version.read(champion),
    }
    folders: dict[System, Path] = {"before": policy, "after": challenger, "champion": champion}
    with tempfile.TemporaryDirectory(prefix=".evaluate.", dir=trials.parent) as scratch:
        drafted: list[Drafted] = []
        for system, known in versions.items():
            if known is None:
                continue
            drafts = Path(scratch) / f"{system}.jsonl"
            _draft(
                io.queries(queries, config.split, shard),
                folders[system],
                known.prompts,
                drafts,
                config,
            )
            drafted.append((system, known.prompts, drafts))
        ideal = Path(scratch) / "ideal.jsonl"
        io.write(ideal, _ideals(io.queries(queries, config.split, shard)))
        drafted.append((IDEAL, aligned.prompts, ideal))
        _announce(drafted, config)
        with config.strong.open() as strong, config.scorer.open() as scorer:
            io.write(
                trials,
                failures.counted(watch(_trials(drafted, strong, scorer, config), "evaluate")),
            )
    failures.judge(config.max_failed)


def _draft(
    queries: Iterator[Query], policy: Path, prompts: Prompts, drafts: Path, config: EvaluateConfig
) -> None:
    """The drafts of one policy, which is let go before the next is loaded."""
    with config.policy.open(adapter=policy / "adapter") as model:
        io.write(
            drafts,
            watch(collaboration.draft(queries, model, prompts, config.drafting), "evaluate drafts"),
        )


def _announce(drafted: list[Drafted], config: EvaluateConfig) -> None:
    """What strong model and judge will cost at most; the judge's answers are not there yet, and taken as long as they may be."""
    unjudged = ExactMatchConfig()
    with unjudged.open() as free:
        announce("evaluate", config.strong, lambda strong: _trials(drafted, strong, free, config))
    if isinstance(judge := config.scorer, JudgeConfig):
        announce(
            "evaluate",
            judge.model,
            lambda model: _trials(drafted, Counting(config.strong), judge.over(model), config),
        )


def _ideals(queries: Iterable[Query]) -> Iterator[Draft]:
    """The best draft that could be given; a row that says so where none is known, so that all files hold the same queries."""
    for query in queries:
        failed = None if query.ideal is not None else "no ideal draft is known"
        yield Draft(
            **{name: getattr(query, name) for name in Query.model_fields},
            sample=0,
            draft=query.ideal,
            policy=IDEAL,
            failed=failed,
        )


def _trials(
    drafted: list[Drafted], strong: ChatModel, scorer: Scorer, config: EvaluateConfig
) -> Iterator[Trial]:
    """The drafts of a query refined together where their prompts are equal, so that `solo` is one call; then scored."""
    drafted = sorted(drafted, key=lambda system: digest(system[1]))
    alike = [list(systems) for _, systems in groupby(drafted, key=lambda system: digest(system[1]))]
    refined = [_refined(systems, strong, config) for systems in alike]
    by_query = ([row for part in parts for row in part] for parts in zip(*refined, strict=True))
    names = [name for name, _, _ in drafted for _ in range(_rows(name, config))]
    for name, row in zip(cycle(names), collaboration.score(by_query, scorer), strict=False):
        if row.policy != IDEAL or row.draft is not None:
            yield Trial(
                **{field: getattr(row, field) for field in type(row).model_fields}, system=name
            )


def _refined(
    systems: list[Drafted], strong: ChatModel, config: EvaluateConfig
) -> Iterator[list[Refinement]]:
    """Query by query, the refined drafts of all these systems."""
    files = [io.groups(path, Draft) for _, _, path in systems]
    together = ([row for group in groups for row in group] for groups in zip(*files, strict=True))
    rows = collaboration.refine(together, strong, systems[0][1], config.refining)
    while group := list(islice(rows, sum(_rows(name, config) for name, _, _ in systems))):
        yield group


def _rows(system: System, config: EvaluateConfig) -> int:
    return 1 if system == IDEAL else config.drafting.n
