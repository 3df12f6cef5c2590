"""Server-sent events, cut out of the bytes of an answer (WHATWG HTML, section 9.2).

Pure: nothing here reads a connection. An answer comes in pieces that end anywhere, in the middle of
a letter or of a line end too.
"""

import re
from typing import NamedTuple

LARGEST_EVENT = 2**22
"""Maximum size of one event, and of one line, in bytes."""
LINE_END = re.compile(rb"\r\n|\n|\r")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventError(ValueError):
    """The bytes are no events that we read."""


class SentEvent(NamedTuple):
    """One event."""

    kind: str
    """Its name; empty for one without, as most are."""
    data: bytes
    """Its lines of data, joined by line ends; never empty."""


class SentEvents:
    """The events of one answer. It takes time in proportion to what it is fed."""

    def __init__(self) -> None:
        self._line: list[bytes] = []
        """The parts of the line that has not ended yet."""
        self._length = 0
        self._data: list[bytes] = []
        self._size = 0
        self._kind = ""
        self._is_first = True
        self._after_return = False
        """True after a carriage return, whose line feed may be the first byte to come."""

    def feed(self, piece: bytes) -> list[SentEvent]:
        """Returns the events that end in a piece of the bytes. Raises EventError."""
        if self._after_return and piece.startswith(b"\n"):
            piece = piece[1:]
            self._after_return = False
        if not piece:
            return []
        self._after_return = piece.endswith(b"\r")
        found = []
        first, *others = LINE_END.split(piece)
        self._extend(first)
        for part in others:
            event = self._ended_line()
            if event is not None:
                found.append(event)
            self._extend(part)
        return found

    def end(self) -> list[SentEvent]:
        """Returns the last event, if the bytes end before the empty line that would end it."""
        event = self._ended_line() if self._length else None
        event = event or self._ended_event()
        return [event] if event is not None else []

    def _extend(self, part: bytes) -> None:
        self._length += len(part)
        if self._length > LARGEST_EVENT:
            raise EventError(f"a line of more than {LARGEST_EVENT} bytes")
        if part:
            self._line.append(part)

    def _ended_line(self) -> SentEvent | None:
        """Reads the line that has ended; an empty one ends an event."""
        line = b"".join(self._line)
        self._line, self._length = [], 0
        if self._is_first:
            self._is_first = False
            line = line.removeprefix(BYTE_ORDER_MARK)
        if not line:
            return self._ended_event()
        # A line that begins with a colon is a comment: its field has no name.
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._size += len(value) + 1
            if self._size > LARGEST_EVENT:
                raise EventError(f"an event of more than {LARGEST_EVENT} bytes")
            self._data.append(value)
        elif name == b"event":
            self._kind = value.decode("utf-8", "replace")
        return None

    def _ended_event(self) -> SentEvent | None:
        data, kind = b"\n".join(self._data), self._kind
        self._data, self._size, self._kind = [], 0, ""
        return SentEvent(kind, data) if data else None
