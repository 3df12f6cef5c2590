"""The probe: general questions, outside of the domain, that the policies answer alone.

A policy that learns a narrow corpus may forget what it knew beyond it, and no held-out question of
the domain shows that. So each policy answers the questions of a file in the raw data, greedily and
in their own words, without the prompts of a version; and so does the base model, which is what
there is to forget. `evaluate` asks, `compare` folds the answers and has the gates.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_args

import numpy as np
from pydantic import Field, field_validator

from cowest import io
from cowest.collaboration import answered
from cowest.config import Config, Sampling, file_digest
from cowest.domains.mapping import inside
from cowest.errors import ContractError, InputError
from cowest.evaluation import Probed
from cowest.gates import Quantity
from cowest.intervals import Floats, Ratio, estimates, mean_of
from cowest.protocols import BLOCK, ChatModel, Request, Scorer
from cowest.raw.snapshots import hidden
from cowest.records import Estimate, Message, Query, Record
from cowest.report_parts import Probe, ProbeAnswer, ProbeScore, ProbeSystem
from cowest.scorers.contains import ContainsConfig
from cowest.scorers.exact_match import ExactMatchConfig

SYSTEMS: tuple[ProbeSystem, ...] = get_args(ProbeSystem)
MOST = 10_000
"""Most questions of a probe: each is asked up to four times in a turn."""


class ProbeConfig(Config):
    """General questions that each policy answers alone, and the base model too."""

    file: str
    """The file in the raw data (`turn.raw`), one question per line:
    `{"question": "What is the capital of France?", "targets": ["Paris"], "kind": "capitals"}`;
    `kind` may be left out. Ask 300 or more: with 300, the guard that holds by default refuses a
    challenger that lost 0.15 in 94 % of cases, one that lost 0.1 in half; with 60 it can't see a
    loss below 0.15. A turn says before it starts what so many can show."""
    max_tokens: int = Field(default=32, ge=1)
    """Token limit of an answer. An answer that is cut is scored as far as it goes, so keep it as
    short as the base model needs for a short answer: the probe costs time by it."""
    scorer: Annotated[ContainsConfig | ExactMatchConfig, Field(discriminator="scorer")] = (
        ContainsConfig(rule=2)
    )
    """The scorer of the answers: `contains`, or `exact_match` for a policy that answers in a
    word."""

    @field_validator("file")
    @classmethod
    def _has_a_version(cls, name: str) -> str:
        inside(name)
        if hidden(Path(name)):
            raise ValueError(f"{name} is hidden, so that no turn would know its version")
        return name


class ProbeQuestion(Record):
    """A general question: one row of the file that `evaluate.probe` names."""

    question: str = Field(min_length=1)
    targets: tuple[str, ...] = Field(min_length=1)
    """Right answers; each of them counts as right."""
    kind: str | None = None
    """The kind of the question, by which the report breaks the answers down."""

    @field_validator("question", "targets")
    @classmethod
    def _says_something(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        texts = (value,) if isinstance(value, str) else value
        if not all(text.strip() for text in texts):
            raise ValueError("an empty text")
        return value


@dataclass(frozen=True, slots=True)
class Questions:
    """The questions of a probe, and how they are asked."""

    digest: str
    """Of the file."""
    rows: tuple[ProbeQuestion, ...]
    config: ProbeConfig


def questions_in(raw: Path, config: ProbeConfig) -> Questions:
    """Reads the questions. Raises InputError, and RecordError with `file:line`."""
    if raw.is_file():
        raise InputError(
            f"evaluate.probe: {raw} is a file: put it into a folder with {config.file}, and name "
            "the folder in turn.raw"
        )
    path = raw / config.file
    if not path.is_file():
        raise InputError(f"{path}: no such file: evaluate.probe names it")
    rows = tuple(io.read(path, ProbeQuestion))
    if not 1 <= len(rows) <= MOST:
        raise InputError(f"{path} has {len(rows)} questions: a probe has 1 to {MOST:,}")
    ((question, times),) = Counter(row.question for row in rows).most_common(1)
    if times > 1:
        raise InputError(f"{path} has the question {question[:80]!r} {times} times")
    return Questions(file_digest(path), rows, config)


def asked_alone(
    questions: Questions, policy: ChatModel, system: ProbeSystem, version: str | None
) -> Iterator[ProbeAnswer]:
    """Asks a policy every question, and scores its answers."""
    config = questions.config
    queries = [_query(row) for row in questions.rows]
    greedy = Sampling(max_tokens=config.max_tokens)
    requests = []
    for number, query in enumerate(queries):
        requests.append(Request(query.prompt, greedy, 0, number // BLOCK))
    answers = [answered(one) for one in policy.generate(requests)]
    with config.scorer.open() as scorer:
        scores = _scores(scorer, queries, [one.text for one in answers])
        for row, answer, score in zip(questions.rows, answers, scores, strict=True):
            yield ProbeAnswer(
                system=system,
                version=version,
                model=answer.model,
                question=row.question,
                targets=row.targets,
                kind=row.kind,
                answer=answer.text,
                failed=None if answer.text is not None else str(answer.failed),
                score=score,
                scorer=scorer.name,
                file=questions.digest,
                questions=len(queries),
            )


def probed(path: Path, versions: Mapping[str, Collection[str | None]]) -> Probed | None:
    """The answers in a file as means and differences; None if nothing was asked.

    `versions` has, by system, the digest of the version that was judged. Raises ContractError for
    the answers of other versions, and for a file that is not whole.
    """
    rows: dict[str, list[ProbeAnswer]] = {}
    for row in io.read(path, ProbeAnswer):
        rows.setdefault(row.system, []).append(row)
    if not rows:
        return None
    first = next(iter(rows.values()))
    asked = {row.question: number for number, row in enumerate(first)}
    for system, of_system in rows.items():
        _whole(path, system, of_system, first, versions)
    values: dict[str, Floats] = {}
    for system in SYSTEMS:
        known = np.full(len(asked), np.nan)
        for row in rows.get(system, ()):
            if row.score is not None:
                known[asked[row.question]] = row.score
        values[system] = known
    report = Probe(
        file=first[0].file,
        questions=len(asked),
        scorer=first[0].scorer,
        kinds=dict(Counter(row.kind for row in first if row.kind is not None)),
        systems={name: _told(rows[name]) for name in SYSTEMS if name in rows},
    )
    failed = {name: np.isnan(known).astype(float).tolist() for name, known in values.items()}
    return Probed(report, _estimated(list(asked), values), failed)


def _query(row: ProbeQuestion) -> Query:
    """A question as the scorers know one."""
    prompt = (Message(role="user", content=row.question),)
    return Query(group="probe", split="test", prompt=prompt, targets=row.targets, source="probe")


def _scores(
    scorer: Scorer, queries: list[Query], texts: list[str | None]
) -> Iterator[float | None]:
    """The score of each answer; None for an answer that is missing."""
    given = []
    for query, text in zip(queries, texts, strict=True):
        if text is not None:
            given.append((query, text))
    scores = scorer.score(given)
    for text in texts:
        yield None if text is None else next(scores).value


def _whole(
    path: Path,
    system: str,
    rows: list[ProbeAnswer],
    first: list[ProbeAnswer],
    versions: Mapping[str, Collection[str | None]],
) -> None:
    """Raises ContractError if a system's answers are not all there, or of something else."""
    again = "run evaluate again, which writes it"
    for row in rows:
        if system != "base" and row.version not in versions.get(system, ()):
            raise ContractError(
                f"{path} is of another version of {system!r} than the trials "
                f"({str(row.version)[:12]}): {again} beside them"
            )
        if (row.file, row.scorer, row.model) != (first[0].file, first[0].scorer, rows[0].model):
            raise ContractError(f"{path} has answers to two files, or by two models: {again} whole")
    asked = [row.question for row in rows]
    whole = len(rows) == rows[0].questions and len(set(asked)) == len(asked)
    if not whole or asked != [row.question for row in first]:
        raise ContractError(
            f"{path} has {len(rows)} answers of {system!r} to {rows[0].questions} questions, or to "
            f"others than of {first[0].system!r}: it is not whole: {again}"
        )


def _told(rows: list[ProbeAnswer]) -> ProbeScore:
    """One system's answers as the report has them."""
    by_kind: dict[str, list[float]] = {}
    every = []
    for row in rows:
        if row.score is None:
            continue
        every.append(row.score)
        if row.kind is not None:
            by_kind.setdefault(row.kind, []).append(row.score)
    return ProbeScore(
        model=rows[0].model,
        score=round(sum(every) / len(every), 6) if every else None,
        failed=len(rows) - len(every),
        kinds={kind: round(sum(one) / len(one), 6) for kind, one in by_kind.items()},
    )


def _estimated(questions: list[str], values: dict[str, Floats]) -> dict[Quantity, Estimate | None]:
    """Each system's mean, and the difference of each two; every question is a group of its own."""
    ratios: dict[Quantity, Ratio] = {}
    for of, one in values.items():
        ratios[Quantity("probe", of, None)] = mean_of(one, (0.0, 1.0))
        for over, other in values.items():
            if over != of:
                # Equal answers are evidence here: where few of many questions differ, the
                # interval is that of a count.
                ratios[Quantity("probe", of, over)] = mean_of(one - other, (-1.0, 1.0))
    return dict(zip(ratios, estimates(questions, list(ratios.values())), strict=True))
