"""Decodes for people who wait, on one thread: calls join between two tokens, and leave so.

Each round of the thread reads a bounded part of the prompts that wait, adds their rows to those
that are being decoded, and decodes one token of each row. A call's answer does not depend on its
company beyond rounding, as in a block (`decoding`).

A model whose rows can't be joined (`architecture.joins_its_rows`) decodes each call on its own, a
token of each in turn, and reads each prompt whole.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cowest.config import Sampling
from cowest.errors import CoWestError, UpstreamError
from cowest.models import architecture
from cowest.models.decoding import HFModel, logprobs
from cowest.models.device import is_lost
from cowest.models.drawing import drawn, uniform
from cowest.models.pieces import Pieces
from cowest.models.prefixes import Prefixes
from cowest.models.sequences import Prefix, Sequences
from cowest.models.writing import Growing
from cowest.protocols import Completion, Request

if TYPE_CHECKING:
    import torch

READ = 256
"""Tokens of prompts that are read between two tokens of the answers: those who are being answered
wait for that long. More at once is hardly faster (measured on two cores)."""
APART = 32
"""Tokens by which known beginnings of prompts that are read together may differ in length, since
the shortest is what they share."""
KEPT = 256 * 2**20
"""Bytes of keys and values that are kept of the beginnings of prompts."""
log = logging.getLogger("cowest")


@dataclass(eq=False)
class Call:
    """A request that somebody waits for, and what has become of it."""

    request: Request
    until: float
    """Time by `time.monotonic()` at which it is given up."""
    tell: Callable[[str | Completion | CoWestError], None]
    """Takes the texts of the answer and its completion, or the error that ends it, and returns at
    once. It is called on the thread that decodes."""
    gone: bool = False
    """Nobody waits for it any more, or it has come to its end."""
    prompt: list[int] = field(default_factory=list)
    begun: Prefix | None = None
    """The part read so far of a prompt that is too long to be read at once."""
    numbers: "torch.Tensor | None" = None
    """One number in [0, 1) per token of the answer, if it is sampled."""
    grown: Growing = field(default_factory=Growing)
    pieces: Pieces = field(default_factory=Pieces)

    @property
    def sampling(self) -> Sampling:
        """Its settings of decoding."""
        return self.request.sampling


@dataclass(eq=False)
class Company:
    """Calls that are decoded together: one row each, in their order."""

    rows: Sequences
    calls: list[Call]

    def part(self) -> list[int]:
        """Leaves out the rows of calls that are gone; returns those that were kept."""
        kept = [row for row, call in enumerate(self.calls) if not call.gone]
        if 0 < len(kept) < len(self.calls):
            self.rows.keep(kept)
        self.calls = [self.calls[row] for row in kept]
        return kept


class Batching:
    """The thread that decodes with one model, until it is closed.

    `rows` calls are answered at once at most; the others wait in their order.
    """

    def __init__(self, model: HFModel, rows: int) -> None:
        self._model = model
        self._limit = rows
        self._joins = architecture.joins_its_rows(model.model)
        self._window = architecture.window(model.model.config)
        self._prefixes = Prefixes(KEPT)
        # A call goes from `arrived` to `reading`, until its prompt is read, and on to a company.
        # All of these but `arrived` belong to the thread alone.
        self._arrived: deque[Call] = deque()
        self._reading: list[Call] = []
        self._companies: list[Company] = []
        self._closed = False
        self.broke: str | None = None
        """The reason why it decodes no more, though nobody closed it; None while it may."""
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name=f"decode {model.name}", daemon=True)
        self._thread.start()

    def take(self, call: Call) -> None:
        """Takes a call. Raises UpstreamError once it is closed."""
        with self._changed:
            if self._closed:
                closed = f"{self._model.name} is closed, and answers no more"
                raise UpstreamError(self.broke or closed)
            self._arrived.append(call)
            self._changed.notify()

    def close(self) -> None:
        """Ends the thread after the token that it is at; those who still wait are told."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        import torch

        try:
            with torch.no_grad():
                while self._wanted():
                    self._round()
        except BaseException as error:
            # What ends one call alone is told to it (`_told`). Nothing is known of the state that
            # this left. Its words may repeat a prompt, so the reason has none of them.
            kind = type(error).__name__
            self.broke = f"the thread that decodes with {self._model.name} broke off ({kind})"
            log.error("%s", self.broke, exc_info=error)
        finally:
            with self._changed:
                self._closed = True
            closed = f"{self._model.name} was closed before it had answered"
            left = [*self._arrived, *self._reading]
            for company in self._companies:
                left += company.calls
            for call in left:
                call.tell(UpstreamError(self.broke or closed))

    def _wanted(self) -> bool:
        """Waits for work; returns False once it is closed."""
        with self._changed:
            while not (self._arrived or self._reading or self._companies or self._closed):
                self._changed.wait()
            return not self._closed

    def _round(self) -> None:
        """Lets calls leave and join, and decodes one token of each call whose prompt is read."""
        self._part()
        self._admit()
        left = READ
        while self._reading and left > 0:
            left -= self._read(left)
        for company in self._companies:
            with self._told(company.calls):
                self._decode(company)
        self._companies = [company for company in self._companies if company.calls]

    def _part(self) -> None:
        """Leaves out all calls that nobody waits for, or whose deadline has passed."""
        now = time.monotonic()
        with self._changed:
            arrived = list(self._arrived)
        for company in self._companies:
            arrived += company.calls
        for call in [*arrived, *self._reading]:
            if now >= call.until:
                self._end(call, UpstreamError(f"{self._model.name}: no answer before the deadline"))
        with self._changed:
            self._arrived = deque(call for call in self._arrived if not call.gone)
        self._reading = [call for call in self._reading if not call.gone]
        for company in self._companies:
            with self._told(company.calls):
                company.part()
        self._companies = [company for company in self._companies if company.calls]

    def _admit(self) -> None:
        """Takes calls in their order while there is room, and makes tokens of their prompts."""
        room = self._limit - len(self._reading)
        for company in self._companies:
            room -= len(company.calls)
        with self._changed:
            taken: list[Call] = []
            while self._arrived and len(taken) < room:
                taken.append(self._arrived.popleft())
        for call in taken:
            with self._told([call]):
                self._prepare(call)
                if not call.gone:
                    self._reading.append(call)

    def _prepare(self, call: Call) -> None:
        """Readies a call for decoding; one that does not fit the context ends with its failure."""
        call.prompt = self._model.tokens(call.request)
        unfit = self._model.writing.unfit(call.prompt, call.sampling)
        if unfit is not None:
            self._end(call, unfit)
            return
        if call.sampling.temperature:
            call.numbers = uniform(self._model.key(call.request), call.sampling.max_tokens)
        call.pieces = Pieces(call.sampling.stop)

    def _read(self, most: int) -> int:
        """Reads the first prompt, and others with it; returns the number of tokens it read.

        Of a prompt that is longer than is read at once a part is read, and the others go first.
        """
        first, prefix = self._reading[0], self._known(self._reading[0])
        rest = len(first.prompt) - len(prefix.tokens)
        if rest > READ and self._joins:
            del self._reading[0]
            with self._told([first]):
                part = first.prompt[: len(prefix.tokens) + READ]
                first.begun = self._rows([part], prefix).begun(part)
                self._reading.append(first)
            return READ
        calls, prefix = self._together(prefix, most)
        self._reading = [call for call in self._reading if call not in calls]
        prompts = [call.prompt for call in calls]
        with self._told(calls):
            company = Company(self._rows(prompts, prefix), calls)
            if self._is_new(first, prefix):
                self._prefixes.keep(company.rows.begun(first.prompt))
            self._join(company)
        return rest * len(calls)

    def _rows(self, prompts: Sequence[Sequence[int]], prefix: Prefix) -> Sequences:
        """Reads what the prompts have beyond their prefix."""
        import torch

        suffixes = [prompt[len(prefix.tokens) :] for prompt in prompts]
        rows = torch.arange(len(suffixes)) if self._joins else None
        return Sequences(
            self._model.model, suffixes, prefix, rows, self._model.tokenizer.pad_token_id
        )

    def _known(self, call: Call) -> Prefix:
        """Finds the beginning of a prompt that was read before, for itself or for others."""
        if call.begun is not None:
            return call.begun
        if not self._joins or self._outgrows(len(call.prompt), call):
            return Prefix((), None)
        return self._prefixes.longest(call.prompt)

    def _is_new(self, call: Call, prefix: Prefix) -> bool:
        """Says whether most of a prompt was unknown, so that others may begin as it does."""
        # A window that was outgrown has lost the beginning.
        outgrown = self._window is not None and len(call.prompt) >= self._window
        if not self._joins or outgrown:
            return False
        return call.begun is not None or self._prefixes.lacks(call.prompt, prefix)

    def _together(self, prefix: Prefix, most: int) -> tuple[list[Call], Prefix]:
        """The calls that are read with the first, and the beginning that they share.

        Their rows are padded to the longest, and are `most` tokens together at most.
        """
        first, *others = self._reading
        calls = [first]
        if not self._joins or first.begun is not None or self._is_new(first, prefix):
            return calls, prefix
        for call in others:
            known = self._known(call)
            if known.cache is not prefix.cache or self._is_new(call, known):
                continue
            if call.begun is not None or abs(len(known.tokens) - len(prefix.tokens)) > APART:
                continue
            shared = min(prefix, known, key=_length)
            longest = max(len(one.prompt) for one in [*calls, call])
            rest = longest - len(shared.tokens)
            # Padding stands between a prefix and the rest, so a window must hold all of it.
            outgrown = any(self._outgrows(longest, one) for one in [*calls, call])
            if rest * (len(calls) + 1) > most or (outgrown and shared.cache is not None):
                continue
            calls.append(call)
            prefix = shared
        return calls, prefix

    def _outgrows(self, places: int, call: Call) -> bool:
        """Says whether a row leaves the window while it is decoded, if it begins so long."""
        return bool(self._window) and places + call.sampling.max_tokens > (self._window or 0)

    def _join(self, company: Company) -> None:
        """Adds calls whose prompts are read to those that are being decoded."""
        if not self._joins or not self._companies:
            self._companies.append(company)
            return
        (going,) = self._companies
        with self._told([*going.calls, *company.calls]):
            going.rows.join(company.rows)
            going.calls += company.calls
            return
        # What failed in the middle left both unusable: nobody may join them.
        self._companies = []

    def _decode(self, company: Company) -> None:
        """Decodes the next token of each row."""
        scores = logprobs(company.rows)
        chosen = _chosen(scores, company.calls)
        gained = scores.gather(1, chosen[:, None])[:, 0].tolist()
        for call, token, logprob in zip(company.calls, chosen.tolist(), gained, strict=True):
            with self._told([call]):
                self._grow(call, token, logprob)
        going = company.part()
        if going:
            company.rows.advance(chosen[going])

    def _grow(self, call: Call, token: int, logprob: float) -> None:
        """Adds a token to a call's answer, and tells the text that is sure by now."""
        self._model.writing.grow(call.grown, token, logprob, call.sampling.stop)
        if not call.grown.ended and len(call.grown.tokens) < call.sampling.max_tokens:
            piece = call.pieces.more(self._model.writing.settled(call.grown.tokens))
            if piece:
                call.tell(piece)
            return
        completion = self._model.writing.completion(call.grown, call.prompt, call.sampling)
        piece = call.pieces.rest(completion.text or "")
        if piece:
            call.tell(piece)
        self._end(call, completion)

    def _end(self, call: Call, last: Completion | CoWestError) -> None:
        """Tells the end of a call, once."""
        if not call.gone:
            call.gone = True
            call.tell(last)

    @contextmanager
    def _told(self, calls: list[Call]) -> Iterator[None]:
        """Ends calls with the error that they meet; the thread goes on for the others.

        It does not where the device is lost.
        """
        try:
            yield
        # Libraries raise errors of all classes: out of memory, a bad index, and a tokenizer's
        # panic, which is no Exception. No signal ends this thread by an error.
        except BaseException as error:
            for call in calls:
                self._end(call, self._failed(error))
            if is_lost(error):
                # No further call can be answered by this thread.
                raise

    def _failed(self, error: BaseException) -> CoWestError:
        if isinstance(error, CoWestError):
            return error
        reason = " ".join(str(error).split())[:300]
        failed = UpstreamError(
            f"{self._model.name} failed while it decoded ({type(error).__name__}: {reason})"
        )
        failed.__cause__ = error
        return failed


def _chosen(scores: "torch.Tensor", calls: list[Call]) -> "torch.Tensor":
    """Chooses the next token of each row (rows,), of log-probabilities (rows, vocabulary)."""
    import torch

    chosen = scores.argmax(-1)
    # Sequences that are sampled alike are drawn at once, each by its own number.
    rows: dict[tuple[float, float], list[int]] = {}
    numbers: dict[tuple[float, float], list[torch.Tensor]] = {}
    for row, call in enumerate(calls):
        if call.numbers is not None:
            settings = call.sampling.temperature, call.sampling.top_p
            rows.setdefault(settings, []).append(row)
            numbers.setdefault(settings, []).append(call.numbers[len(call.grown.tokens)])
    for settings, some in rows.items():
        sampling = calls[some[0]].sampling
        chosen[some] = drawn(scores[some], sampling, torch.stack(numbers[settings]))
    return chosen


def _length(prefix: Prefix) -> int:
    return len(prefix.tokens)
