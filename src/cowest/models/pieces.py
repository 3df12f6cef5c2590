"""An answer shown while it is decoded: only what no later token can change, and no stop text."""

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
"""Stands at the end of a text for the bytes of a character that is not whole yet."""


class Pieces:
    """The text of one answer, piece by piece; all pieces joined are the answer's text."""

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        """Takes the stop texts, which end the answer."""
        self._stop = stop
        self._shown = ""

    def more(self, text: str) -> str:
        """Returns what can be shown of a text that was decoded so far, and was not shown yet."""
        sure = text.rstrip(UNKNOWN)
        sure = sure[: self._before_a_stop(sure)]
        # An answer is stripped in the end, and white space may be its end.
        return self._beyond(sure.strip())

    def rest(self, text: str) -> str:
        """Returns what is left of the whole text. Raises ValueError if it is not as was shown."""
        if not text.startswith(self._shown):
            raise ValueError("the tokenizer wrote another text than it had begun with")
        return self._beyond(text)

    def _before_a_stop(self, text: str) -> int:
        """The place from which on the text is a stop text, or may be the beginning of one."""
        place = len(text)
        for stop in self._stop:
            found = text.find(stop)
            if found >= 0:
                place = min(place, found)
            # The longest end of the text that begins the stop text.
            for length in range(min(len(stop) - 1, len(text)), 0, -1):
                if text.endswith(stop[:length]):
                    place = min(place, len(text) - length)
                    break
        return place

    def _beyond(self, sure: str) -> str:
        if not sure.startswith(self._shown):
            return ""
        piece = sure[len(self._shown) :]
        self._shown = sure
        return piece
