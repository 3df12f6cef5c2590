"""Rules of every provider that answers people who wait. A new one: a function that yields its
Subject, and its name in PROVIDERS.
"""

import asyncio
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cowest.config import Sampling
from cowest.errors import UpstreamError
from cowest.ledger.store import StoredAnswer, open_store
from cowest.models.hf import HFConfig
from cowest.models.scripted import ScriptedConfig, ScriptRule
from cowest.protocols import AsyncChatModel, ChatModel, Completion, Request, Served
from tests import endpoints, servers, tiny
from tests.factories import GREEDY, ask
from tests.servers import GOOD, Fate, chat_server, error

SAMPLINGS = (
    GREEDY,
    Sampling(temperature=1.0, max_tokens=10, n=3),
    Sampling(temperature=0.7, top_p=0.8, max_tokens=7, seed=5),
    Sampling(max_tokens=12, stop=("e", "in")),
    Sampling(max_tokens=1),
)
TEXTS = (
    "What is 7 and one?",
    "8?",
    "Which country does the Phoenix fan come from, and why do you ask it 9 times?",
    "The Comet pump is made in Oslo, and so are 3 more. " * 4,
)


@dataclass(frozen=True)
class Subject:
    """A provider under test."""

    config: Any
    poison: str
    """A message that it can't answer."""
    uses_the_store: bool = False
    """Such a model is opened for each test, since stores end with their test."""


@contextmanager
def scripted() -> Iterator[Subject]:
    rules = (
        ScriptRule(match="poison", failed="told to fail"),
        ScriptRule(match=r"\d+", replies=("is it {0}, or none?", "it is {0}", "{0} in the end!")),
    )
    yield Subject(ScriptedConfig(rules=rules), "poison")


@contextmanager
def hf() -> Iterator[Subject]:
    # Four rows, so that some wait for their turn.
    yield Subject(HFConfig(model=str(tiny.model()), rows=4), "too long for it " * 400)


def hosted(body: dict[str, Any]) -> Fate:
    """An answer to each message, that to the third text with pauses."""
    asked = body["messages"][-1]["content"]
    if asked == "poison":
        return error(400)
    if asked != TEXTS[2] or not body.get("stream"):
        return GOOD
    pieces: list[bytes | float | None] = []
    for piece in servers.streamed(f"answer to {asked}"):
        pieces += [piece, 0.02] if len(pieces) < 12 else [piece]
    return Fate(pieces=pieces)


@contextmanager
def openai() -> Iterator[Subject]:
    with chat_server(otherwise=hosted) as server:
        yield Subject(endpoints.config(server, timeout=60), "poison", uses_the_store=True)


PROVIDERS = [scripted, hf, openai]


class Opened:
    """A model for people who wait, and the answers that its ChatModel gives, each alone."""

    def __init__(
        self, subject: Subject, model: AsyncChatModel, plain: ChatModel, runner: asyncio.Runner
    ) -> None:
        self.subject = subject
        self.model = model
        self.plain = plain
        self._run = runner.run
        self._known: dict[str, Completion] = {}

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Runs on the loop that the model was opened on, within a minute."""
        return self._run(asyncio.wait_for(coroutine, 60))

    def alone(self, requests: Sequence[Request]) -> list[Completion]:
        """The answers of the ChatModel of the same settings."""
        for request in requests:
            if request.key("") not in self._known:
                (self._known[request.key("")],) = self.plain.generate([request])
        return [self._known[request.key("")] for request in requests]

    async def pieces(
        self, request: Request, most: int | None = None, later: int = 0
    ) -> list[str | Completion]:
        """Streams to somebody who comes later, and may leave after some pieces."""
        for _ in range(later):
            await asyncio.sleep(0.001)
        found: list[str | Completion] = []
        stream = self.model.stream(request, served())
        async for piece in stream:
            found.append(piece)
            if most is not None and len(found) > most:
                break
        await stream.aclose()
        return found


@pytest.fixture(scope="module", params=PROVIDERS, ids=lambda provider: provider.__name__)
def subject(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Subject]:
    with pytest.MonkeyPatch.context() as patched, request.param() as found:
        patched.setenv("COWEST_STORE", str(tmp_path_factory.mktemp("store") / "calls.sqlite"))
        yield found


@contextmanager
def opening(subject: Subject) -> Iterator[Opened]:
    with subject.config.open() as plain, asyncio.Runner() as runner:
        context = subject.config.open_async()
        model = runner.run(context.__aenter__())
        yield Opened(subject, model, plain, runner)
        runner.run(context.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def shared(subject: Subject) -> Iterator[Opened | None]:
    """A model that is opened once for all tests, since that takes a while."""
    with nullcontext() if subject.uses_the_store else opening(subject) as found:
        yield found


@pytest.fixture
def opened(subject: Subject, shared: Opened | None) -> Iterator[Opened]:
    with nullcontext(shared) if shared is not None else opening(subject) as found:
        yield found


def served(seconds: float = 60) -> Served:
    return Served("one", time.monotonic() + seconds)


def same(streamed: Sequence[str | Completion], expected: Completion) -> None:
    """Holds what was streamed against the ChatModel's answer."""
    *texts, last = streamed
    assert isinstance(last, Completion)
    assert all(isinstance(text, str) and text for text in texts)
    assert "".join(map(str, texts)) == (last.text or "")
    for name in ("text", "model", "finish", "failed", "prompt_tokens", "completion_tokens"):
        assert getattr(last, name) == getattr(expected, name)
    assert last.logprob == pytest.approx(expected.logprob, abs=1e-3)


REQUESTS = [ask(text, sampling) for text in TEXTS for sampling in SAMPLINGS]


def test_texts_come_one_after_the_other_and_the_completion_last(opened: Opened) -> None:
    streamed = opened.run(opened.pieces(ask(TEXTS[2])))
    assert [type(piece) for piece in streamed[-2:]] == [str, Completion]
    assert len(streamed) > 2, "an answer of several tokens comes in several texts"
    same(streamed, *opened.alone([ask(TEXTS[2])]))


def test_each_answer_is_the_chat_models(opened: Opened) -> None:
    for request, expected in zip(REQUESTS, opened.alone(REQUESTS), strict=True):
        same(opened.run(opened.pieces(request)), expected)


def test_many_at_once_are_answered_as_each_alone(opened: Opened) -> None:
    async def all_at_once() -> list[list[str | Completion]]:
        return await asyncio.gather(*map(opened.pieces, REQUESTS))

    for streamed, expected in zip(opened.run(all_at_once()), opened.alone(REQUESTS), strict=True):
        same(streamed, expected)


def test_what_can_not_be_answered_has_a_reason_and_no_texts(opened: Opened) -> None:
    poison = ask(opened.subject.poison)

    async def beside_others() -> list[list[str | Completion]]:
        return await asyncio.gather(*map(opened.pieces, [ask(TEXTS[0]), poison, ask(TEXTS[1])]))

    before, (failed,), after = opened.run(beside_others())
    same([failed], *opened.alone([poison]))
    assert isinstance(failed, Completion) and failed.text is None and failed.failed
    same(before, *opened.alone([ask(TEXTS[0])]))
    same(after, *opened.alone([ask(TEXTS[1])]))


def test_whoever_leaves_early_is_in_nobodys_way(opened: Opened) -> None:
    async def some_leave() -> list[list[str | Completion]]:
        leaving = [opened.pieces(one, 0) for one in REQUESTS[:12]]
        return await asyncio.gather(*leaving, opened.pieces(ask(TEXTS[2])))

    *left, stayed = opened.run(some_leave())
    assert {len(streamed) for streamed in left} == {1}
    same(stayed, *opened.alone([ask(TEXTS[2])]))


def test_a_cancelled_call_is_in_nobodys_way(opened: Opened) -> None:
    async def cancelled() -> list[str | Completion]:
        tasks = [asyncio.create_task(opened.pieces(one)) for one in REQUESTS[:8]]
        await asyncio.sleep(0.002)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(one, list | asyncio.CancelledError) for one in ended)
        return await opened.pieces(ask(TEXTS[2]))

    same(opened.run(cancelled()), *opened.alone([ask(TEXTS[2])]))


def test_a_deadline_that_has_passed_is_said(opened: Opened) -> None:
    async def late() -> list[str | Completion]:
        stream = opened.model.stream(ask(TEXTS[2]), served(-1))
        return [piece async for piece in stream]

    with pytest.raises(UpstreamError, match="deadline"):
        opened.run(late())
    same(opened.run(opened.pieces(ask(TEXTS[2]))), *opened.alone([ask(TEXTS[2])]))


def test_nothing_is_answered_from_the_store_or_kept_in_it(opened: Opened) -> None:
    request = ask("What is 4711?")
    key = request.key(opened.model.name)
    first = opened.run(opened.pieces(request))
    assert open_store().get([key]) == {}
    open_store().put([StoredAnswer(key, Completion("of the store", opened.model.name), 0.0)])
    assert opened.run(opened.pieces(request))[-1] == first[-1]


def test_its_name_is_the_chat_models(opened: Opened) -> None:
    assert opened.model.name == opened.plain.name


COMING = st.builds(
    lambda number, sample, later, most: (REQUESTS[number], sample, later, most),
    st.integers(0, len(REQUESTS) - 1),
    st.integers(0, 2),
    st.integers(0, 12),
    st.none() | st.integers(0, 6),
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(coming=st.lists(COMING, max_size=12))
def test_whoever_comes_and_goes_and_when_each_gets_the_chat_models_answer(
    opened: Opened, coming: list[tuple[Request, int, int, int | None]]
) -> None:
    asked = [Request(one.messages, one.sampling, sample) for one, sample, _, _ in coming]

    async def all_come() -> list[list[str | Completion]]:
        come = []
        for request, (_, _, later, most) in zip(asked, coming, strict=True):
            come.append(opened.pieces(request, most, later))
        return await asyncio.gather(*come)

    answers = opened.alone(asked)
    for streamed, expected, (_, _, _, most) in zip(
        opened.run(all_come()), answers, coming, strict=True
    ):
        if most is None or isinstance(streamed[-1], Completion):
            same(streamed, expected)
        else:
            assert (expected.text or "").startswith("".join(map(str, streamed)))
