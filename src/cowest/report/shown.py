"""Held-out rows that are shown outside the project's folder, masked as requests are."""

import heapq
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

from cowest import io
from cowest.config import parse
from cowest.models.egress import EgressConfig
from cowest.records import Message, Trial

TEXTS = ("draft", "refinement", "solo", "explanation")
"""The fields of a trial that models wrote."""


def sample(trials: Path, count: int, egress: EgressConfig) -> list[Trial]:
    """Returns the rows of at most `count` queries, one of each, after alignment.

    The queries are those with the smallest ids. An id is a digest, so this is a random choice, and
    the same one each time. A row that the filter would refuse is left out.
    """
    of_after = (row for row in io.read(trials, Trial) if (row.system, row.sample) == ("after", 0))
    found = []
    for row in heapq.nsmallest(count, of_after, key=attrgetter("id")):
        shown = _masked(row, egress)
        if shown is not None:
            found.append(shown)
    return found


def filter_of(params: Mapping[str, Any]) -> EgressConfig:
    """The filter of what leaves for the strong model that evaluates; a local model has none."""
    strong = (params.get("evaluate") or {}).get("strong") or {}
    return parse(EgressConfig, strong.get("egress") or {}, "evaluate.strong.egress")


def _masked(row: Trial, egress: EgressConfig) -> Trial | None:
    """The row as it may be shown; None if it may not."""
    asked = [message.content for message in row.prompt]
    values = {name: getattr(row, name) for name in TEXTS}
    written = {name: value for name, value in values.items() if value is not None}
    shown = egress.shown([*asked, *row.targets, *written.values()])
    if shown is None:
        return None
    texts = iter(shown)
    prompt = [Message(role=message.role, content=next(texts)) for message in row.prompt]
    fields: dict[str, Any] = {"prompt": tuple(prompt)}
    fields["targets"] = tuple(next(texts) for _ in row.targets)
    for name in written:
        fields[name] = next(texts)
    return row.model_copy(update=fields)
