"""The batch interface of an OpenAI-compatible endpoint, as another mode of the same config: the same calls for less, within a day.

Requests are read a window ahead (`requests`), and those without an answer are claimed, written to a file, uploaded, and
made a batch; then it is polled, and what it brings is kept as any other answer. Each step is in the journal before and after
it is done, so that a stage that was stopped anywhere goes on with the batches that it finds. What a batch did not answer is
asked again in the next, up to `retries` times.
"""

import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from cowest.errors import BudgetError, CallError
from cowest.ledger import store
from cowest.ledger.journal import NEVER_MADE, Batch, Journal, Row
from cowest.models.endpoint.batch_api import BatchApi
from cowest.models.endpoint.batch_files import Outcome, Window, complaint, outcomes
from cowest.models.endpoint.responses import FREE, AgainError, backoff, said
from cowest.models.endpoint.settings import BatchConfig, Endpoint
from cowest.protocols import Completion, Request

T = TypeVar("T")
TOGETHER = 500
"""Calls that are looked up, and lines that are kept, in one go."""
SOON = 0.5
"""Seconds before calls that another process makes are looked for again."""
KEPT = 30 * 86_400.0
"""Seconds that a provider keeps what a batch brought at most."""
OVER = {"completed", "expired", "cancelled", "failed"}
"""Statuses after which a batch changes no more."""


class BatchModel:
    """The ChatModel of an endpoint that is asked in batches. All but the HTTP runs on the caller's thread."""

    def __init__(self, config: Endpoint, key: str | None, loop: asyncio.AbstractEventLoop) -> None:
        self.name = config.name
        self._config, self._key = config, key
        self._batch = config.batch or BatchConfig()
        self._store = store.open_store()
        self._journal = Journal(self._store)
        self._api = BatchApi(config, key, loop)
        self._silent: set[int] = set()
        """Batches of which there was no news, and that was said."""
        self._rest = 0.0
        """Seconds that the provider asked to be left alone for."""

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """One completion for each request, in order; at most `batch.requests` are read ahead.

        Raises CallError where the endpoint refuses, fails a batch, or takes too long, BudgetError where the turn's budget is
        reached. Batches under way then go on, and are collected when the same is asked again.
        """
        return store.counted(self._completions, requests)

    async def close(self) -> None:
        """Ends the connections."""
        await self._api.close()

    def collect_ended(self) -> None:
        """Keeps what batches of this model brought meanwhile. One that goes on is left alone; what goes wrong is told."""
        for batch in self._journal.under_way(self.name):
            try:
                self._look(batch, {})
            except CallError as error:
                print(f"cowest: {error}", file=sys.stderr)

    def _completions(self, requests: Iterable[Request]) -> Iterator[Completion]:
        left = iter(requests)
        while True:
            with tempfile.TemporaryFile() as file:
                window = Window(file, self._config)
                yield from self._read(left, window)
                if not window.order:
                    return
                try:
                    failed = self._answer(window)
                except KeyboardInterrupt:
                    print(
                        f"\ncowest: {self._left()}: run the same again to wait on and collect",
                        file=sys.stderr,
                    )
                    raise
                for keys in _parts(window.order):
                    found = self._store.look(keys)
                    yield from (
                        found.get(key) or Completion(None, self.name, "failed", failed[key])
                        for key in keys
                    )

    def _read(self, requests: Iterator[Request], window: "Window") -> Iterator[Completion]:
        """Fills the window. What the store has, before anything that it has not, goes through at once."""
        while part := list(
            islice(requests, min(TOGETHER, self._batch.requests - len(window.order)))
        ):
            keys = [request.key(self.name) for request in part]
            found = self._store.get(keys)
            self._watch()
            for key, request in zip(keys, part, strict=True):
                if key in found and not window.order:
                    yield found[key]
                else:
                    window.add(key, None if key in found else request)

    def _answer(self, window: "Window") -> dict[str, str]:
        """Has all calls of a window answered and kept, batch after batch; why not, for those that are not."""
        failed: dict[str, str] = {}
        attempts: Counter[str] = Counter()
        while pending := [key for key in self._missing(list(window.lines)) if key not in failed]:
            inside = self._submit(pending, window)
            found = self._wait(sorted(set(inside.values())))
            made = {
                number
                for number in set(inside.values())
                if self._journal.find(number).ended != NEVER_MADE
            }
            for key in self._missing([key for key, number in inside.items() if number in made]):
                attempts[key] += 1
                outcome = found.get(key) or Outcome(
                    key, None, failed="its batch brought no answer for it", again=True
                )
                if not outcome.again:
                    failed[key] = outcome.failed
                elif attempts[key] > self._config.retries:
                    failed[key] = f"{outcome.failed}, at the last of {attempts[key]} batches"
        return failed

    def _missing(self, keys: Sequence[str]) -> list[str]:
        return [
            key
            for part in _parts(keys)
            for found in [self._store.look(part)]
            for key in part
            if key not in found
        ]

    def _submit(self, keys: list[str], window: "Window") -> dict[str, int]:
        """Makes batches of the calls that are in none; the batch of each call that is in one now.

        Raises BudgetError where not even one fits into the budget.
        """
        inside: dict[str, int] = {}
        for part in window.files(keys, self._batch.megabytes * 1e6):
            claimed = self._journal.claim(
                [window.ask(key) for key in part], self.name, self._batch.discount
            )
            inside |= claimed.others
            if claimed.batch is not None:
                inside |= dict.fromkeys(claimed.mine, claimed.batch.number)
                self._send(claimed.batch, claimed.mine, window)
            if claimed.over is not None and not inside:
                raise BudgetError(
                    f"{self._config.model}: the turn's budget is reached: {self._journal.budget()}, and the next call may take "
                    f"${claimed.over.usd:.4f} and {claimed.over.tokens:,} tokens; what was answered is kept: raise pin.budget and run again"
                )
            if claimed.over is not None:
                break
        if not inside:  # another process makes these calls, one by one
            time.sleep(SOON)
        return inside

    def _send(self, batch: Batch, keys: list[str], window: "Window") -> None:
        """Uploads the calls and makes a batch of them, each step written down."""
        try:
            with window.written(keys) as (file, size, sha256):
                self._journal.note(batch, input=sha256)
                name = self._api.upload(file, size)
            self._journal.note(batch, file=name)
        except BaseException:
            self._journal.end(batch, NEVER_MADE)
            raise
        made = self._create(
            batch, name, {"cowest": batch.token, "calls": str(len(keys)), "input_sha256": sha256}
        )
        self._journal.note(batch, id=made)

    def _create(self, batch: Batch, file: str, metadata: dict[str, str]) -> str:
        """The batch's id. Where a reply was lost it is looked for before it is made again."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return self._api.create(file, metadata)
            except AgainError as again:
                time.sleep(max(backoff(self._config.backoff, attempt), again.wait or 0.0))
                if again.reached and (found := self._api.find(batch.token, file, batch.at)):
                    return found
                if attempt > self._config.retries:
                    raise self._api.stopped(
                        f"makes no batch ({again}, at the last of {attempt} attempts)"
                    ) from None
            except CallError:
                self._journal.end(batch, NEVER_MADE)
                raise

    def _wait(self, numbers: list[int]) -> dict[str, Outcome]:
        """Until all these batches have ended and are collected; why calls were not answered, for those that were not."""
        found: dict[str, Outcome] = {}
        until = time.monotonic() + self._batch.wait
        while numbers := [number for number in numbers if not self._has_ended(number, found)]:
            if time.monotonic() > until:
                raise CallError(
                    f"{self._left()} after {self._batch.wait:g} s of waiting: run the same again to wait on and collect"
                )
            time.sleep(
                max(self._rest, min(self._batch.poll, max(0.0, until - time.monotonic()) + 0.01))
            )
        return found

    def _left(self) -> str:
        names = [batch.id or "a batch" for batch in self._journal.under_way(self.name)]
        return f"{self._config.model}: {', '.join(names) or 'nothing'} {'go' if len(names) > 1 else 'goes'} on at the provider"

    def _has_ended(self, number: int, found: dict[str, Outcome]) -> bool:
        batch = self._journal.find(number)
        return batch.ended is not None or self._look(batch, found)

    def _look(self, batch: Batch, found: dict[str, Outcome]) -> bool:
        """Whether a batch has ended; then what it brought is kept. Raises CallError for one that the provider failed."""
        if batch.id is None:
            return self._recovered(batch)
        try:
            state = self._api.get(batch.id)
        except AgainError as again:
            if batch.number not in self._silent:
                print(
                    f"cowest: no news of {batch.id} ({again}); it is asked for again",
                    file=sys.stderr,
                )
                self._silent.add(batch.number)
            self._rest = again.wait or 0.0
            return False
        self._rest = 0.0
        if state is None:
            if time.time() < batch.at + KEPT:
                raise self._api.stopped(
                    f"knows no batch {batch.id} (HTTP 404): is the key that of the project which submitted it?"
                )
            self._journal.end(batch, "gone", maybe_paid=True)
            return True
        status = str(state.get("status")).lower()
        self._show(batch, state)
        if status not in OVER or (
            _completed(state) and not state.get("output_file_id") and time.time() < batch.at + KEPT
        ):
            return False
        self._collect(batch, status, state, found)
        if status == "failed":
            raise CallError(
                f"{self._config.model} at {self._config.base_url} failed {batch.id}: {said(complaint(state), self._key, 600)}; "
                "its calls are free again, and what was answered is kept: mend it (fewer `requests` or `megabytes`?) and run again"
            )
        return True

    def _recovered(self, batch: Batch) -> bool:
        """Finds out what became of a batch whose process ended while it was made; True where it never was."""
        if self._journal.is_being_made(batch):
            return False
        if batch.file is not None:
            if found := self._api.find(batch.token, batch.file, batch.at):
                self._journal.note(batch, id=found)
                return False
            if (
                time.time() < batch.at + 2 * self._batch.poll
            ):  # the provider may be about to make it
                return False
        self._journal.end(batch, NEVER_MADE)
        return True

    def _collect(
        self, batch: Batch, status: str, state: dict[str, Any], found: dict[str, Outcome]
    ) -> None:
        """Keeps what a batch brought, and frees the rest. Raises CallError where a row says what every call would meet."""
        answered, hopeless = 0, ""
        for name in (state.get("output_file_id"), state.get("error_file_id")):
            if not isinstance(name, str) or not name:
                continue
            with tempfile.TemporaryFile() as file:
                if not self._api.download(name, file):
                    print(
                        f"cowest: the provider has {name} of {batch.id} no more: those calls are made again",
                        file=sys.stderr,
                    )
                for lines in _parts(outcomes(file, self._config, self._key)):
                    held = self._journal.settle(
                        batch, [self._row(batch, outcome) for outcome in lines]
                    )
                    for outcome in lines:
                        if outcome.key in held and outcome.called:
                            store.attempted()
                    answered += sum(outcome.usage != FREE for outcome in lines)
                    found.update(
                        (outcome.key, outcome) for outcome in lines if outcome.completion is None
                    )
                    hopeless = hopeless or next(
                        (outcome.failed for outcome in lines if outcome.hopeless), ""
                    )
        self._journal.end(batch, status, maybe_paid=_completed(state) > answered)
        self._watch()
        if hopeless:
            raise self._api.stopped(hopeless)

    def _watch(self) -> None:
        """Raises CallError where the model became another in the middle of the turn, and that is to stop it."""
        if (
            self._config.on_version_change == "stop"
            and len(versions := store.reported(self.name)) > 1
        ):
            raise self._api.stopped(
                f"changed in the middle of the turn: it reported {' and '.join(versions)} (on_version_change: stop)"
            )

    def _row(self, batch: Batch, outcome: Outcome) -> Row:
        cost = tokens = None
        if outcome.usage is not None:
            price = self._config.price
            tokens, cost = (
                sum(outcome.usage),
                price.of(*outcome.usage) * (1 - batch.discount) if price else None,
            )
        spent = None if tokens is None else (cost or 0.0, tokens)
        if outcome.completion is None:
            return Row(outcome.key, spent)
        return Row(
            outcome.key,
            spent,
            store.Answer(
                outcome.key, outcome.completion, time.time() - batch.at, cost, outcome.version
            ),
        )

    def _show(self, batch: Batch, state: dict[str, Any]) -> None:
        """How a batch stands, on a terminal; nothing anywhere else."""
        if not sys.stderr.isatty():
            return
        counts = state.get("request_counts")
        done, failed, total = (
            (counts.get(name) for name in ("completed", "failed", "total"))
            if isinstance(counts, dict)
            else (0, 0, 0)
        )
        minutes, seconds = divmod(int(time.time() - batch.at), 60)
        line = f"{batch.id} {state.get('status')}: {done} of {total} answered, {failed} failed, {minutes}:{seconds:02d}"
        over = state.get("status") in OVER
        sys.stderr.write(f"\r\x1b[2K{said(line, self._key)}" + ("\n" if over else ""))
        sys.stderr.flush()


def _completed(state: dict[str, Any]) -> int:
    """Calls that were answered, as the provider counts."""
    counts = state.get("request_counts")
    found = counts.get("completed") if isinstance(counts, dict) else 0
    return found if type(found) is int else 0


def _parts(items: Iterable[T]) -> Iterator[list[T]]:
    left = iter(items)
    while part := list(islice(left, TOGETHER)):
        yield part
