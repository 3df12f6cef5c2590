"""Compares two versions of a data set, query by query.

Pure. Rows are streamed, and 60 bytes of each are kept. A query is known by its prompt. One that
both versions have is *the same* if everything else is equal too, except for the place of its raw
row. Otherwise it is *changed*: it has other targets, another split, or something else is different.
Rows that repeat are counted each time.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

from cowest.records import Demonstration, Query

Rows = Iterable[Query | Demonstration]
Read = Callable[[], Rows]
"""Reads a version from its beginning."""

MOST = 2000
"""Number of values of a field that are told apart; of the others we only know that there are."""
SHOWN = 5
"""Rows of each kind that are shown."""
BESIDE_PROMPT = tuple(name for name in Query.model_fields if name not in ("id", "prompt", "source"))
"""Fields in which rows with one prompt can differ."""
LENGTHS = ("prompt", "target", "ideal")
COUNTED = ("split", "target", "tag")
QUANTILES = (0, 10, 50, 90, 100)
STEPS = 33
"""Steps of a histogram: lengths of 0, 1, 2 to 3, 4 to 7, ... and up to 2**32 - 1."""
Side = tuple[int, int]
"""A count in the first and in the second version."""


@dataclass(slots=True)
class ValueCounts:
    """Counts of the values of one field in one version, for up to MOST values.

    The counts of two versions side by side show how the field changed.
    """

    counts: Counter[str] = field(default_factory=Counter)
    full: bool = False

    def add(self, value: str) -> None:
        if value in self.counts or len(self.counts) < MOST:
            self.counts[value] += 1
        else:
            self.full = True


def _digests() -> "array[int]":
    return array("Q")


def _lengths() -> dict[str, "array[int]"]:
    return {name: array("I") for name in LENGTHS}


def _counted() -> dict[str, ValueCounts]:
    return {name: ValueCounts() for name in COUNTED}


@dataclass(slots=True)
class DataVersion:
    """The part of one version that is kept.

    Per row there are digests of 64 bits and lengths in characters; for all rows together, the
    counts of a few fields.
    """

    prompts: "array[int]" = field(default_factory=_digests)
    targets: "array[int]" = field(default_factory=_digests)
    """Of prompt and targets."""
    splits: "array[int]" = field(default_factory=_digests)
    """Of prompt and split."""
    rows: "array[int]" = field(default_factory=_digests)
    """Of everything but the place of the raw row."""
    demonstrations: "array[int]" = field(default_factory=_digests)
    groups: "array[int]" = field(default_factory=_digests)
    lengths: dict[str, "array[int]"] = field(default_factory=_lengths)
    values: dict[str, ValueCounts] = field(default_factory=_counted)

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, query: Query | Demonstration) -> None:
        """Takes in one row."""
        if isinstance(query, Demonstration):
            self.demonstrations.append(_number((_asked(query), query.completion)))
            return
        prompt = _number(_asked(query))
        beside = [getattr(query, name) for name in BESIDE_PROMPT]
        self.prompts.append(prompt)
        self.targets.append(_number((prompt, query.targets, query.choices)))
        self.splits.append(_number((prompt, query.split)))
        self.rows.append(_number((prompt, *beside)))
        self.groups.append(_number(query.group))
        self.lengths["prompt"].append(sum(len(message.content) for message in query.prompt))
        self.lengths["target"].append(len(query.targets[0]))
        if query.ideal is not None:
            self.lengths["ideal"].append(len(query.ideal))
        self.values["split"].add(query.split)
        self.values["target"].add(_class(query))
        for tag in query.tags or ("(none)",):
            self.values["tag"].add(tag)


def _class(query: Query) -> str:
    """The right answer; for multiple choice its letter."""
    if query.choices and query.targets[0] in query.choices:
        return chr(ord("A") + query.choices.index(query.targets[0]))
    return query.targets[0]


def _asked(row: Query | Demonstration) -> tuple[str, ...]:
    texts: list[str] = []
    for message in row.prompt:
        texts += (message.role, message.content)
    return tuple(texts)


def _number(value: Hashable) -> int:
    """A digest of 64 bits."""
    # Python salts the hashes of strings in each process, so nobody can write two rows that collide.
    return hash(value) & 0xFFFF_FFFF_FFFF_FFFF


@dataclass(frozen=True, slots=True)
class Shares:
    """One value of a distribution in both versions."""

    value: str
    counts: Side


@dataclass(frozen=True, slots=True)
class Distribution:
    """A field in both versions."""

    name: str
    shares: tuple[Shares, ...]
    """The values with the most rows first."""
    sums: Side
    values: Side
    """Number of different values; with `more` a lower bound."""
    more: bool
    moved: float | None
    """Total variation distance: half the sum of the differences of shares.

    0 is the same mixture, 1 nothing in common. None with `more`, or if a version has no rows.
    """


@dataclass(frozen=True, slots=True)
class Difference:
    """Two versions side by side."""

    names: tuple[str, str]
    rows: Side
    same: int
    added: int
    removed: int
    changed: int
    other_targets: int
    """Of the changed."""
    other_split: int
    """Of the changed."""
    demonstrations: Side
    other_demonstrations: Side
    """Demonstrations that the other version does not have."""
    repeated: Side
    """Rows whose prompt came before."""
    groups: Side
    new_groups: int
    distributions: tuple[Distribution, ...]
    lengths: dict[str, tuple[tuple[int, ...] | None, tuple[int, ...] | None]]
    """QUANTILES of the lengths in characters, by version."""
    histograms: dict[str, tuple[tuple[str, Side], ...]]
    """Rows by length, in steps that double."""
    examples: dict[str, tuple[tuple[Query | None, Query | None], ...]]
    """A few rows `added`, `removed` and `changed`, before and after."""


def compare(first: Read, second: Read, names: tuple[str, str]) -> Difference:
    """Compares two versions.

    Reads each version once, and a second time up to the last row that is shown.
    """
    a, b = _read(first()), _read(second())
    demonstrations = _common(a.demonstrations, b.demonstrations)
    both, same = _common(a.prompts, b.prompts), _common(a.rows, b.rows)
    targets, splits = _common(a.targets, b.targets), _common(a.splits, b.splits)
    groups = _unique(a.groups), _unique(b.groups)
    lengths, histograms = {}, {}
    for name in LENGTHS:
        before, after = a.lengths[name], b.lengths[name]
        lengths[name] = (_quantiles(before), _quantiles(after))
        histograms[name] = _histogram(before, after)
    return Difference(
        names=names,
        rows=(len(a), len(b)),
        same=same,
        added=len(b) - both,
        removed=len(a) - both,
        changed=both - same,
        other_targets=both - targets,
        other_split=both - splits,
        demonstrations=(len(a.demonstrations), len(b.demonstrations)),
        other_demonstrations=(
            len(a.demonstrations) - demonstrations,
            len(b.demonstrations) - demonstrations,
        ),
        repeated=(len(a) - len(_unique(a.prompts)), len(b) - len(_unique(b.prompts))),
        groups=(len(groups[0]), len(groups[1])),
        new_groups=_missing(groups[1], groups[0]),
        distributions=tuple(
            _distribution(name, a.values[name], b.values[name]) for name in COUNTED
        ),
        lengths=lengths,
        histograms=histograms,
        examples=_examples(a, b, first, second),
    )


def _read(queries: Rows) -> DataVersion:
    version = DataVersion()
    for query in queries:
        version.add(query)
    return version


def _common(a: "array[int]", b: "array[int]") -> int:
    """Number of rows that both versions have.

    A row that repeats counts as often as in the version that has it less often.
    """
    import numpy as np

    first, times = np.unique(_numbers(a), return_counts=True)
    second, others = np.unique(_numbers(b), return_counts=True)
    _, here, there = np.intersect1d(first, second, assume_unique=True, return_indices=True)
    return int(np.minimum(times[here], others[there]).sum())


def _numbers(values: "array[int]") -> Any:
    import numpy as np

    return np.frombuffer(values, dtype=np.uint64) if values else np.empty(0, dtype=np.uint64)


def _unique(values: "array[int]") -> Any:
    import numpy as np

    return np.unique(_numbers(values))


def _missing(values: Any, known: Any) -> int:
    import numpy as np

    return len(np.setdiff1d(values, known, assume_unique=True))


def _distribution(name: str, a: ValueCounts, b: ValueCounts) -> Distribution:
    def most_first(value: str) -> tuple[int, str]:
        return -(a.counts[value] + b.counts[value]), value

    values = sorted(a.counts.keys() | b.counts.keys(), key=most_first)
    sums, more = (a.counts.total(), b.counts.total()), a.full or b.full
    moved = None
    if all(sums) and not more:
        moved = (
            sum(abs(a.counts[value] / sums[0] - b.counts[value] / sums[1]) for value in values) / 2
        )
    shares = tuple(Shares(value, (a.counts[value], b.counts[value])) for value in values)
    return Distribution(name, shares, sums, (len(a.counts), len(b.counts)), more, moved)


def _quantiles(lengths: "array[int]") -> tuple[int, ...] | None:
    import numpy as np

    if not lengths:
        return None
    found = np.percentile(np.frombuffer(lengths, dtype=np.uint32), QUANTILES, method="inverted_cdf")
    return tuple(int(value) for value in found)


def _histogram(a: "array[int]", b: "array[int]") -> tuple[tuple[str, Side], ...]:
    """Rows by length, from the shortest step that has any to the longest."""
    before, after = _per_step(a), _per_step(b)
    used = [step for step in range(STEPS) if before[step] or after[step]]
    if not used:
        return ()
    return tuple(
        (_step(step), (int(before[step]), int(after[step])))
        for step in range(used[0], used[-1] + 1)
    )


def _per_step(lengths: "array[int]") -> Any:
    import numpy as np

    if not lengths:
        return np.zeros(STEPS, dtype=np.int64)
    values = np.frombuffer(lengths, dtype=np.uint32).astype(float)
    # The binary exponent of a length is the number of its step.
    return np.bincount(np.frexp(values)[1], minlength=STEPS)


def _step(step: int) -> str:
    """Names a step by its lengths: 0, 1, 2 to 3, 4 to 7."""
    if step <= 1:
        return f"{step}"
    return f"{2 ** (step - 1):,} to {2**step - 1:,}"


def _examples(
    a: DataVersion, b: DataVersion, first: Read, second: Read
) -> dict[str, tuple[tuple[Query | None, Query | None], ...]]:
    """Reads the first rows of each kind."""
    import numpy as np

    prompts, rows = (_numbers(a.prompts), _numbers(b.prompts)), (_numbers(a.rows), _numbers(b.rows))
    added = np.flatnonzero(~np.isin(prompts[1], prompts[0]))[:SHOWN].tolist()
    removed = np.flatnonzero(~np.isin(prompts[0], prompts[1]))[:SHOWN].tolist()
    # A prompt may stand in several rows. A changed one is shown beside a row that only the other
    # version has: a row that both have did not become it.
    gone, come = ~np.isin(rows[0], rows[1]), ~np.isin(rows[1], rows[0])
    after = np.flatnonzero(come & np.isin(prompts[1], prompts[0][gone]))[:SHOWN].tolist()
    before = [int(np.flatnonzero(gone & (prompts[0] == prompts[1][place]))[0]) for place in after]
    here, there = _picked(first(), {*removed, *before}), _picked(second(), {*added, *after})
    return {
        "added": tuple((None, there[place]) for place in added),
        "removed": tuple((here[place], None) for place in removed),
        "changed": tuple((here[old], there[new]) for old, new in zip(before, after, strict=True)),
    }


def _picked(rows: Rows, places: set[int]) -> dict[int, Query]:
    """The queries at these places; reads no further than the last."""
    found: dict[int, Query] = {}
    if not places:
        return found
    queries = (row for row in rows if isinstance(row, Query))
    for place, query in enumerate(queries):
        if place in places:
            found[place] = query
        if len(found) == len(places):
            break
    return found
