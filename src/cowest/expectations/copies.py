"""Readers of queries that find copies: of held-out queries, and of benchmarks' questions."""

from collections.abc import Callable
from functools import cache, partial
from operator import itemgetter

from cowest import io
from cowest.batched import batched
from cowest.expectations import near
from cowest.expectations.columns import AT_ONCE, SPLITS
from cowest.expectations.contained import Contained
from cowest.expectations.rules import Remarks
from cowest.raw.harvested import NAME as HARVEST
from cowest.records import Query

Reader = Callable[[int, list[Query]], list[dict[str, float]]]
"""Derives columns of some adjacent rows, given the number of the first."""


def asked(row: Query) -> str:
    """The question, without the system prompt, which all queries have in common."""
    return "\n".join(message.content for message in row.prompt if message.role != "system")


def _is_served(row: Query) -> bool:
    """True for a row that `cowest harvest` made."""
    return row.source.startswith(f"{HARVEST}:")


def _each_asked(row: Query) -> list[str]:
    """The texts of a row that may each repeat another question.

    Whoever gives a verdict on a served conversation chose its roles, too: a held-out question may
    stand in any message of it.
    """
    if not _is_served(row):
        return [asked(row)]
    return [asked(row), *(message.content for message in row.prompt)]


def of_held_out(
    rows: io.Paths, least: float, remarks: Remarks, as_it_goes_out: Callable[[Query], Query]
) -> Reader:
    """Compares every query with those of later splits: train with dev and test, dev with test.

    So of two copies the one nearer to training is found. In a served conversation a held-out query
    may stand among other words. Only held-out queries are indexed, and all stream past: most rows
    are of train, and are never held.
    """
    index, contained = near.Index(least), Contained()
    held: dict[int, tuple[int, str]] = {}
    for part in batched(io.held_out(rows), AT_ONCE):
        numbers, texts = [], []
        for place, number_of_row, row in part:
            held[number_of_row] = (SPLITS.index(row.split), place)
            numbers.append(number_of_row)
            texts.append(asked(as_it_goes_out(row)))
            contained.add(number_of_row, texts[-1])
        index.add(numbers, texts)

    def is_later(split: int, number_of_row: int) -> bool:
        return held[number_of_row][0] > split

    def read(start: int, part: list[Query]) -> list[dict[str, float]]:
        places, texts = [], []
        for place, row in enumerate(part):
            for text in _each_asked(row):
                places.append(place)
                texts.append(text)
        best: list[tuple[float, int | None]] = [(0.0, None)] * len(part)
        for place, sketch in zip(places, near.sketches(texts), strict=True):
            split = SPLITS.index(part[place].split)
            found = index.nearest(sketch, partial(is_later, split))
            if found[0] > best[place][0]:
                best[place] = found
        for place, row in enumerate(part):
            if _is_served(row) and best[place][0] < 1:
                whole = "\n".join(message.content for message in row.prompt)
                other = contained.within(whole, partial(is_later, SPLITS.index(row.split)))
                if other is not None:
                    best[place] = 1.0, other
        for at, (alike, other) in enumerate(best, start):
            if other is not None:
                remarks.say(at, f"{alike:.2f} like {held[other][1]}")
        return [{"near": alike} for alike, _ in best]

    return read


def of_served(rows: io.Paths, remarks: Remarks, as_it_goes_out: Callable[[Query], Query]) -> Reader:
    """Compares served conversations alone with held-out queries: the same words, also among others.

    Served conversations are always of train.
    """

    @cache
    def held() -> near.Known:
        # Most files have no such row, and then no held-out query is read for it.
        found = near.Known(None)
        for part in batched(io.held_out(rows), AT_ONCE):
            found.add([(place, asked(as_it_goes_out(row))) for place, _, row in part])
        return found

    def read(start: int, part: list[Query]) -> list[dict[str, float]]:
        found = []
        for at, row in enumerate(part, start):
            alike, place = 0.0, None
            if _is_served(row):
                alike, place = max(map(held().nearest, _each_asked(row)), key=itemgetter(0))
            if place is not None:
                remarks.say(at, f"{alike:.2f} like {place}")
            found.append({"near": alike})
        return found

    return read


def of_benchmarks(known: near.Known, remarks: Remarks) -> Reader:
    """Compares every query with the questions of benchmarks."""

    def read(start: int, part: list[Query]) -> list[dict[str, float]]:
        found = []
        for at, row in enumerate(part, start):
            alike, place = max(map(known.nearest, _each_asked(row)), key=itemgetter(0))
            if place is not None:
                remarks.say(at, f"{alike:.2f} like {place}")
            found.append({"benchmark": alike})
        return found

    return read
