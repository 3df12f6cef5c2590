"""Held-out rows that are shown outside the project's folder, masked as requests are."""

import heapq
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

from cowest import io
from cowest.config import parse
from cowest.expectations.private import by_field, in_order
from cowest.models.egress import EgressConfig
from cowest.records import Trial, with_contents

TEXTS = ("draft", "refinement", "solo", "explanation", "failed")
"""The fields of a trial that models wrote; an endpoint's complaint may quote what it was asked."""


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
    written = {name: getattr(row, name) for name in TEXTS}
    fields = {
        "prompt": [message.content for message in row.prompt],
        "targets": list(row.targets),
    }
    for name, text in written.items():
        fields[name] = [] if text is None else [text]
    shown = egress.shown(in_order(fields))
    if shown is None:
        return None
    texts = by_field(fields, shown)
    changed: dict[str, Any] = {
        "prompt": with_contents(row.prompt, texts["prompt"]),
        "targets": tuple(texts["targets"]),
    }
    for name, text in written.items():
        changed[name] = None if text is None else texts[name][0]
    return row.model_copy(update=changed)
