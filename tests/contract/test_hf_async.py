"""A local model answers people who wait as it answers a stage: together, with what it has read
before, and whatever becomes of one of them.
"""

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cowest.config import Sampling
from cowest.errors import ModelError, UpstreamError
from cowest.models.batching import READ
from cowest.models.decoding import HFModel
from cowest.models.hf import HFConfig
from cowest.models.hf_async import AsyncHFModel
from cowest.models.pieces import Pieces
from cowest.models.prefixes import Prefix, Prefixes
from cowest.models.sequences import Sequences
from cowest.protocols import Completion, Request, Served
from cowest.records import Message
from tests import tiny
from tests.factories import GREEDY, ask

pytestmark = pytest.mark.usefixtures("own_store")

if TYPE_CHECKING:
    import torch

LONG = Sampling(max_tokens=400)
SHORT = "Where is the Comet pump made?"
TEXTS = (SHORT, "What?", "Which country does the Phoenix fan come from, and why?", "Say A. Say B.")


@dataclass
class Watched:
    """A model, and the shape (rows, tokens) of every pass through it."""

    model: HFModel
    passes: list[tuple[int, int]] = field(default_factory=list)

    def read(self) -> int:
        """Tokens of prompts that were read since the last time."""
        total = sum(rows * tokens for rows, tokens in self.passes if tokens > 1)
        self.passes.clear()
        return total


@pytest.fixture
def watched() -> Iterator[Watched]:
    with HFConfig(model=str(tiny.model())).open() as model:
        found = Watched(model)

        def note(_: object, inputs: tuple["torch.Tensor"], __: object) -> None:
            found.passes.append((inputs[0].shape[0], inputs[0].shape[1]))

        model.model.register_forward_hook(note)
        yield found


async def pieces(
    model: AsyncHFModel, request: Request, later: float = 0, seconds: float = 60
) -> list[str | Completion]:
    await asyncio.sleep(later)
    stream = model.stream(request, Served("one", time.monotonic() + seconds))
    return [piece async for piece in stream]


def served(
    model: HFModel, work: Callable[[AsyncHFModel], Any], rows: int = 64, seconds: float = 60
) -> Any:
    """Does work with the model for people who wait, and closes it in the end."""

    async def opened() -> Any:
        served = AsyncHFModel(model, rows)
        try:
            return await asyncio.wait_for(work(served), seconds)
        finally:
            await served.close()

    return asyncio.run(opened())


def compare(model: HFModel, requests: Sequence[Request], rows: int = 64) -> None:
    """Asks all, one soon after the other, and holds each answer against the stage's, alone."""

    async def all_come(served: AsyncHFModel) -> list[list[str | Completion]]:
        come = [pieces(served, one, number * 0.002) for number, one in enumerate(requests)]
        return await asyncio.gather(*come)

    for request, streamed in zip(requests, served(model, all_come, rows), strict=True):
        (expected,) = model.generate([request])
        *texts, last = streamed
        assert "".join(texts) == last.text == expected.text
        assert (last.finish, last.completion_tokens) == (
            expected.finish,
            expected.completion_tokens,
        )
        assert last.logprob == pytest.approx(expected.logprob, abs=1e-3)


@pytest.mark.parametrize("kind", ["gemma3", "bloom", "gpt_neo", "mpt"])
def test_calls_join_and_leave_beyond_a_window_or_without_positions(
    kind: str, tmp_path: Path
) -> None:
    """The window has 16 tokens; prompts and answers of all lengths outgrow it together."""
    texts = [*TEXTS, *("The Comet pump is made in Oslo. " * count for count in (3, 1, 6))]
    lengths = (3, 20, 9, 14, 2, 30, 5)
    requests = [
        ask(text, Sampling(max_tokens=length)) for text, length in zip(texts, lengths, strict=True)
    ]
    folder = tmp_path / kind
    made = tiny.make_windowed(folder) if kind == "gemma3" else tiny.make_padded(kind, folder)
    with HFConfig(model=str(made)).open() as model:
        compare(model, [*requests, *requests[::-1]])


def test_a_beginning_is_shared_within_a_sliding_window_and_not_beyond(tmp_path: Path) -> None:
    """The window has 128 tokens: some prompts fit it with their answers, some outgrow it."""
    shots = Message(role="system", content="The Comet pump is made in Oslo, of copper. " * 3)
    requests = []
    for text, length in zip((*TEXTS, TEXTS[2] * 3), (8, 40, 5, 60, 12), strict=True):
        sampling = Sampling(max_tokens=length)
        requests.append(Request((shots, Message(role="user", content=text)), sampling))
    with HFConfig(model=str(tiny.make_windowed(tmp_path / "windowed", 128))).open() as model:
        lengths = [len(model.tokens(one)) + one.sampling.max_tokens for one in requests]
        assert min(lengths) < 128 < max(lengths)
        compare(model, [*requests, *requests[::-1]])


@pytest.mark.parametrize("kind", ["lfm2", "mamba"])
def test_a_model_with_a_state_answers_many_at_once(kind: str, tmp_path: Path) -> None:
    warm = Sampling(temperature=1.0, n=2, max_tokens=6)
    with HFConfig(model=str(tiny.make_recurrent(kind, tmp_path / kind))).open() as model:
        compare(model, [*map(ask, TEXTS), *(ask(text, warm, 1) for text in TEXTS)])


def test_the_beginning_of_prompts_is_read_once(watched: Watched) -> None:
    shots = Message(role="system", content="The Comet pump is made in Oslo, of copper. " * 8)
    requests = [
        Request((shots, Message(role="user", content=text)), GREEDY) for text in (*TEXTS, TEXTS[0])
    ]

    async def one_after_the_other(model: AsyncHFModel) -> list[int]:
        read = []
        for request in requests:
            await pieces(model, request)
            read.append(watched.read())
        return read

    first, *others, again = served(watched.model, one_after_the_other)
    assert first > 150
    assert all(read < 40 for read in others)
    assert again < 40
    compare(watched.model, requests)


def test_those_who_come_at_once_share_the_beginning_too(watched: Watched) -> None:
    shots = Message(role="system", content="The Comet pump is made in Oslo, of copper. " * 8)
    requests = [Request((shots, Message(role="user", content=text)), GREEDY) for text in TEXTS]

    async def at_once(model: AsyncHFModel) -> None:
        await asyncio.gather(*(pieces(model, request) for request in requests))

    served(watched.model, at_once)
    prompts = [len(watched.model.tokens(request)) for request in requests]
    assert watched.read() < prompts[0] + 40 * (len(prompts) - 1) < sum(prompts)


def test_a_long_prompt_is_read_in_parts_and_others_are_answered_meanwhile(
    watched: Watched,
) -> None:
    long = ask("The Comet pump is made in Oslo, of copper. " * 30)
    assert len(watched.model.tokens(long)) > READ
    compare(watched.model, [ask(SHORT), long, ask(TEXTS[2]), long])
    watched.passes.clear()

    async def at_once(model: AsyncHFModel) -> None:
        await asyncio.gather(pieces(model, long), pieces(model, ask(SHORT)))

    served(watched.model, at_once)
    assert max(rows * tokens for rows, tokens in watched.passes) <= READ


def test_no_more_rows_at_once_than_set_and_each_in_its_turn(watched: Watched) -> None:
    ended: list[int] = []

    async def one(model: AsyncHFModel, number: int) -> None:
        await pieces(model, ask(TEXTS[number % 4], Sampling(max_tokens=1 + number % 2)))
        ended.append(number)

    async def at_once(model: AsyncHFModel) -> None:
        await asyncio.gather(*(one(model, number) for number in range(9)))

    served(watched.model, at_once, rows=2)
    assert max(rows for rows, _ in watched.passes) == 2
    assert all(abs(place - number) < 2 for place, number in enumerate(ended)), "near its turn"


def break_at(model: HFModel, text: str) -> None:
    """Has every pass fail that reads a text's last token."""
    token = model.tokenizer(text, add_special_tokens=False)["input_ids"][-1]

    def fail(_: object, inputs: tuple["torch.Tensor"], __: object) -> None:
        if (inputs[0] == token).any():
            raise RuntimeError("out of\nmemory")

    model.model.register_forward_hook(fail)


def test_an_error_reaches_those_who_wait_and_nobody_else(watched: Watched) -> None:
    say(watched.model, "a")
    break_at(watched.model, "Z")

    async def beside(model: AsyncHFModel) -> list[str | Completion]:
        going = asyncio.create_task(pieces(model, ask(SHORT, LONG)))
        await asyncio.sleep(0.05)
        for _ in range(2):
            with pytest.raises(UpstreamError, match=r"RuntimeError: out of memory") as caught:
                await pieces(model, ask("What is Z"))
            assert isinstance(caught.value.__cause__, RuntimeError)
        return await going

    assert served(watched.model, beside)[-1].text == 400 * "a"


def test_a_lost_device_ends_the_thread_and_all_who_wait(watched: Watched) -> None:
    """No call after such an error is answered, so that a new start is what helps."""
    error = RuntimeError("CUDA error: an illegal memory access was encountered\nmore of it")

    def fail(*_: object) -> None:
        raise error

    slow(watched.model)

    async def beside(model: AsyncHFModel) -> list[Any]:
        # Two of them are decoded, and one waits for a place.
        asked = [asyncio.create_task(pieces(model, ask(SHORT, LONG), seconds=9)) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert model.broke is None
        watched.model.model.register_forward_hook(fail)
        ended = await asyncio.gather(*asked, return_exceptions=True)
        with pytest.raises(UpstreamError) as caught:
            await pieces(model, ask("What?"), seconds=9)
        assert model.broke is not None and "broke off (RuntimeError)" in model.broke
        return [*ended, caught.value]

    first, second, waited, later = served(watched.model, beside, rows=2)
    for one in (first, second):
        assert isinstance(one, UpstreamError) and "RuntimeError: CUDA error: an ill" in str(one)
    for one in (waited, later):
        assert isinstance(one, UpstreamError) and "broke off (RuntimeError)" in str(one)


def test_an_error_while_tokens_are_decoded_ends_these_answers_alone(watched: Watched) -> None:
    (expected,) = watched.model.generate([ask(SHORT)])
    failing = True

    def fail(_: object, inputs: tuple["torch.Tensor"], __: object) -> None:
        if failing and inputs[0].shape == (3, 1):
            raise IndexError("a bad index")

    watched.model.model.register_forward_hook(fail)

    async def two_times(model: AsyncHFModel) -> list[Any]:
        nonlocal failing
        at_once = [pieces(model, ask(text)) for text in (SHORT, SHORT, TEXTS[2])]
        ended = await asyncio.gather(*at_once, return_exceptions=True)
        failing = False
        return [*ended, await pieces(model, ask(SHORT))]

    *ended, again = served(watched.model, two_times)
    assert {type(one) for one in ended} == {UpstreamError}
    assert again[-1].text == expected.text


def test_a_panic_of_the_tokenizer_ends_its_answer_alone(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A panic of a library in Rust is no Exception."""

    class PanicError(BaseException):
        pass

    tokens = watched.model.tokens

    def panics(request: Request) -> list[int]:
        if "Z" in request.messages[0].content:
            raise PanicError("called unwrap on a None value")
        return tokens(request)

    monkeypatch.setattr(watched.model, "tokens", panics)
    (expected,) = watched.model.generate([ask(SHORT)])

    async def one_after_the_other(model: AsyncHFModel) -> list[str | Completion]:
        with pytest.raises(UpstreamError, match="PanicError: called unwrap"):
            await pieces(model, ask("What is Z"), seconds=9)
        return await pieces(model, ask(SHORT), seconds=9)

    assert served(watched.model, one_after_the_other)[-1].text == expected.text


def test_nobody_joins_those_whose_joining_failed(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A join that failed in the middle has both sides' rows in some layers, and one's in others."""
    say(watched.model, "a")
    slow(watched.model)
    join = Sequences.join
    joined: list[int] = []

    def once(self: Sequences, other: Sequences) -> None:
        joined.append(1)
        if len(joined) == 1:
            raise MemoryError("no room")
        join(self, other)

    monkeypatch.setattr(Sequences, "join", once)
    # Each is read by itself, and both in one round.
    new = [ask(f"{number} " * 25) for number in ("one", "two")]

    async def beside(model: AsyncHFModel) -> list[Any]:
        going = asyncio.create_task(pieces(model, ask(SHORT, LONG)))
        await asyncio.sleep(0.05)
        come = [pieces(model, one) for one in new]
        return await asyncio.gather(going, *come, return_exceptions=True)

    going, first, second = served(watched.model, beside)
    assert isinstance(going, UpstreamError) and isinstance(first, UpstreamError)
    assert second[-1].text == 10 * "a"
    assert len(joined) == 1


def test_a_conversation_that_the_template_refuses_ends_alone(tmp_path: Path) -> None:
    folder = tmp_path / "strict"
    shutil.copytree(tiny.model(), folder)
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    system = Request((Message(role="system", content="Be brief."), *ask(SHORT).messages), GREEDY)
    with HFConfig(model=str(folder), chat_template=refusing + tiny.CHATML).open() as model:

        async def beside(model: AsyncHFModel) -> list[Any]:
            asked = [pieces(model, one) for one in (ask(SHORT), system, ask("What?"))]
            return await asyncio.gather(*asked, return_exceptions=True)

        before, refused, after = served(model, beside)
    assert isinstance(refused, ModelError) and "refuses a conversation" in str(refused)
    assert isinstance(before[-1], Completion) and isinstance(after[-1], Completion)


def slow(model: HFModel) -> None:
    """Has each pass take five milliseconds and more."""
    model.model.register_forward_hook(lambda *_: time.sleep(0.005))


def say(model: HFModel, text: str) -> None:
    """Has the model write a text, whatever it is asked."""
    import torch

    tokens = model.tokenizer(text, add_special_tokens=False)["input_ids"] * 500
    passes = iter(tokens)

    def scripted(_: object, __: object, logits: "torch.Tensor") -> "torch.Tensor":
        chosen = torch.full_like(logits, -100.0)
        chosen[..., next(passes)] = 100.0
        return chosen

    model.model.lm_head.register_forward_hook(scripted)


async def _at_rest(watched: Watched) -> int:
    """The number of passes, once there are no more."""
    found = -1
    while found != len(watched.passes):
        found = len(watched.passes)
        await asyncio.sleep(0.1)
    return found


def test_no_work_goes_on_for_somebody_who_left(watched: Watched) -> None:
    say(watched.model, "so ")
    slow(watched.model)

    async def leave(model: AsyncHFModel) -> int:
        stream = model.stream(ask(SHORT, LONG), Served("one", time.monotonic() + 60))
        assert await anext(stream)
        await stream.aclose()
        return await _at_rest(watched)

    assert served(watched.model, leave) < 100


def test_nothing_is_read_for_somebody_who_left_before_it_was_their_turn(watched: Watched) -> None:
    say(watched.model, "so ")
    slow(watched.model)

    async def leave(model: AsyncHFModel) -> None:
        going = asyncio.create_task(pieces(model, ask(SHORT, Sampling(max_tokens=40))))
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(pieces(model, ask(TEXTS[2])))
        await asyncio.sleep(0.02)
        waiting.cancel()
        await asyncio.gather(going, waiting, return_exceptions=True)
        await pieces(model, ask("What?"))

    served(watched.model, leave, rows=1)
    assert len([tokens for _, tokens in watched.passes if tokens > 1]) == 2


def test_no_work_goes_on_after_the_deadline(watched: Watched) -> None:
    say(watched.model, "so ")
    slow(watched.model)

    async def late(model: AsyncHFModel) -> int:
        stream = model.stream(ask(SHORT, LONG), Served("one", time.monotonic() + 0.3))
        # Somebody who reads no further is late too.
        assert await anext(stream)
        await asyncio.sleep(0.5)
        passes = await _at_rest(watched)
        with pytest.raises(UpstreamError, match="no answer before the deadline"):
            async for _ in stream:
                pass
        return passes

    assert served(watched.model, late) < 200


def test_closing_ends_what_is_under_way_and_the_thread(watched: Watched) -> None:
    say(watched.model, "so ")
    slow(watched.model)

    async def closed(model: AsyncHFModel) -> None:
        # One is being answered, and one waits for its turn.
        tasks = [asyncio.create_task(pieces(model, ask(SHORT, LONG))) for _ in range(2)]
        await asyncio.sleep(0.1)
        await model.close()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(ended, UpstreamError) and "closed" in str(ended)
        with pytest.raises(UpstreamError, match="is closed"):
            await pieces(model, ask(SHORT))

    served(watched.model, closed, rows=1)
    assert not [one for one in threading.enumerate() if one.name.startswith("decode ")]


def test_a_thread_that_breaks_off_is_said_to_all_who_wait_and_to_whoever_comes(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    say(watched.model, "so ")
    slow(watched.model)
    longest = Prefixes.longest
    breaks = threading.Event()

    def breaking(prefixes: Prefixes, prompt: Sequence[int]) -> Prefix:
        if breaks.is_set():
            raise KeyError("the words of a prompt")
        return longest(prefixes, prompt)

    monkeypatch.setattr(Prefixes, "longest", breaking)

    async def broken(model: AsyncHFModel) -> None:
        tasks = [asyncio.create_task(pieces(model, ask(SHORT, LONG)))]
        await asyncio.sleep(0.1)
        assert model.broke is None
        breaks.set()
        tasks += [asyncio.create_task(pieces(model, ask(SHORT, LONG))) for _ in range(2)]
        said = f"the thread that decodes with {model.name} broke off (KeyError)"
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(ended, UpstreamError) and str(ended) == said
        with pytest.raises(UpstreamError, match="broke off"):
            await pieces(model, ask(SHORT))
        assert model.broke == said

    served(watched.model, broken, rows=2)
    (record,) = [one for one in caplog.records if "broke off" in one.getMessage()]
    assert record.exc_info and record.exc_info[0] is KeyError
    assert not [one for one in threading.enumerate() if one.name.startswith("decode ")]


def test_a_character_of_several_tokens_is_never_shown_in_part(watched: Watched) -> None:
    text = "Zürich \N{THINKING FACE}\N{THINKING FACE} e\N{COMBINING ACUTE ACCENT}. "
    say(watched.model, text)

    async def streamed(model: AsyncHFModel) -> list[str | Completion]:
        return await pieces(model, ask(SHORT, Sampling(max_tokens=60)))

    *texts, last = served(watched.model, streamed)
    assert len(texts) > 10
    assert text in last.text and "".join(texts) == last.text
    assert not any("\ufffd" in piece for piece in texts[:-1])


def other_tokenizer(kind: str) -> Any:
    """A tokenizer that writes texts in its own way: byte by byte, or with white space tidied up."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<|im_start|>", "<|im_end|>"]
    if kind == "bytes":
        words += [f"<0x{number:02X}>" for number in range(256)] + ["\u2581a", "b", "\u2581"]
        tokenizer = Tokenizer(
            models.BPE({word: number for number, word in enumerate(words)}, [], byte_fallback=True)
        )
        tokenizer.decoder = decoders.Sequence(
            [
                decoders.Replace("\u2581", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
    else:
        words += ["do", "n", "'", "t", "s", ".", "?", "##x", "'s", "n't", "re"]
        tokenizer = Tokenizer(
            models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="<unk>")
        )
        tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        eos_token="<|im_end|>",
        pad_token="<unk>",
        chat_template=tiny.CHATML,
        clean_up_tokenization_spaces=kind == "words",
    )


@pytest.mark.parametrize("kind", ["bytes", "words"])
def test_nothing_is_shown_that_the_tokenizer_takes_back(kind: str, watched: Watched) -> None:
    """Random tokens: runs of bytes that are no text in the end, white space that is tidied up."""
    import random

    tokenizer = other_tokenizer(kind)
    model = HFModel("other", watched.model.model, tokenizer, rows=64)
    known = list(range(3, len(tokenizer)))
    if kind == "bytes":
        # A character of two bytes in runs with bytes that belong to none, between words.
        pieces = ["<0xC3>", "<0xBC>", "<0xC3>", "<0xBC>", "<0xFF>", "\u2581a", "b", "b"]
        known = tokenizer.convert_tokens_to_ids(pieces)
    random.seed(0)
    early = 0
    for _ in range(300):
        tokens = random.choices(known, k=random.randint(1, 12))
        shown, found = Pieces(), ""
        for end in range(1, len(tokens)):
            found += shown.more(model.writing.settled(tokens[:end]))
        whole = model.writing.text(tokens, ())
        early += bool(found)
        assert found + shown.rest(whole) == whole
    # Where white space goes once more words have come, nothing is shown before the end.
    assert early > 30 if kind == "bytes" else early == 0


def test_it_opens_with_an_adapter(tmp_path: Path) -> None:
    adapter = tiny.make_adapter(tmp_path / "adapter")
    config = HFConfig(model=str(tiny.model()))

    async def adapted() -> tuple[str, list[str | Completion]]:
        async with config.open_async(adapter) as model:
            return model.name, await pieces(model, ask(SHORT))

    name, streamed = asyncio.run(adapted())
    with config.open(adapter) as model:
        assert name == model.name and "+" in name
        (expected,) = model.generate([ask(SHORT)])
    assert "".join(map(str, streamed[:-1])) == expected.text


def test_a_model_that_does_not_open_is_said(tmp_path: Path) -> None:
    async def opened() -> None:
        async with HFConfig(model=str(tmp_path / "none")).open_async():
            pass

    with pytest.raises(ModelError, match="no such folder"):
        asyncio.run(opened())
