"""What every provider keeps to. A new one: a function that yields its Subject, and its name in
PROVIDERS.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from cowest.config import Sampling
from cowest.models import AnyProvider
from cowest.models.endpoint.batch import BatchConfig
from cowest.models.hf import HFConfig
from cowest.models.openai import OpenAIConfig
from cowest.models.scripted import ScriptedConfig, ScriptRule
from cowest.models.vllm import VLLMConfig
from cowest.protocols import BLOCK, ChatModel, Request
from cowest.records import Message
from tests import fake_vllm, real_vllm, tiny
from tests.batch_server import batch_server
from tests.servers import chat_server, error

GREEDY, WARM = Sampling(max_tokens=8), Sampling(temperature=1.0, max_tokens=8, n=3)


@dataclass(frozen=True)
class Subject:
    """A provider under test."""

    config: Any
    window: int
    """Requests it may read ahead."""
    poison: str | None = None
    """A message that it can't answer."""
    calls: Callable[[], int] | None = None
    """Calls that cost something so far; None where there are none."""
    lent: ChatModel | None = None
    """A model that is open already, where to open one takes minutes."""

    @contextmanager
    def open(self) -> Iterator[ChatModel]:
        if self.lent is not None:
            yield self.lent
            return
        with self.config.open() as model:
            yield model


@contextmanager
def scripted() -> Iterator[Subject]:
    rules = (
        ScriptRule(match="poison", failed="told to fail"),
        ScriptRule(match=r"\d+", replies=("is it {0}?", "it is {0}", "{0}!")),
    )
    yield Subject(ScriptedConfig(rules=rules), window=1, poison="poison")


@contextmanager
def openai() -> Iterator[Subject]:
    with chat_server({"poison": [error(400)] * 9}) as server:
        config = OpenAIConfig(
            model="tiny", base_url=server.url, key_env=None, concurrency=8, backoff=0.01
        )
        yield Subject(config, window=32 * 8, poison="poison", calls=lambda: server.calls)


@contextmanager
def batched() -> Iterator[Subject]:
    with batch_server({"poison": [error(400)] * 9}) as server:
        config = OpenAIConfig(
            model="tiny",
            base_url=server.url,
            key_env=None,
            backoff=0.01,
            batch=BatchConfig(requests=32, poll=0.01),
        )
        yield Subject(config, window=32, poison="poison", calls=lambda: sum(server.bought.values()))


@contextmanager
def hf() -> Iterator[Subject]:
    config = HFConfig(model=str(tiny.model()), dtype="float32")
    yield Subject(config, window=2 * BLOCK, poison="too long for it " * 400)


@contextmanager
def vllm() -> Iterator[Subject]:
    """The provider with a worker of its own, and an engine that only computes digests."""
    with tempfile.TemporaryDirectory() as folder:
        config = VLLMConfig(
            model=str(tiny.model()), python=fake_vllm.interpreter(Path(folder)), rows=16
        )

        def calls() -> int:
            return sum("request" in line for line in fake_vllm.log(Path(folder)))

        yield Subject(config, window=32 + BLOCK, poison="too long for it " * 400, calls=calls)


@contextmanager
def vllm_itself(model: Path | str = "", adapter: Path | None = None) -> Iterator[Subject]:
    """vLLM itself, where `make test-vllm` made its environment."""
    config = real_vllm.config(model or real_vllm.tiny_model())
    held = real_vllm.held(config, adapter)
    yield Subject(config, window=64 + BLOCK, poison="too long for it " * 400, lent=held)


@contextmanager
def vllm_adapted() -> Iterator[Subject]:
    with vllm_itself(adapter=real_vllm.adapter()) as found:
        yield found


@contextmanager
def vllm_embedded() -> Iterator[Subject]:
    with vllm_itself(real_vllm.EMBEDDED) as found:
        yield found


ITSELF = [vllm_itself, vllm_adapted, vllm_embedded]
PROVIDERS = [
    *[scripted, openai, batched, hf, vllm],
    *[pytest.param(each, marks=pytest.mark.vllm) for each in ITSELF],
]


@pytest.fixture(params=PROVIDERS)
def subject(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Subject]:
    monkeypatch.setenv("COWEST_STORE", str(tmp_path / "calls.sqlite"))
    with request.param() as found:
        yield found


@pytest.fixture
def forget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """Goes on with an empty store."""
    return lambda: monkeypatch.setenv("COWEST_STORE", str(tmp_path / "another.sqlite"))


def ask(text: str, sampling: Sampling = GREEDY, sample: int = 0, number: int = 0) -> Request:
    return Request((Message(role="user", content=text),), sampling, sample, number // BLOCK)


def test_answers_each_request_once_and_in_order(
    subject: Subject, forget: Callable[[], None]
) -> None:
    requests = [ask(f"What is {number} and one?", number=number) for number in range(40)]
    with subject.open() as model:
        forwards = list(model.generate(requests))
    forget()
    with subject.open() as model:
        backwards = list(model.generate(requests[::-1]))
    assert [c.text for c in forwards] == [c.text for c in backwards[::-1]]
    assert len(forwards) == 40 and len({c.text for c in forwards}) > 1
    assert {c.model for c in forwards} == {model.name}


def test_reads_lazily_and_a_bounded_window_ahead(subject: Subject) -> None:
    read = 0

    def endless() -> Iterator[Request]:
        nonlocal read
        while True:
            read += 1
            yield ask(f"What is {read} and one?", number=read - 1)

    with subject.open() as model:
        completions = model.generate(endless())
        assert read == 0, "nothing is read before the first answer is wanted"
        for taken in range(1, 4):
            next(completions)
            assert read <= taken + subject.window


def test_no_requests_no_completions(subject: Subject) -> None:
    with subject.open() as model:
        assert list(model.generate([])) == []


def test_equal_names_answer_equally(subject: Subject, forget: Callable[[], None]) -> None:
    requests = [ask(f"Say {number}", WARM, sample) for number in range(4) for sample in range(3)]
    with subject.open() as first:
        said = list(first.generate(requests))
    forget()
    with subject.open() as second:
        assert second.name == first.name
        assert [c.text for c in second.generate(requests)] == [c.text for c in said]


def test_what_was_asked_before_is_not_asked_again(subject: Subject) -> None:
    requests = [ask(f"What is {number}?", number=number) for number in range(10)]
    with subject.open() as model:
        first = list(model.generate([*requests, *requests]))
    calls = subject.calls() if subject.calls else None
    with subject.open() as model:
        assert list(model.generate(requests)) == first[:10] == first[10:]
    if subject.calls:
        assert subject.calls() == calls == 10


def test_a_failed_completion_has_a_reason_and_no_text(subject: Subject) -> None:
    if subject.poison is None:
        pytest.skip("answers everything")
    with subject.open() as model:
        before, failed, after = model.generate(
            [ask("What is 1?"), ask(subject.poison), ask("What is 2?")]
        )
    assert failed.text is None and failed.failed and failed.finish in ("failed", "refused")
    assert before.text and after.text and before.failed is None and after.failed is None


def test_goes_on_after_a_reader_that_stopped(subject: Subject) -> None:
    requests = [ask(f"What is {number}?", number=number) for number in range(40)]
    with subject.open() as model:
        whole = list(model.generate(requests))
        assert list(islice(model.generate(requests), 2)) == whole[:2]
        assert list(model.generate(requests[:3])) == whole[:3]


def test_its_settings_come_back_from_plain_data(subject: Subject) -> None:
    assert (
        TypeAdapter(AnyProvider).validate_python(subject.config.model_dump(mode="json"))
        == subject.config
    )
