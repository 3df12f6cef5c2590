"""The algorithm: the policy drafts, the strong model refines, and what the draft was worth is scored.

    y* = strong(x, policy(x))        gain(draft) = score(strong(x, draft)) - score(strong(x))

(Jiao et al., ACL 2025, arXiv 2504.15188, sections 4.3 and 4.4.) Training, evaluation and serving use these functions
unchanged. Everything is lazy: rows are read as far ahead as the model's window and no further.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar

from cowest.config import Sampling
from cowest.prompts import Prompts
from cowest.protocols import BLOCK, ChatModel, Completion, Request, Score, Scorer
from cowest.records import Draft, Feedback, Message, Query, Refinement

T = TypeVar("T")
R = TypeVar("R", bound=Sized)
S = TypeVar("S")
D = TypeVar("D", bound=Draft)


def draft(
    queries: Iterable[Query], policy: ChatModel, prompts: Prompts, sampling: Sampling
) -> Iterator[Draft]:
    """`sampling.n` drafts of each query."""

    def asked() -> Iterator[tuple[Query, list[Request]]]:
        for number, query in enumerate(queries):
            messages = prompts.draft.render(query.prompt)
            yield (
                query,
                [
                    Request(messages, sampling, sample, number // BLOCK)
                    for sample in range(sampling.n)
                ],
            )

    for query, completions in _answered(asked(), policy):
        for sample, completion in enumerate(completions):
            yield Draft(
                **_fields(query),
                sample=sample,
                draft=completion.text,
                cut=completion.finish == "length",
                policy=completion.model,
                failed=_reason("draft", completion),
            )


def refine(
    groups: Iterable[list[Draft]], strong: ChatModel, prompts: Prompts, sampling: Sampling
) -> Iterator[Refinement]:
    """Each draft refined, and each query asked once without one. Equal drafts of a query are one call.

    A failed draft is not refined. A failed `solo` fails its query: there is no bar to clear.
    """

    def asked() -> Iterator[tuple[list[Draft], list[Request]]]:
        for number, group in enumerate(groups):
            asks = [prompts.solo.render(group[0].prompt)]
            asks += [prompts.refine.render(group[0].prompt, text) for text in _distinct(group)]
            yield group, [Request(messages, sampling, 0, number // BLOCK) for messages in asks]

    for group, (solo, *refined) in _answered(asked(), strong):
        by_draft = dict(zip(_distinct(group), refined, strict=True))
        for row in group:
            refinement = by_draft.get(row.draft) if row.draft is not None else None
            failed = (
                row.failed
                or _reason("solo", solo)
                or (_reason("refine", refinement) if refinement else None)
            )
            yield Refinement(
                **_fields(row, "failed"),
                refinement=refinement.text if refinement else None,
                solo=solo.text,
                strong=solo.model,
                failed=failed,
            )


def score(groups: Iterable[list[Refinement]], scorer: Scorer) -> Iterator[Feedback]:
    """Refinement, solo and draft of each row scored by the same scorer. Equal answers of a query are scored once.

    A failed score is not a zero: it fails its row.
    """
    waiting: deque[tuple[list[Refinement], list[str]]] = deque()

    def answers() -> Iterator[tuple[Query, str]]:
        for group in groups:
            texts = list(
                dict.fromkeys(
                    t
                    for row in group
                    for t in (row.solo, row.draft, row.refinement)
                    if t is not None
                )
            )
            waiting.append((group, texts))
            yield from ((group[0], text) for text in texts)

    scores = scorer.score(answers())
    for (group, texts), found in _regrouped(waiting, scores):
        by_text = dict(zip(texts, found, strict=True))
        for row in group:
            yield _scored(row, by_text, scorer.name)


def feedback(
    queries: Iterable[Query],
    policy: ChatModel,
    strong: ChatModel,
    scorer: Scorer,
    prompts: Prompts,
    drafting: Sampling,
    refining: Sampling,
) -> Iterator[Feedback]:
    """The three steps in one, in memory: what a reward function for RL on the same signal calls."""
    drafts = draft(queries, policy, prompts, drafting)
    return score(by_query(refine(by_query(drafts), strong, prompts, refining)), scorer)


def answer(
    prompt: tuple[Message, ...],
    policy: ChatModel,
    strong: ChatModel,
    prompts: Prompts,
    drafting: Sampling,
    refining: Sampling,
) -> tuple[Completion, Completion | None]:
    """One question, as it is served: the draft, and the strong model's answer with it (None when there is no draft)."""
    (drafted,) = policy.generate([Request(prompts.draft.render(prompt), drafting)])
    if drafted.text is None:
        return drafted, None
    (refined,) = strong.generate([Request(prompts.refine.render(prompt, drafted.text), refining)])
    return drafted, refined


def _scored(row: Refinement, scores: dict[str, Score], scorer: str) -> Feedback:
    missing = Score(None)
    with_draft, alone, of_draft = (
        scores.get(text, missing) if text is not None else missing
        for text in (row.refinement, row.solo, row.draft)
    )
    failed = row.failed or next(
        (f"score: {s.failed}" for s in (with_draft, alone, of_draft) if s.failed), None
    )
    return Feedback(
        **_fields(row, "failed"), failed=failed, score=with_draft.value, solo_score=alone.value, draft_score=of_draft.value,
        scorer=scorer, explanation=with_draft.explanation,
    )  # fmt: skip


def _answered(
    asked: Iterable[tuple[T, list[Request]]], model: ChatModel
) -> Iterator[tuple[T, list[Completion]]]:
    """Each item with the completions of its requests, however far ahead the model reads."""
    waiting: deque[tuple[T, range]] = (
        deque()
    )  # how many, and not the requests: a model may read far ahead

    def requests() -> Iterator[Request]:
        for item, its in asked:
            waiting.append((item, range(len(its))))
            yield from its

    for (item, _), completions in _regrouped(waiting, model.generate(requests())):
        yield item, completions


def _regrouped(
    waiting: "deque[tuple[T, R]]", results: Iterable[S]
) -> Iterator[tuple[tuple[T, R], list[S]]]:
    """Results dealt back to what asked for them: `waiting` grows from the left side of `results`, in the same order."""
    done: list[S] = []
    for result in results:
        while not waiting[0][1]:
            yield waiting.popleft(), []
        done.append(result)
        if len(done) == len(waiting[0][1]):
            yield waiting.popleft(), done
            done = []
    while waiting and not waiting[0][1]:
        yield waiting.popleft(), []
    assert not waiting and not done, "a model or scorer must answer each request once"


def by_query(rows: Iterable[D]) -> Iterator[list[D]]:
    """Adjacent rows of a query together."""
    group: list[D] = []
    for row in rows:
        if group and row.id != group[0].id:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def _distinct(group: list[Draft]) -> list[str]:
    return list(dict.fromkeys(row.draft for row in group if row.draft is not None))


def _reason(step: str, completion: Completion) -> str | None:
    return f"{step}: {completion.failed}" if completion.text is None else None


def _fields(row: Query, *without: str) -> dict[str, Any]:
    return {name: getattr(row, name) for name in type(row).model_fields if name not in without}
