"""The log of what was served: answers and verdicts, as rows of JSON lines in a private folder.

The log never delays an answer. A thread of its own masks and writes rows; rows that do not fit into
its queue or onto the disk are lost and counted (`Log.state`). A verdict is different: it is
acknowledged only when the disk has it.
"""

import logging
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from pydantic import Field, ValidationError
from pydantic_core import to_json

from cowest import detectors, io
from cowest.config import Config
from cowest.detectors import Detection
from cowest.errors import InputError
from cowest.online import masked
from cowest.online.appending import Appending, LogKind, UnsyncedError, files, tidy
from cowest.online.ids import LENGTH, Ids, secret_of
from cowest.online.interactions import Interaction
from cowest.online.verdicts import KeptVerdict
from cowest.records import Record

LOGGER = logging.getLogger("cowest")

R = TypeVar("R", bound=Record)
Promised = tuple[KeptVerdict, "Future[None]"]
"""A verdict, and the future that acknowledges it."""

MOST = 1_000
"""Rows that may wait to be written."""
MOST_CHARACTERS = 32 * 2**20
"""Characters of their texts."""
WAIT = 5.0
"""Seconds after which the thread looks whether a day is over, if no row comes."""
TIDY = 600.0
"""Seconds after which it looks again for files that are too old, or too many."""
SYNC = 1.0
"""Seconds of answers that a power cut may lose. (A kill loses only those in the queue.)"""


class LogConfig(Config):
    """The log of answers and verdicts, from which `cowest harvest` makes data."""

    enabled: bool = True
    """Keep a log. Without a log, no verdict can be given."""
    folder: Path = Path(".cowest/log")
    """Folder of the log, relative to params.yaml. Several processes may share it. In containers,
    mount a volume there, or the log goes with the container."""
    mask: bool = True
    """Replace personal data and secrets by placeholders such as [EMAIL_1] before anything is
    written. Turn it off only if the folder may hold such data."""
    detection: Detection = Detection()
    """Settings of the detectors, for the log and for `cowest harvest`."""
    file_megabytes: int = Field(default=64, ge=1)
    """Size in MB at which a new file begins; a new day (UTC) begins one too."""
    keep_days: int = Field(default=90, ge=1)
    """Days that a file is kept after its last row."""
    keep_megabytes: int = Field(default=10_000, ge=1)
    """Size in MB of all files of answers together; beyond it the oldest are removed. Files of
    verdicts are removed by `keep_days` only."""

    @contextmanager
    def open(self) -> Iterator["Log"]:
        """Gives the log, and writes what waits when the block ends.

        Raises ConfigError for detectors that can't be used. If the folder can't be written, the
        service goes on, and `Log.state` says so.
        """
        if self.enabled and self.mask:
            detectors.find("", self.detection)
        log = Log(self)
        try:
            yield log
        finally:
            log.close()


@dataclass(frozen=True, slots=True)
class LogState:
    """The state of a log, for metrics and the detail of readiness."""

    enabled: bool
    answers: int = 0
    """Answers written since the process began."""
    verdicts: int = 0
    """Verdicts written."""
    lost: int = 0
    """Answers that were not written: the disk was full, or too slow."""
    refused: int = 0
    """Verdicts that could not be kept; the sender was told."""
    failing: str | None = None
    """The reason why nothing is written at the moment; None while all is well."""


class Log:
    """Keeps answers and verdicts, in a thread of its own. Safe for threads."""

    def __init__(self, config: LogConfig) -> None:
        self._config = config
        self._answers = Appending(config.folder, "answers", config.file_megabytes * 10**6)
        self._verdicts = Appending(config.folder, "verdicts", config.file_megabytes * 10**6)
        self._waiting: deque[Interaction | Promised] = deque()
        self._characters = 0
        self._changed = threading.Condition()
        self._closed = False
        self._state = LogState(config.enabled)
        self._synced = time.monotonic()
        self._tidied: float | None = None
        # Until the folder's secret is there nothing can be kept, so no id has to be known again.
        self._ids = Ids(secrets.token_bytes(LENGTH))
        self._has_secret = False
        if config.enabled:
            self._learn_secret()
            self._thread = threading.Thread(target=self._work, name="log", daemon=True)
            self._thread.start()

    @property
    def enabled(self) -> bool:
        """False if the settings turn the log off."""
        return self._config.enabled

    def new_id(self) -> str:
        """Makes the id of a request."""
        return self._ids.new()

    @property
    def ready(self) -> bool:
        """True if the folder was there, with its secret, so that ids are known."""
        return self._has_secret

    def made(self, id: str) -> bool:
        """True for an id that a service with this log gave out."""
        return self._has_secret and self._ids.made(id)

    def keep(self, answer: Interaction) -> None:
        """Has an answer written; returns at once, and raises nothing."""
        if not self.enabled:
            return
        size = sum(map(len, masked.texts_of(answer)))
        with self._changed:
            full = len(self._waiting) >= MOST or self._characters + size > MOST_CHARACTERS
            if full or self._closed or not self._thread.is_alive():
                self._note(lost=1)
                return
            self._characters += size
            self._waiting.append(answer)
            self._changed.notify()

    def keep_verdict(self, verdict: KeptVerdict) -> Future[None]:
        """Has a verdict written; the result comes when the disk has it.

        It is an OSError if the verdict can't be kept.
        """
        kept: Future[None] = Future()
        with self._changed:
            if len(self._waiting) >= 2 * MOST or self._closed or not self._thread.is_alive():
                self._note(refused=1)
                kept.set_exception(OSError("too many verdicts wait, or the log is closed"))
                return kept
            self._waiting.append((verdict, kept))
            self._changed.notify()
        return kept

    def state(self) -> LogState:
        """Returns what was written and lost, and whether something is wrong now."""
        return self._state

    def close(self) -> None:
        """Writes what waits, and closes the files."""
        if not self.enabled or self._closed:
            return
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        try:
            closed = False
            while not closed:
                answers, verdicts, closed = self._take(self._pause())
                # Before a row is written, which ends an alarm only where there is a secret.
                if not self._has_secret:
                    self._learn_secret()
                self._write_answers(answers)
                self._write_verdicts(verdicts)
                self._look_after_files(closed)
        finally:
            # Also when a fault of ours ends the thread: nobody waits for a verdict in vain.
            _, verdicts, closed = self._take(0)
            if not closed:
                self._note(
                    failing=RuntimeError(
                        "the thread that writes the log has ended: restart the service"
                    )
                )
            for _, kept in verdicts:
                kept.set_exception(OSError("the log has ended"))

    def _pause(self) -> float:
        """The seconds until the thread has something to do though no row comes."""
        if not self._answers.unsynced:
            return WAIT
        return max(self._synced + SYNC - time.monotonic(), 0.0)

    def _take(self, wait: float) -> tuple[list[Interaction], list[Promised], bool]:
        """Returns the rows that wait, and whether the log is closed."""
        answers: list[Interaction] = []
        verdicts: list[Promised] = []
        with self._changed:
            if not self._waiting and not self._closed and wait:
                self._changed.wait(wait)
            for row in self._waiting:
                if isinstance(row, Interaction):
                    answers.append(row)
                else:
                    verdicts.append(row)
            self._waiting.clear()
            self._characters = 0
            return answers, verdicts, self._closed

    def _write_answers(self, answers: Sequence[Interaction]) -> None:
        for answer in answers:
            try:
                self._answers.add(self._answer_line(answer))
            # Whatever masking breaks on in one row, the others are written.
            except Exception as error:  # noqa: BLE001
                self._note(lost=1, failing=error)
            else:
                self._note(answers=1)

    def _write_verdicts(self, verdicts: Sequence[Promised]) -> None:
        """Writes verdicts, waits for the disk once, and says so to those who wait."""
        written: list[Future[None]] = []
        for verdict, kept in verdicts:
            try:
                self._verdicts.add(self._verdict_line(verdict))
            except UnsyncedError as error:
                # A file ended in between, and may not hold those that were written into it.
                self._refuse([*written, kept], error)
                written.clear()
            except Exception as error:  # noqa: BLE001  as above
                self._refuse([kept], error)
            else:
                written.append(kept)
        if not written:
            return
        try:
            self._verdicts.sync()
        except OSError as error:
            self._refuse(written, error)
            return
        self._note(verdicts=len(written))
        for kept in written:
            kept.set_result(None)

    def _refuse(self, promised: Sequence["Future[None]"], error: Exception) -> None:
        self._note(refused=len(promised), failing=error)
        for kept in promised:
            kept.set_exception(OSError(_words(error)))

    def _answer_line(self, answer: Interaction) -> bytes:
        if self._config.mask:
            answer = masked.answer(answer, self._config.detection)
        return _line(answer)

    def _verdict_line(self, verdict: KeptVerdict) -> bytes:
        if self._config.mask:
            verdict = masked.verdict(verdict, self._config.detection)
        return _line(verdict)

    def _look_after_files(self, closed: bool) -> None:
        """Syncs answers now and then, ends files with their day, and removes old ones."""
        now = time.monotonic()
        try:
            if closed or now - self._synced >= SYNC:
                self._synced = now
                self._answers.sync()
            if closed:
                self._answers.close()
                self._verdicts.close()
            else:
                self._answers.end_day()
                self._verdicts.end_day()
            if self._tidied is None or now - self._tidied > TIDY:
                self._tidied = now
                tidy(
                    self._config.folder,
                    self._config.keep_days,
                    self._config.keep_megabytes * 10**6,
                )
        except OSError as error:
            self._note(failing=error)

    def _learn_secret(self) -> None:
        """Reads or makes the folder's secret, with which ids are signed from then on."""
        try:
            self._ids = Ids(secret_of(self._config.folder))
        except OSError as error:
            self._note(failing=error)
        else:
            self._has_secret = True

    def _note(
        self,
        answers: int = 0,
        verdicts: int = 0,
        lost: int = 0,
        refused: int = 0,
        failing: Exception | None = None,
    ) -> None:
        """Counts; a row that was written ends what was failing, unless no verdict can be kept."""
        with self._changed:
            state = self._state
            said = state.failing
            if failing is not None:
                said = _words(failing)
                if state.failing is None:
                    LOGGER.warning("answers go on, and their log can't be written: %s", said)
            elif (answers or verdicts) and self._has_secret:
                if state.failing is not None:
                    LOGGER.warning("the log of answers is written again: %d were lost", state.lost)
                said = None
            self._state = replace(
                state,
                answers=state.answers + answers,
                verdicts=state.verdicts + verdicts,
                lost=state.lost + lost,
                refused=state.refused + refused,
                failing=said,
            )


def read_answers(folder: Path, unread: Counter[str]) -> Iterator[Interaction]:
    """Yields the answers of a log, file by file; counts unreadable rows in `unread`, by reason."""
    return _read(folder, "answers", Interaction, unread)


def read_verdicts(folder: Path, unread: Counter[str]) -> Iterator[KeptVerdict]:
    """Yields the verdicts of a log, file by file; counts unreadable rows in `unread`, by reason."""
    return _read(folder, "verdicts", KeptVerdict, unread)


def _read(folder: Path, kind: LogKind, record: type[R], unread: Counter[str]) -> Iterator[R]:
    for path in files(folder, kind):
        try:
            for line in io.lines(path):
                if not line:
                    continue
                try:
                    yield record.model_validate_json(line)
                except ValidationError as error:
                    unread[_why(error)] += 1
        except InputError:
            # It was removed since, or is not ours to read.
            unread["files that could not be read"] += 1


def _why(error: ValidationError) -> str:
    if error.errors(include_input=False)[0]["type"] == "json_invalid":
        return "rows cut off by a kill or a full disk"
    return "rows of another version of CoWest"


def _line(row: Record) -> bytes:
    """A row as it is written. Raises ValueError for a row that no file of ours can hold."""
    line: bytes = to_json(row) + b"\n"
    if len(line) > io.LINE_LIMIT:
        raise ValueError(f"a row is longer than {io.LINE_LIMIT // 2**20} MiB")
    return line


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return str(error)
