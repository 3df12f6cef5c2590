"""Thoughts of a model, which are no answer: found by their marks, and left out where one is read.

These marks, and no others:

    <think> </think>, <thinking>, <thought>, <reasoning>      in upper or lower case
    [THINK] [/THINK]                                          Mistral's
    <|channel|>analysis<|message|> ...                        gpt-oss, where the channel `final` is
                                                              the answer; also with its marks gone,
                                                              analysis ... assistantfinal

A thought that is not closed reaches to the end. A mark that closes what no mark opened was opened
by the prompt, so all before it is a thought. There may be several thoughts. A mark in backticks is
spoken of, and is none.
"""

import re

TAG = re.compile(
    r"(?<!`)(?:<(?P<closes>/?)(?i:think|thinking|thought|reasoning)>|\[(?P<shuts>/?)THINK\])"
)
MARKS = frozenset(
    ["<think>", "</think>", "<thinking>", "</thinking>", "<thought>", "</thought>", "<reasoning>",
     "</reasoning>", "[THINK]", "[/THINK]", "<|channel|>", "<|message|>"]
)  # fmt: skip
"""Marks that may be control tokens of a tokenizer: a text that lacks them can't be told from an
answer."""
BEGINS = r"(?<!`)<\|channel\|>"
CHANNEL = re.compile(rf"{BEGINS}\s*+(?P<name>\w++)[^<]*+(?:<\|constrain\|>[^<]*+)*+<\|message\|>")
"""The head of a channel, which may say what form its text has. Nothing is read twice, so that a
text that is made of beginnings takes no longer than any other."""
ENDS = r"<\|(?:end|return|call|start)\|>"
CHANNEL_END = re.compile(rf"(?<!`){ENDS}|{ENDS}(?!`)")
"""An answer may end in backticks of its own, so a mark is spoken of between two of them alone."""
BARE_ANALYSIS = re.compile(r"\s*analysis(?=[A-Z])")
BARE_FINAL = "assistantfinal"
STREAMED_MARK = re.compile(rf"(?P<channel>{BEGINS})|{TAG.pattern}")
"""The marks that are looked for while a text still comes."""
STREAMED_MARKS = tuple(mark.lower() for mark in MARKS if mark != "<|message|>")


def without_thoughts(text: str) -> str:
    """The text without its thoughts; empty if it holds nothing else, unchanged if it has none."""
    if re.search(BEGINS, text):
        return _final_channel(text)
    if BARE_ANALYSIS.match(text):
        # A text without the second mark was cut within its thought.
        return text.rpartition(BARE_FINAL)[2].strip() if BARE_FINAL in text else ""
    if TAG.search(text) is None:
        return text
    kept: list[str] = []
    begin = 0
    inside = False
    for tag in TAG.finditer(text):
        if not (tag["closes"] or tag["shuts"]):
            if not inside:
                kept.append(text[begin : tag.start()])
            inside = True
            continue
        if not inside:
            kept.clear()
        inside = False
        begin = tag.end()
    if not inside:
        kept.append(text[begin:])
    return "".join(kept).strip()


def _final_channel(text: str) -> str:
    """The last text in the channel `final`; empty if there is none."""
    finals = [channel for channel in CHANNEL.finditer(text) if channel["name"] == "final"]
    if not finals:
        return ""
    return CHANNEL_END.split(text[finals[-1].end() :], maxsplit=1)[0].strip()


class ThoughtFilter:
    """Leaves the thoughts out of a text that comes in pieces: `push` each, then `end`.

    What the two give, joined, is `without_thoughts` of the whole. There is one exception: a text
    that began with white space before any mark keeps it. A text that came already can't be taken
    back, so `late` becomes true where a mark says that what was given had been a thought.
    """

    def __init__(self, opened: bool = False) -> None:
        """`opened` says that the prompt opens a thought, so the text begins inside it."""
        self.late = False
        self._opened = opened
        self._inside = opened
        self._marked = False
        self._shown = False
        # Nothing more is given before the end, since only the whole can say what the answer is.
        self._waits = False
        self._begun = False
        self._before = ""
        self._held = ""
        self._space = ""
        self._given: list[str] = []

    def push(self, piece: str) -> str:
        """Takes the next piece, and returns what is certain to be part of the answer."""
        if self._waits or self.late:
            return ""
        self._held += piece
        if not self._begun and not self._begins():
            return ""
        shown = self._read()
        if shown:
            self._given.append(shown)
        return shown

    def end(self, whole: str) -> str:
        """Returns the rest of the answer; `whole` is the answer without its thoughts."""
        given = "".join(self._given)
        for begin in (given, given.lstrip()):
            if not self.late and whole.startswith(begin):
                return whole[len(begin) :]
        self.late = True
        return ""

    def _begins(self) -> bool:
        """Says whether the first word is known; a text that begins with a bare analysis waits."""
        if BARE_ANALYSIS.match(self._held):
            self._waits = True
            return False
        self._begun = not "analysis".startswith(self._held.lstrip())
        return self._begun

    def _read(self) -> str:
        """Reads what is held up to the last character that can't be part of a mark."""
        # The character before stays, since a mark after a backtick is none.
        text = self._before + self._held
        place = len(self._before)
        parts: list[str] = []
        for mark in STREAMED_MARK.finditer(text, place):
            if not self._inside:
                parts.append(self._visible(text[place : mark.start()]))
            self._pass(mark)
            place = mark.end()
            if self._waits or self.late:
                return "".join(parts)
        end = max(place, _undecided(text))
        if not self._inside:
            parts.append(self._visible(text[place:end]))
        self._before = text[max(end - 1, 0) : end]
        self._held = text[end:]
        return "".join(parts)

    def _pass(self, mark: re.Match[str]) -> None:
        """Goes in or out at a mark."""
        if mark["channel"]:
            self.late, self._waits = self._shown, True
        elif not (mark["closes"] or mark["shuts"]):
            # What stands before it is part of the answer, though it was taken for a thought.
            self._waits = self._opened and not self._marked
            self._inside = True
        else:
            if not self._inside:
                self.late = self._shown
                self._space = ""
            self._inside = False
        self._marked = True

    def _visible(self, text: str) -> str:
        """The text, without white space that may be at an end of the answer."""
        text = self._space + text
        if self._marked and not self._shown:
            text = text.lstrip()
        kept = text.rstrip()
        self._space = text[len(kept) :]
        self._shown = self._shown or bool(kept)
        return kept


def _undecided(text: str) -> int:
    """The place from which on a text may be the beginning of a mark."""
    place = max(text.rfind("<"), text.rfind("["))
    if place < 0:
        return len(text)
    begin = text[place:].lower()
    return place if any(mark.startswith(begin) for mark in STREAMED_MARKS) else len(text)
