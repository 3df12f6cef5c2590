"""The marker of an answer, such as `Answer:`. Only what follows its last occurrence is scored.

A scorer with a marker has it in its name, `exact_match after Answer:`, since it scores otherwise.
"""

import re
from typing import Annotated

from pydantic import AfterValidator

from cowest.scorers.rules import RuleNumber

AFTER = " after "
"""Stands between a scorer's name and its marker."""


def _not_blank(marker: str) -> str:
    if not marker.strip():
        raise ValueError("it is blank: name words such as `Answer:`, or leave the setting out")
    return marker


Marker = Annotated[str, AfterValidator(_not_blank)]
"""Words before an answer. A blank marker stands at the end of any text, before no answer."""


def named(scorer: str, marker: str | None) -> str:
    """The name of a scorer with its marker; None: it scores answers whole."""
    if marker is None:
        return scorer
    return f"{scorer}{AFTER}{marker}"


def parted(name: str) -> tuple[str, str | None]:
    """The scorer and the marker in a name; None if it has no marker."""
    scorer, _, marker = name.partition(AFTER)
    return scorer, marker or None


def after(answer: str, marker: str | None, rule: RuleNumber = 1) -> str:
    """The text from the last marker to the end of its line; the whole answer if there is none.

    Spaces, asterisks and underscores around that text are left out: they are Markdown's. By rule 3
    they may also stand before the marker's colon, and the text may begin on a later line.
    """
    if marker is None:
        return answer
    if rule == 3:
        return _after(answer, marker)
    if marker not in answer:
        return answer
    rest = answer.rpartition(marker)[2].strip(" *_")
    if not rest:
        return ""
    return rest.splitlines()[0].strip(" *_")


def _after(answer: str, marker: str) -> str:
    words = marker.rstrip(": ")
    colon = marker[len(words) :].strip()
    parted = "[ *_]*" if words and colon else ""
    places = list(re.finditer(f"{re.escape(words)}{parted}{re.escape(colon)}", answer))
    if not places:
        return answer
    for line in answer[places[-1].end() :].splitlines():
        said = line.strip(" *_\t")
        if said:
            return said
    return ""
