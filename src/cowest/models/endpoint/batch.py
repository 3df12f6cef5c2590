"""The batch interface of an OpenAI-compatible endpoint: the same calls for less, within a day.

Requests are read a window ahead (`batch.requests`). Those without an answer are claimed, written to
a file, uploaded, and made a batch. The batch is polled until it ends, and its answers are kept like
any others. Each step is in the journal before and after it is done, so a stage that was stopped
anywhere goes on with the batches that it finds. Calls that a batch left unanswered are asked again
in the next, up to `retries` times.
"""

import sys
import tempfile
import time
from asyncio import AbstractEventLoop
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import IO, Any

from cowest.batched import batched
from cowest.errors import CallError
from cowest.ledger import account, store
from cowest.ledger.journal import NEVER_MADE, Batch, BatchRow, Journal
from cowest.models.endpoint.batch_api import BatchApi
from cowest.models.endpoint.batch_files import Outcome, Window, complaint, outcomes
from cowest.models.endpoint.complaints import said
from cowest.models.endpoint.responses import FREE, AgainError, backoff
from cowest.models.endpoint.settings import BatchConfig, Endpoint
from cowest.models.endpoint.stops import check_version, over_budget
from cowest.models.endpoint.watch import EMPTY_RETRIES, Watch
from cowest.protocols import Completion, Request

TOGETHER = 500
"""Number of calls looked up, or of output lines kept, in one go."""
SOON = 0.5
"""Seconds before we look again for calls that another process makes."""
KEPT = 30 * 86_400.0
"""Seconds that providers keep a batch's output at most."""
OVER = {"completed", "expired", "cancelled", "failed"}
"""Statuses after which a batch does not change any more."""


class BatchModel:
    """A ChatModel that asks an endpoint in batches.

    All of it runs on the caller's thread, except for the HTTP, which runs on the loop's.
    """

    def __init__(self, config: Endpoint, key: str | None, loop: AbstractEventLoop) -> None:
        self.name = config.name
        self._config, self._key = config, key
        self._batch = config.batch or BatchConfig()
        self._store = store.open_store()
        self._journal = Journal(self._store)
        self._api = BatchApi(config, key, loop)
        self._watch = Watch(config, key, self._store)
        self._window: Window | None = None
        """The calls that are asked now: what each can cost at most is compared with its bill."""
        self._silent: set[int] = set()
        """Batches that gave no news, which was printed once."""
        self._rest = 0.0
        """Seconds for which the provider asked to be left alone."""

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yields one completion per request, in order; `batch.requests` are read ahead at most.

        Raises CallError if the endpoint refuses, fails a batch, or takes too long, and BudgetError
        if the turn's budget is spent. Batches under way go on, and are collected when the same
        requests are made again.
        """
        return account.counted(self._completions, requests)

    async def close(self) -> None:
        """Closes the connections."""
        await self._api.close()

    def collect_ended(self) -> None:
        """Keeps the answers of batches that ended meanwhile. Errors are printed, not raised."""
        for batch in self._journal.under_way(self.name):
            try:
                self._look(batch, {})
            except CallError as error:
                print(f"cowest: {error}", file=sys.stderr)

    def _completions(self, requests: Iterable[Request]) -> Iterator[Completion]:
        left = iter(requests)
        while True:
            # What is sent lies in a file without a name, so memory holds a few numbers per call.
            with tempfile.TemporaryFile() as file:
                window = self._window = Window(file, self._config)
                yield from self._read(left, window)
                if not window.order:
                    return
                yield from self._window_completions(window)

    def _read(self, requests: Iterator[Request], window: Window) -> Iterator[Completion]:
        """Reads requests into a window. Until the first one without an answer in the store, yields
        the stored answers at once."""
        while True:
            room = self._batch.requests - len(window.order)
            part = list(islice(requests, min(TOGETHER, room)))
            if not part:
                return
            keys = [request.key(self.name) for request in part]
            found = self._store.get(keys)
            check_version(self._config, self.name)
            for key, request in zip(keys, part, strict=True):
                # Completions come in the order of the requests. Behind the first call that has to
                # be made, what the store has must wait in the window, too.
                if key in found and found[key].text is not None:
                    self._watch.remembered()
                if key not in found:
                    window.add(key, request)
                elif window.order:
                    window.add(key, None)
                else:
                    yield found[key]

    def _window_completions(self, window: Window) -> Iterator[Completion]:
        """Has a window answered, and yields its completions in order."""
        try:
            failed = self._answer(window)
        except KeyboardInterrupt:
            left = self._left()
            print(f"\ncowest: {left}: run the same again to wait on and collect", file=sys.stderr)
            raise
        for keys in batched(window.order, TOGETHER):
            found = self._store.look(keys)
            for key in keys:
                if key in found:
                    yield found[key]
                else:
                    yield Completion(None, self.name, "failed", failed[key])

    def _answer(self, window: Window) -> dict[str, str]:
        """Has all calls of a window made, batch after batch, and their answers kept.

        Returns the reason per call that got no answer.
        """
        failed: dict[str, str] = {}
        attempts: Counter[str] = Counter()
        empty: Counter[str] = Counter()
        while True:
            missing = self._missing(list(window.lines))
            pending = [key for key in missing if key not in failed]
            if not pending:
                return failed
            inside = self._submit(pending, window)
            numbers = set(inside.values())
            found = self._wait(numbers)
            # A batch that was never made is no attempt: its calls were not asked.
            made = {each for each in numbers if self._journal.find(each).ended != NEVER_MADE}
            asked = [key for key, number in inside.items() if number in made]
            for key in self._missing(asked):
                attempts[key] += 1
                outcome = found.get(key)
                if outcome is None:
                    why = "its batch brought no answer for it"
                    outcome = Outcome(key, None, failed=why, again=True)
                empty[key] += outcome.is_empty
                tired = attempts[key] > self._config.retries or empty[key] > EMPTY_RETRIES
                if not outcome.again:
                    failed[key] = outcome.failed
                elif tired:
                    failed[key] = f"{outcome.failed}, at the last of {attempts[key]} batches"

    def _missing(self, keys: Sequence[str]) -> list[str]:
        """The keys that the store has no answer for, in order."""
        missing: list[str] = []
        for part in batched(keys, TOGETHER):
            found = self._store.look(part)
            missing += [key for key in part if key not in found]
        return missing

    def _submit(self, keys: list[str], window: Window) -> dict[str, int]:
        """Makes batches of the calls that are in none, as far as the budget goes.

        Returns the number of the batch that each call is in now. Raises BudgetError if not even one
        call fits into the budget.
        """
        inside: dict[str, int] = {}
        for part in window.files(keys, self._batch.megabytes * 1e6):
            claims = [self._watch.reserved(window.claim(key)) for key in part]
            claimed = self._journal.claim(claims, self.name, self._batch.discount)
            inside |= claimed.others
            if claimed.batch is not None:
                inside |= dict.fromkeys(claimed.mine, claimed.batch.number)
                self._send(claimed.batch, claimed.mine, window)
            if claimed.over is not None:
                # Batches under way may cost less than was reserved. What they leave over buys the
                # rest, so the budget is spent only if none is under way.
                if not inside:
                    now = self._journal.budget()
                    raise over_budget(self._config, now.refusal(claimed.over))
                break
        if not inside:
            # Another process makes these calls, one by one. We wait for its answers.
            time.sleep(SOON)
        return inside

    def _send(self, batch: Batch, keys: list[str], window: Window) -> None:
        """Uploads the calls and makes a batch of them. The journal has each step.

        No batch is made if another process ended it before: that one may make its calls.
        """
        try:
            with window.written(keys) as (file, size, sha256):
                if not self._journal.note(batch, input=sha256):
                    return
                name = self._api.upload(file, size)
            # Once the journal has the file's name, a batch of it may exist. A process that finds
            # this row later looks for the batch at the provider before it makes the calls again.
            if not self._journal.note(batch, file=name):
                return
        except BaseException:
            self._journal.end(batch, NEVER_MADE)
            raise
        metadata = {"cowest": batch.token, "calls": str(len(keys)), "input_sha256": sha256}
        made = self._create(batch, name, metadata)
        self._journal.made(batch, made, [self._watch.reserved(window.claim(key)) for key in keys])

    def _create(self, batch: Batch, file: str, metadata: dict[str, str]) -> str:
        """Makes a batch at the provider and returns its id."""
        attempt, may_be_made = 0, False
        while True:
            attempt += 1
            try:
                return self._api.create(file, metadata)
            except AgainError as again:
                may_be_made = may_be_made or again.reached
                time.sleep(max(backoff(self._config.backoff, attempt), again.wait or 0.0))
                # The reply may be lost and the batch made: a second one would be paid for twice.
                found = self._api.find(batch.token, file, batch.at) if again.reached else None
                if found:
                    return found
                if attempt > self._config.retries:
                    raise self._api.stopped(
                        f"makes no batch ({again}, at the last of {attempt} attempts)"
                    ) from None
            except CallError:
                # After an attempt that may have made it, who comes next looks for it first.
                if not may_be_made:
                    self._journal.end(batch, NEVER_MADE)
                raise

    def _wait(self, numbers: set[int]) -> dict[str, Outcome]:
        """Waits until these batches have ended, and keeps their answers.

        Returns what became of the calls without an answer. Raises CallError after `batch.wait`.
        """
        found: dict[str, Outcome] = {}
        until = time.monotonic() + self._batch.wait
        pending = set(numbers)
        while True:
            for number in sorted(pending):
                if self._has_ended(number, found):
                    pending.remove(number)
            if not pending:
                return found
            left = until - time.monotonic()
            if left < 0:
                raise CallError(
                    f"{self._left()} after {self._batch.wait:g} s of waiting: run the same again "
                    "to wait on and collect"
                )
            time.sleep(max(self._rest, min(self._batch.poll, left + 0.01)))

    def _left(self) -> str:
        """Says which batches go on at the provider."""
        names = [batch.id or "a batch" for batch in self._journal.under_way(self.name)]
        verb = "go" if len(names) > 1 else "goes"
        return f"{self._config.model}: {', '.join(names) or 'nothing'} {verb} on at the provider"

    def _has_ended(self, number: int, found: dict[str, Outcome]) -> bool:
        # Another process may have collected the batch since we looked.
        batch = self._journal.find(number)
        return batch.ended is not None or self._look(batch, found)

    def _look(self, batch: Batch, found: dict[str, Outcome]) -> bool:
        """Looks at a batch; True if it has ended. Then its answers are kept.

        Adds what became of its other calls to `found`. Raises CallError for a batch that the
        provider failed or does not know.
        """
        if batch.id is None:
            return self._recovered(batch)
        try:
            state = self._api.get(batch.id)
        except AgainError as again:
            self._say_silent(batch, again)
            self._rest = again.wait or 0.0
            return False
        self._rest = 0.0
        kept = time.time() < batch.at + KEPT
        if state is None:
            if kept:
                raise self._api.stopped(
                    f"knows no batch {batch.id} (HTTP 404): is the key that of the project which "
                    "submitted it?"
                )
            self._journal.end(batch, "gone", maybe_paid=True)
            return True
        status = str(state.get("status")).lower()
        self._show(batch, state)
        if status not in OVER:
            return False
        # Some providers count a batch as over a moment before they name its output.
        if _completed(state) and not state.get("output_file_id") and kept:
            return False
        self._collect(batch, status, state, found)
        if status == "failed":
            why = said(complaint(state), self._key, 600)
            raise CallError(
                f"{self._config.model} at {self._config.base_url} failed {batch.id}: {why}; its "
                "calls are free again, and what was answered is kept: mend it (fewer `requests` or "
                "`megabytes`?) and run again"
            )
        return True

    def _say_silent(self, batch: Batch, again: AgainError) -> None:
        """Prints once per batch that the provider gives no news of it."""
        if batch.number not in self._silent:
            self._silent.add(batch.number)
            news = f"no news of {batch.id} ({again}); it is asked for again"
            print(f"cowest: {news}", file=sys.stderr)

    def _recovered(self, batch: Batch) -> bool:
        """Finds out what became of a batch without an id; True if it was never made."""
        if self._journal.is_being_made(batch):
            return False
        # The process that made it has ended. Up to the upload nothing can have been paid for. After
        # it, the batch may stand in the provider's list, where it may show up a little later.
        if batch.file is not None:
            found = self._api.find(batch.token, batch.file, batch.at)
            if found:
                self._journal.note(batch, id=found)
                return False
            if time.time() < batch.at + 2 * self._batch.poll:
                return False
        self._journal.end(batch, NEVER_MADE)
        return True

    def _collect(
        self, batch: Batch, status: str, state: dict[str, Any], found: dict[str, Outcome]
    ) -> None:
        """Keeps the answers of a batch that ended, and frees its other calls.

        Raises CallError if a line of it holds an error that every call would meet.
        """
        paid, hopeless = 0, ""
        for name in (state.get("output_file_id"), state.get("error_file_id")):
            if not isinstance(name, str) or not name:
                continue
            with tempfile.TemporaryFile() as file:
                if not self._api.download(name, file):
                    gone = f"the provider has {name} of {batch.id} no more"
                    print(f"cowest: {gone}: those calls are made again", file=sys.stderr)
                    continue
                more, why = self._keep(batch, file, found)
                paid += more
                hopeless = hopeless or why
        # If the provider counts more answers than its files hold, we can't tell which calls they
        # were for. Then every call without an answer counts for the budget as if it were paid for.
        self._journal.end(batch, status, maybe_paid=_completed(state) > paid)
        check_version(self._config, self.name)
        hopeless = hopeless or self._watch.hopeless() or ""
        if hopeless:
            raise self._api.stopped(hopeless)

    def _keep(self, batch: Batch, file: IO[bytes], found: dict[str, Outcome]) -> tuple[int, str]:
        """Keeps the answers in an output file, and adds the outcomes without one to `found`.

        Returns the number of answers that were paid for, and the first error that every call would
        meet ("" if there is none).
        """
        paid, hopeless = 0, ""
        for lines in batched(outcomes(file, self._config, self._key), TOGETHER):
            rows = [self._row(batch, outcome) for outcome in lines]
            held = self._journal.settle(batch, rows)
            for outcome in lines:
                # Lines for calls that are not this batch's any more are no calls of ours.
                if outcome.key in held and outcome.called:
                    account.attempted()
                    self._note(batch, outcome)
                if outcome.usage != FREE and not outcome.is_error:
                    paid += 1
                if outcome.completion is None:
                    found[outcome.key] = outcome
                if outcome.hopeless and not hopeless:
                    hopeless = outcome.failed
        return paid, hopeless

    def _note(self, batch: Batch, outcome: Outcome) -> None:
        """Has the watch see a response and its bill."""
        if outcome.response is not None:
            self._watch.saw(outcome.key, outcome.response)
        if self._window is None or outcome.key not in self._window.lines:
            return
        if outcome.usage is not None:
            cost = self._config.cost(*outcome.usage, discount=batch.discount)
            claim = self._window.claim(outcome.key)
            if self._watch.billed(claim, cost or 0.0, sum(outcome.usage)):
                self._watch.remember()

    def _row(self, batch: Batch, outcome: Outcome) -> BatchRow:
        """The journal's row for one line of the output."""
        cost = spent = None
        if outcome.usage is not None:
            cost = self._config.cost(*outcome.usage, discount=batch.discount)
            spent = (cost or 0.0, sum(outcome.usage))
        if outcome.completion is None:
            return BatchRow(outcome.key, spent)
        seconds = time.time() - batch.at
        answer = store.StoredAnswer(outcome.key, outcome.completion, seconds, cost, outcome.version)
        return BatchRow(outcome.key, spent, answer)

    def _show(self, batch: Batch, state: dict[str, Any]) -> None:
        """Shows the state of a batch in one line that is written over, on a terminal only."""
        if not sys.stderr.isatty():
            return
        counts = state.get("request_counts")
        if not isinstance(counts, dict):
            counts = {"completed": 0, "failed": 0, "total": 0}
        done, failed, total = (counts.get(name) for name in ("completed", "failed", "total"))
        minutes, seconds = divmod(int(time.time() - batch.at), 60)
        line = (
            f"{batch.id} {state.get('status')}: {done} of {total} answered, {failed} failed, "
            f"{minutes}:{seconds:02d}"
        )
        end = "\n" if state.get("status") in OVER else ""
        sys.stderr.write(f"\r\x1b[2K{said(line, self._key)}{end}")
        sys.stderr.flush()


def _completed(state: dict[str, Any]) -> int:
    """Number of calls that were answered, by the provider's count."""
    counts = state.get("request_counts")
    found = counts.get("completed") if isinstance(counts, dict) else 0
    return found if type(found) is int else 0
