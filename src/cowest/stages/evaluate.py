"""Every system answers the same held-out queries; `compare` judges by it. This stage pays."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import Field

from cowest import collaboration, io, version
from cowest.agreement import AgreementConfig, Judged, compared, judged_side
from cowest.batched import batched
from cowest.config import Config, Refining, Sampling, digest
from cowest.errors import ConfigError
from cowest.failures import Failures
from cowest.models import AnyProvider
from cowest.models.decoding import HFModel
from cowest.models.estimate import Counting, announce
from cowest.models.hf import HFConfig
from cowest.ports import In, Out
from cowest.probe import ProbeConfig, Questions, asked_alone, questions_in
from cowest.progress import watch
from cowest.prompts import Prompts
from cowest.protocols import ChatModel, Scorer
from cowest.records import Collaboration, Draft, Query, Refinement, Split, Trial, grown
from cowest.report_parts import PolicyAgreement, ProbeAnswer
from cowest.scorers import AnyScorer
from cowest.scorers.exact_match import ExactMatchConfig
from cowest.scorers.judge import JudgeConfig

R = TypeVar("R")

IDEAL: Collaboration = "ideal"
"""The collaboration whose draft is the query's own: the ceiling."""


class EvaluateConfig(Config):
    """The models that take part, and their decoding."""

    policy: AnyProvider
    """The base model that all adapters belong to."""
    strong: AnyProvider
    """The strong model, which refines the drafts of all systems."""
    scorer: AnyScorer
    """The scorer of all systems."""
    drafting: Sampling = Sampling(max_tokens=128)
    """Decoding of the policies. Each of the `n` drafts of a query is refined and scored."""
    refining: Refining = Sampling()
    """Decoding of the strong model. `n` must be 1."""
    split: Split = "test"
    """The held-out queries: test to decide on promotion, dev to choose settings."""
    agreement: AgreementConfig | None = AgreementConfig()
    """Comparison of what is judged with the adapter as it was trained, and with what is served;
    null for none."""
    probe: ProbeConfig | None = None
    """General questions that each policy answers alone, so that what it forgot is seen: `{file:
    general.jsonl}` in the raw data. A challenger that is surely worse by 0.05 than the champion is
    not promoted then (docs/report.md). Null asks none."""
    max_failed: int | None = Field(default=0, ge=0)
    """Rows that may fail in this stage: with more, it fails at its end. null for any number. Failed
    rows stay in the file, and are left out of comparisons."""


@dataclass(frozen=True, slots=True)
class Drafted:
    """One system with the file of its drafts."""

    system: Collaboration
    version: str | None
    """Digest of the version that drafted; None for the ideal draft."""
    prompts: Prompts
    drafts: Path
    per_query: int
    """Drafts per query."""


@dataclass(slots=True)
class AskedBeside:
    """Questions to the policies beside the drafts, asked while each is held in memory."""

    compared: bool
    """True if the challenger's policy is compared with its other forms."""
    questions: Questions | None
    """General questions; None if none are asked."""
    judged: Judged | None = None
    answers: list[ProbeAnswer] = field(default_factory=list)


def main(
    queries: In,
    policy: In,
    challenger: In,
    champion: In,
    trials: Out,
    config: EvaluateConfig,
    shard: io.Shard | None = None,
    agreement: Out | None = None,
    raw: In | None = None,
    probe: Out | None = None,
) -> None:
    """Writes one row per query, system and sample; the rows of a query are adjacent.

    The systems are `before`, `after`, `champion` if there is one, and `ideal`. One policy is held
    in memory at a time: the drafts wait in files until the strong model refines all drafts of a
    query together. `agreement` gets a row for each other form of the challenger's policy, `probe`
    the answers of each policy, and of the base, to the general questions in `raw`.
    """
    before, after = version.expect(policy), version.expect(challenger)
    versions: list[tuple[Collaboration, Path, version.Version | None]] = [
        ("before", policy, before),
        ("after", challenger, after),
        ("champion", champion, version.read(champion)),
    ]
    failures = Failures("evaluate")
    # Neither depends on the shard, so that the first shard alone asks.
    first = shard is None or shard[0] == 0
    beside = AskedBeside(agreement is not None and first, _questions(raw, probe, config, shard))

    def held_out() -> Iterator[Query]:
        return io.queries(queries, config.split, shard)

    def sampled() -> Iterator[Query]:
        # The sample is one of all held-out queries, however many shards there are.
        return io.queries(queries, config.split)

    with tempfile.TemporaryDirectory(prefix=".evaluate.", dir=trials.parent) as scratch:
        systems: list[Drafted] = []
        for system, folder, found in versions:
            if found is None:
                continue
            drafts = Path(scratch) / f"{system}.jsonl"
            drafted = Drafted(system, found.digest, found.prompts, drafts, config.drafting.n)
            _visit(drafted, folder, held_out, sampled, beside, config)
            systems.append(drafted)
        if agreement is not None:
            io.write(agreement, _agreements(beside.judged, challenger, after, config))
        if probe is not None:
            io.write(probe, [*_of_base(beside.questions, config), *beside.answers])
        ideal = Path(scratch) / f"{IDEAL}.jsonl"
        io.write(ideal, _ideal_drafts(held_out()))
        systems.append(Drafted(IDEAL, None, after.prompts, ideal, 1))

        _announce(systems, config)
        with config.strong.open() as strong, config.scorer.open() as scorer:
            rows = _trials(systems, strong, scorer, config.refining)
            io.write(trials, failures.counted(watch(rows, "evaluate")))
    failures.judge(config.max_failed)


def _questions(
    raw: Path | None, answers: Path | None, config: EvaluateConfig, shard: io.Shard | None
) -> Questions | None:
    """The general questions; None if none are asked, or another shard asks them.

    Raises ConfigError if the settings name them and the ports are not given.
    """
    if config.probe is None:
        return None
    if raw is None or answers is None:
        raise ConfigError(
            "evaluate.probe asks general questions, and evaluate was not given `--raw` and "
            '`--probe`: add `--raw "${turn.raw}" --probe data/probe.jsonl` to its command in '
            "dvc.yaml, as a dvc.yaml that `cowest init` writes today has it"
        )
    questions = questions_in(raw, config.probe)
    return questions if shard is None or shard[0] == 0 else None


def _visit(
    system: Drafted,
    folder: Path,
    queries: Callable[[], Iterator[Query]],
    sampled: Callable[[], Iterator[Query]],
    beside: AskedBeside,
    config: EvaluateConfig,
) -> None:
    """Writes the drafts of one policy, and keeps what else it is asked, before it is let go."""
    with config.policy.open(adapter=folder / "adapter") as model:
        rows = collaboration.draft(queries(), model, system.prompts, config.drafting)
        io.write(system.drafts, watch(rows, "evaluate drafts"))
        compared = system.system == "after" and beside.compared
        # Its weights are looked at, so they must be in this process.
        if compared and config.agreement is not None and isinstance(model, HFModel):
            beside.judged = judged_side(
                model,
                sampled(),
                system.prompts,
                config.drafting,
                config.agreement,
                folder / "adapter",
            )
        if beside.questions is not None and system.system != "ideal":
            asked = asked_alone(beside.questions, model, system.system, system.version)
            beside.answers += watch(asked, "evaluate probe")


def _of_base(questions: Questions | None, config: EvaluateConfig) -> Iterator[ProbeAnswer]:
    """The answers of the base model to the general questions."""
    if questions is not None:
        with config.policy.open() as model:
            yield from watch(asked_alone(questions, model, "base", None), "evaluate probe")


def _agreements(
    judged: Judged | None, challenger: Path, found: version.Version, config: EvaluateConfig
) -> Iterator[PolicyAgreement]:
    """Compares the challenger's merged weights with its other forms."""
    if judged is None or config.agreement is None or not isinstance(config.policy, HFConfig):
        return
    for row in compared(judged, config.policy, challenger / "adapter", config.agreement):
        yield row.model_copy(update={"version": found.digest})


def _ideal_drafts(queries: Iterable[Query]) -> Iterator[Draft]:
    """The best possible draft of each query; a failed row if none is known.

    The failed rows keep the file in step with those of the other systems, and are no trials.
    """
    for query in queries:
        failed = None if query.ideal is not None else "no ideal draft is known"
        yield grown(Draft, query, sample=0, draft=query.ideal, policy=IDEAL, failed=failed)


def _announce(systems: list[Drafted], config: EvaluateConfig) -> None:
    """Says what the strong model and a judge will cost at most.

    Neither has answered yet, so the answers to judge are taken to be as long as they may be.
    """

    def asked_of_strong(strong: ChatModel) -> Iterator[Trial]:
        # The strong model is asked the same whatever scores it, so a scorer without calls will do.
        with ExactMatchConfig(rule=2).open() as free:
            yield from _trials(systems, strong, free, config.refining)

    announce("evaluate", config.strong, asked_of_strong)
    judge = config.scorer
    if not isinstance(judge, JudgeConfig):
        return

    def asked_of_judge(model: ChatModel) -> Iterator[Trial]:
        return _trials(systems, Counting(config.strong), judge.over(model), config.refining)

    announce("evaluate", judge.model, asked_of_judge)


def _trials(
    systems: list[Drafted], strong: ChatModel, scorer: Scorer, refining: Sampling
) -> Iterator[Trial]:
    """Refines and scores the drafts of all systems, query by query."""
    parts = _by_prompts(systems)
    # Each part is a stream of its own, since the strong model is asked in the words of its prompts.
    refined = [_refined(part, strong, refining) for part in parts]
    # Every query has the same rows in the same order: those of the first part's first system, of
    # its second, and so on. So the place of a row tells whose it is.
    places: list[Drafted] = []
    for part in parts:
        for one in part:
            places += [one] * one.per_query
    for number, row in enumerate(collaboration.score(_side_by_side(refined), scorer)):
        of = places[number % len(places)]
        if of.system == IDEAL and row.draft is None:
            continue
        yield grown(Trial, row, system=of.system, version=of.version)


def _by_prompts(systems: list[Drafted]) -> list[list[Drafted]]:
    """The systems in parts that are served with equal prompts, in the order of their digests.

    The drafts of a part are refined together, so that each query is one `solo` call for all of
    them. The order is that of the rows of a query; it rests on content alone.
    """
    parts: dict[str, list[Drafted]] = {}
    for one in systems:
        parts.setdefault(digest(one.prompts.served), []).append(one)
    return [parts[prompts] for prompts in sorted(parts)]


def _refined(
    part: list[Drafted], strong: ChatModel, refining: Sampling
) -> Iterator[list[Refinement]]:
    """The refined drafts of systems with equal prompts, query by query."""
    drafts = _side_by_side([io.groups(one.drafts, Draft) for one in part])
    rows = collaboration.refine(drafts, strong, part[0].prompts, refining)
    # Rows are counted off, not told apart by their ids: to see that a query ends, one would have to
    # pull the first row of the next, and the strong model would be asked for it too early.
    return batched(rows, sum(one.per_query for one in part))


def _side_by_side(streams: Sequence[Iterator[list[R]]]) -> Iterator[list[R]]:
    """Streams that go query by query, as one: per query, the rows of all streams in order."""
    for of_query in zip(*streams, strict=True):
        rows: list[R] = []
        for of_stream in of_query:
            rows += of_stream
        yield rows
