"""The method: the policy drafts, the strong model refines, and scores say what a draft was worth.

    y* = strong(x, policy(x))        gain(draft) = score(strong(x, draft)) - score(strong(x))

(Jiao et al., ACL 2025, arXiv 2504.15188, sections 4.3 and 4.4.) Training, evaluation and serving
use these functions unchanged. For people who wait, `ask_draft`, `ask_refinement` and `ask_solo` say
what a model is asked, and `stream_answer` and `whole_answer` ask it.

Each step turns a stream of rows into a stream of longer rows in the same order: `draft` queries
into drafts, `refine` drafts into refinements, `score` refinements into feedback. The steps are
lazy. A model reads requests ahead of its answers, so that it has enough to do, and rows are read
as far ahead as the model reads and no further. So a step has two halves: an inner function that
says what each row asks, and a loop that makes rows of the answers. `_answered` joins the two.
"""

from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar

from cowest.batched import batched
from cowest.config import Sampling
from cowest.errors import ThoughtShownError
from cowest.prompts import Prompts
from cowest.protocols import (
    BLOCK,
    AsyncChatModel,
    ChatModel,
    Completion,
    Request,
    Score,
    Scorer,
    Served,
)
from cowest.records import NOBODY, Draft, Feedback, Message, Query, Refinement, grown
from cowest.selecting import Chooser, QueryDrafts
from cowest.thoughts import ThoughtFilter, without_thoughts

D = TypeVar("D", bound=Draft)
Item = TypeVar("Item")
Question = TypeVar("Question")
Result = TypeVar("Result")

THOUGHT_ALONE = "nothing but a thought, and no answer after it"
THOUGHT_CUT = "max_tokens were used up by a thought before the answer began: raise it"


def draft(
    queries: Iterable[Query],
    policy: ChatModel,
    prompts: Prompts,
    sampling: Sampling,
    candidates: Sampling | None = None,
) -> Iterator[Draft]:
    """Asks the policy for `sampling.n` drafts of each query.

    With `candidates`, it is also asked by each prompt in `prompts.candidates` for `candidates.n`
    drafts more; their rows follow those of its own prompt, and name theirs.
    """
    names = candidate_names(prompts, sampling, candidates)

    def asked() -> Iterator[tuple[Query, list[Request]]]:
        for number, query in enumerate(queries):
            block = number // BLOCK
            messages = prompts.draft.render(query.prompt)
            requests = [Request(messages, sampling, sample, block) for sample in range(sampling.n)]
            if candidates is not None:
                for template in prompts.candidates.values():
                    messages = template.render(query.prompt, group=query.group)
                    for sample in range(candidates.n):
                        requests.append(Request(messages, candidates, sample, block))
            yield query, requests

    for query, completions in _answered(asked(), policy.generate):
        for sample, (name, completion) in enumerate(zip(names, completions, strict=True)):
            failed = _failure("draft", answered(completion))
            yield grown(
                Draft,
                query,
                sample=sample,
                # With its thoughts: who trains a policy that thinks makes pairs of them.
                draft=completion.text if failed is None else None,
                cut=completion.finish == "length",
                policy=completion.model,
                candidate=name,
                failed=failed,
            )


def candidate_names(
    prompts: Prompts, sampling: Sampling, candidates: Sampling | None
) -> list[str | None]:
    """The name of the prompt of each draft of a query, in order; None for the policy's own."""
    names: list[str | None] = [None] * sampling.n
    if candidates is not None:
        for name in prompts.candidates:
            names += [name] * candidates.n
    return names


def refine(
    groups: Iterable[list[Draft]],
    strong: ChatModel,
    prompts: Prompts,
    sampling: Sampling,
    choice: Chooser | None = None,
) -> Iterator[Refinement]:
    """Asks the strong model each query once alone, and once with each draft; a group is a query.

    A draft is shown without its thoughts, and drafts that are equal then are one call. A failed
    draft is not refined. A failed `solo` fails all
    rows of its query: without it there is no bar to clear.
    With `choice`, only the drafts that it chooses are asked about. The rows of the others say that
    nobody was asked, and a query of which none is chosen is not asked alone.
    """

    def asked() -> Iterator[tuple[tuple[list[Draft], list[str] | None], list[Request]]]:
        for number, (group, texts) in enumerate(_chosen(groups, choice)):
            conversations: list[tuple[Message, ...]] = []
            if texts is not None:
                prompt = group[0].prompt
                conversations.append(prompts.solo.render(prompt))
                for text in texts:
                    conversations.append(prompts.refine.render(prompt, text))
            requests = [Request(one, sampling, 0, number // BLOCK) for one in conversations]
            yield (group, texts), requests

    for (group, texts), answers in _answered(asked(), strong.generate):
        if texts is None:
            yield from unrefined([group])
            continue
        solo, *refined = answers
        by_draft = dict(zip(texts, refined, strict=True))
        for row in group:
            shown = _shown(row)
            if shown is None or shown in by_draft:
                yield _refinement(row, answered(solo), by_draft)
            else:
                yield from unrefined([[row]])


def unrefined(groups: Iterable[list[Draft]]) -> Iterator[Refinement]:
    """The rows of drafts about which no strong model is asked; a group is a query."""
    for group in groups:
        for row in group:
            yield grown(Refinement, row, refinement=None, solo=None, strong=NOBODY)


def calls_of(group: Sequence[Refinement]) -> tuple[int, int]:
    """The calls to the strong model behind a query's rows, and those of asking about all drafts."""
    asked = [row for row in group if row.strong != NOBODY]
    calls = 1 + len(shown(asked)) if asked else 0
    return calls, 1 + len(shown(group))


def shown(group: Sequence[Draft]) -> list[str]:
    """The drafts of a query as they are shown, in order, each once, failed ones left out."""
    texts = map(_shown, group)
    return list(dict.fromkeys(text for text in texts if text is not None))


def score(groups: Iterable[list[Refinement]], scorer: Scorer) -> Iterator[Feedback]:
    """Scores refinement, solo and draft of each row by the same scorer; a group is a query.

    An answer is scored without its thoughts, and answers that are equal then are scored once. A
    failed score is not a zero: it fails its row.
    """

    def asked() -> Iterator[tuple[list[Refinement], list[tuple[Query, str]]]]:
        for group in groups:
            yield group, [(group[0], text) for text in _distinct_answers(group)]

    for group, scores in _answered(asked(), scorer.score):
        by_text = dict(zip(_distinct_answers(group), scores, strict=True))
        for row in group:
            yield _feedback(row, by_text, scorer.name)


def feedback(
    queries: Iterable[Query],
    policy: ChatModel,
    strong: ChatModel,
    scorer: Scorer,
    prompts: Prompts,
    drafting: Sampling,
    refining: Sampling,
) -> Iterator[Feedback]:
    """The three steps in one, in memory: a reward function for RL on the same signal calls this."""
    drafts = draft(queries, policy, prompts, drafting)
    refinements = refine(by_query(drafts), strong, prompts, refining)
    return score(by_query(refinements), scorer)


def answer(
    prompt: tuple[Message, ...],
    policy: ChatModel,
    strong: ChatModel,
    prompts: Prompts,
    drafting: Sampling,
    refining: Sampling,
) -> tuple[Completion, Completion | None]:
    """Answers one question as it is served: the draft, and the strong model's answer with it.

    Both are without their thoughts. The second is None if there is no draft.
    """
    (found,) = answers([prompt], policy, strong, prompts, drafting, refining)
    return found


def answers(
    conversations: Sequence[tuple[Message, ...]],
    policy: ChatModel,
    strong: ChatModel,
    prompts: Prompts,
    drafting: Sampling,
    refining: Sampling,
) -> list[tuple[Completion, Completion | None]]:
    """Answers questions as they are served: of each the draft, and the strong model's answer.

    All are without their thoughts. The second is None if there is no draft.
    """

    def drafts_asked() -> Iterator[Request]:
        for number, conversation in enumerate(conversations):
            request = ask_draft(conversation, prompts, drafting)
            yield replace(request, block=number // BLOCK)

    drafts = list(map(answered, policy.generate(drafts_asked())))

    def answers_asked() -> Iterator[Request]:
        number = 0
        for conversation, draft in zip(conversations, drafts, strict=True):
            if draft.text is not None:
                request = ask_refinement(conversation, draft.text, prompts, refining)
                yield replace(request, block=number // BLOCK)
                number += 1

    refined = map(answered, strong.generate(answers_asked()))
    found: list[tuple[Completion, Completion | None]] = []
    for draft in drafts:
        found.append((draft, None if draft.text is None else next(refined)))
    # The model is read to its end, so that what it holds open is closed.
    assert next(refined, None) is None, "a model must answer each request once"
    return found


def ask_draft(prompt: tuple[Message, ...], prompts: Prompts, drafting: Sampling) -> Request:
    """The request for a draft of one conversation."""
    return Request(prompts.draft.render(prompt), drafting)


def ask_refinement(
    prompt: tuple[Message, ...], draft: str, prompts: Prompts, refining: Sampling, sample: int = 0
) -> Request:
    """The request for the strong model's answer with a draft, which is without its thoughts."""
    return Request(prompts.refine.render(prompt, draft), refining, sample)


def ask_solo(
    prompt: tuple[Message, ...], prompts: Prompts, refining: Sampling, sample: int = 0
) -> Request:
    """The request for the strong model's answer alone."""
    return Request(prompts.solo.render(prompt), refining, sample)


async def stream_answer(
    model: AsyncChatModel, request: Request, served: Served, opened: bool = False
) -> AsyncGenerator[str | Completion, None]:
    """Yields the texts of an answer as they come, and its completion, both without thoughts.

    opened: the model's prompt opens a thought, so that what comes first is none of the answer.
    Raises ThoughtShownError where a text turns out to be a thought after it was yielded, and what
    the model raises.
    """
    unseen = ThoughtFilter(opened)
    async with aclosing(model.stream(request, served)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Completion):
                completion = answered(piece)
                # An answer that was refused half-way has no rest.
                text = "" if piece.text is None else unseen.end(completion.text or "")
            else:
                completion = None
                text = unseen.push(piece)
            if unseen.late:
                raise ThoughtShownError(
                    f"{model.name}: the text so far was a thought, as a mark after it says"
                )
            if text:
                yield text
            if completion is not None:
                yield completion


async def whole_answer(model: AsyncChatModel, request: Request, served: Served) -> Completion:
    """The completion of a request without its thoughts. Raises what the model raises."""
    found = None
    async with aclosing(model.stream(request, served)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Completion):
                found = answered(piece)
    assert found is not None, "a model must end its stream with a completion"
    return found


def answered(completion: Completion) -> Completion:
    """The completion without its thoughts; one that holds nothing else has no text and failed."""
    if completion.text is None:
        return completion
    text = without_thoughts(completion.text)
    if text or text == completion.text:
        return replace(completion, text=text)
    failed = THOUGHT_CUT if completion.finish == "length" else THOUGHT_ALONE
    return replace(completion, text=None, failed=failed)


def by_query(rows: Iterable[D]) -> Iterator[list[D]]:
    """Groups adjacent rows of one query."""
    group: list[D] = []
    for row in rows:
        if group and row.id != group[0].id:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def _refinement(row: Draft, solo: Completion, by_draft: dict[str, Completion]) -> Refinement:
    """A draft with the strong model's answers; `failed` holds the first failure."""
    failed = row.failed or _failure("solo", solo)
    text, tokens = None, None
    shown = _shown(row)
    if shown is not None:
        refined = answered(by_draft[shown])
        text, tokens = refined.text, refined.completion_tokens or None
        failed = failed or _failure("refine", refined)
    elif failed is None:
        failed = f"draft: {THOUGHT_ALONE}"
    return grown(
        Refinement,
        row,
        refinement=text,
        solo=solo.text,
        strong=solo.model,
        failed=failed,
        refinement_tokens=tokens,
        solo_tokens=solo.completion_tokens or None,
    )


def _feedback(row: Refinement, by_text: dict[str, Score], scorer: str) -> Feedback:
    """A refinement with the scores of its answers; `failed` holds the first failure."""
    refinement = _score_of(row.refinement, by_text)
    solo = _score_of(row.solo, by_text)
    drafted = _score_of(row.draft, by_text)
    return grown(
        Feedback,
        row,
        failed=row.failed or _scoring_failure(refinement, solo, drafted),
        score=refinement.value,
        solo_score=solo.value,
        draft_score=drafted.value,
        scorer=scorer,
        explanation=refinement.explanation,
    )


def _score_of(text: str | None, by_text: dict[str, Score]) -> Score:
    """The score of an answer; an answer that a failed call did not give has none."""
    if text is None:
        return Score(None)
    said = without_thoughts(text)
    if not said and text:
        return Score(None, failed=THOUGHT_ALONE)
    return by_text[said]


def cut(group: Sequence[Draft]) -> frozenset[str]:
    """The drafts of a query, as they are shown, that were cut at their limit each time."""
    texts: dict[str, bool] = {}
    for row in group:
        text = _shown(row)
        if text is not None:
            texts[text] = texts.get(text, True) and row.cut
    return frozenset(text for text, is_cut in texts.items() if is_cut)


def _shown(row: Draft) -> str | None:
    """The draft as the strong model is shown it; None if there is none but thoughts."""
    if row.draft is None:
        return None
    shown = without_thoughts(row.draft)
    return shown if shown or not row.draft else None


def _failure(step: str, completion: Completion) -> str | None:
    """The reason for a missing completion; None if the completion is there."""
    if completion.text is not None:
        return None
    return f"{step}: {completion.failed}"


def _scoring_failure(*scores: Score) -> str | None:
    """The reason of the first score that failed; None if none did."""
    for found in scores:
        if found.failed:
            return f"score: {found.failed}"
    return None


def _chosen(
    groups: Iterable[list[Draft]], choice: Chooser | None
) -> Iterator[tuple[list[Draft], list[str] | None]]:
    """Each query with the drafts that are asked about; None where the query is not asked at all."""
    if choice is None:
        for group in groups:
            yield group, shown(group)
        return
    for block in batched(groups, BLOCK):
        texts = choice([QueryDrafts(group[0], shown(group), cut(group)) for group in block])
        for group, found in zip(block, texts, strict=True):
            yield group, found or None


def _distinct_answers(group: list[Refinement]) -> list[str]:
    """All answers that a query was given, without their thoughts, in order, each text once."""
    texts: dict[str, None] = {}
    for row in group:
        for text in (row.solo, row.draft, row.refinement):
            said = without_thoughts(text or "")
            if said or text == "":
                texts[said] = None
    return list(texts)


def _answered(
    asked: Iterable[tuple[Item, Sequence[Question]]],
    answer_all: Callable[[Iterator[Question]], Iterator[Result]],
) -> Iterator[tuple[Item, list[Result]]]:
    """Each item with the answers to its questions, in order.

    `answer_all` gets the questions of all items as one stream, and may read ahead as far as it
    likes; it must answer each question once, in order.
    """
    # The items whose questions were read and whose answers have not all come, oldest first, each
    # with the number of its questions. Pulling an answer makes `answer_all` pull questions, which
    # adds items on the right. The questions themselves are not kept: a model may read far ahead.
    waiting: deque[tuple[Item, int]] = deque()

    def questions() -> Iterator[Question]:
        for item, of_item in asked:
            waiting.append((item, len(of_item)))
            yield from of_item

    answers: list[Result] = []
    for found in answer_all(questions()):
        # This answer belongs to the oldest item that asked something.
        while waiting[0][1] == 0:
            yield waiting.popleft()[0], []
        answers.append(found)
        item, count = waiting[0]
        if len(answers) == count:
            waiting.popleft()
            yield item, answers
            answers = []
    while waiting and waiting[0][1] == 0:
        yield waiting.popleft()[0], []
    assert not waiting and not answers, "a model or scorer must answer each request once"
