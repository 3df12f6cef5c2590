"""What differs between two versions of a data set, query by query. Pure; rows are streamed, and 60 bytes of each are held.

A query is known by its prompt. One that both versions have is *the same* if all of it is (where its raw row stands has no say), else
*changed*: other targets, another split, or something else. Rows that repeat are counted as often as they stand.
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
"""Different values of a distribution that are told apart; where there are more, only their number is known."""
SHOWN = 5
"""Rows of each kind that are shown."""
SAID = tuple(name for name in Query.model_fields if name not in ("id", "prompt", "source"))
"""What a row says beside its prompt."""
LENGTHS = ("prompt", "target", "ideal")
QUANTILES = (0, 10, 50, 90, 100)
Side = tuple[int, int]
"""A count in the first and in the second version."""


@dataclass(slots=True)
class Tally:
    """How often each value stands, up to MOST values."""

    counts: Counter[str] = field(default_factory=Counter)
    full: bool = False

    def add(self, value: str) -> None:
        if value in self.counts or len(self.counts) < MOST:
            self.counts[value] += 1
        else:
            self.full = True


@dataclass(slots=True)
class Version:
    """What is held of one version: for each row digests of 64 bits and lengths in characters, and tallies."""

    prompts: "array[int]" = field(default_factory=lambda: array("Q"))
    targets: "array[int]" = field(default_factory=lambda: array("Q"))
    """Of prompt and targets."""
    splits: "array[int]" = field(default_factory=lambda: array("Q"))
    """Of prompt and split."""
    rows: "array[int]" = field(default_factory=lambda: array("Q"))
    """Of all that a row says."""
    demonstrations: "array[int]" = field(default_factory=lambda: array("Q"))
    groups: "array[int]" = field(default_factory=lambda: array("Q"))
    lengths: dict[str, "array[int]"] = field(
        default_factory=lambda: {name: array("I") for name in LENGTHS}
    )
    tallies: dict[str, Tally] = field(
        default_factory=lambda: {name: Tally() for name in ("split", "target", "tag")}
    )

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, query: Query | Demonstration) -> None:
        """Takes one row in."""
        if isinstance(query, Demonstration):
            self.demonstrations.append(_number((_asked(query), query.completion)))
            return
        prompt = _number(_asked(query))
        self.prompts.append(prompt)
        self.targets.append(_number((prompt, query.targets, query.choices)))
        self.splits.append(_number((prompt, query.split)))
        self.rows.append(_number((prompt, *(getattr(query, name) for name in SAID))))
        self.groups.append(_number(query.group))
        lengths = {
            "prompt": sum(len(message.content) for message in query.prompt),
            "target": len(query.targets[0]),
        }
        lengths |= {"ideal": len(query.ideal)} if query.ideal is not None else {}
        for name, length in lengths.items():
            self.lengths[name].append(length)
        self.tallies["split"].add(query.split)
        self.tallies["target"].add(_class(query))
        for tag in query.tags or ("(none)",):
            self.tallies["tag"].add(tag)


def _class(query: Query) -> str:
    """The right answer: of a multiple choice its letter."""
    if query.choices and query.targets[0] in query.choices:
        return chr(ord("A") + query.choices.index(query.targets[0]))
    return query.targets[0]


def _asked(row: Query | Demonstration) -> tuple[str, ...]:
    return tuple(text for message in row.prompt for text in (message.role, message.content))


def _number(value: Hashable) -> int:
    """64 bits of it, which are others in every process, so that nobody makes two rows that look the same."""
    return hash(value) & 0xFFFF_FFFF_FFFF_FFFF


@dataclass(frozen=True, slots=True)
class Shares:
    """One value of a distribution in both versions."""

    value: str
    counts: Side


@dataclass(frozen=True, slots=True)
class Distribution:
    """A column in both versions."""

    name: str
    shares: tuple[Shares, ...]
    """The values of most rows, most first."""
    sums: Side
    values: Side
    """Different values of each; with `more`, at least so many."""
    more: bool
    moved: float | None
    """Half the sum of the differences of shares (total variation): 0 is the same mixture, 1 nothing in common. None with `more`."""


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
    """Of those changed."""
    other_split: int
    """Of those changed."""
    demonstrations: Side
    other_demonstrations: Side
    """Of those, the ones that the other version has not."""
    repeated: Side
    """Rows whose prompt stood before."""
    groups: Side
    new_groups: int
    distributions: tuple[Distribution, ...]
    lengths: dict[str, tuple[tuple[int, ...] | None, tuple[int, ...] | None]]
    """In characters: least, a tenth, half, nine tenths, most."""
    histograms: dict[str, tuple[tuple[str, Side], ...]]
    """Rows by length, in steps of a doubling."""
    examples: dict[str, tuple[tuple[Query | None, Query | None], ...]]
    """A few rows `added`, `removed` and `changed`, before and after."""


def compare(first: Read, second: Read, names: tuple[str, str]) -> Difference:
    """Reads each version once, and again as far as the rows that are shown."""
    a, b = _read(first()), _read(second())
    taught = _common(a.demonstrations, b.demonstrations)
    both, same = _common(a.prompts, b.prompts), _common(a.rows, b.rows)
    targets, splits = _common(a.targets, b.targets), _common(a.splits, b.splits)
    groups = _unique(a.groups), _unique(b.groups)
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
        other_demonstrations=(len(a.demonstrations) - taught, len(b.demonstrations) - taught),
        repeated=(len(a) - _distinct(a.prompts), len(b) - _distinct(b.prompts)),
        groups=(len(groups[0]), len(groups[1])),
        new_groups=_missing(groups[1], groups[0]),
        distributions=tuple(
            _distribution(name, a.tallies[name], b.tallies[name]) for name in a.tallies
        ),
        lengths={
            name: (_quantiles(a.lengths[name]), _quantiles(b.lengths[name])) for name in LENGTHS
        },
        histograms={name: _histogram(a.lengths[name], b.lengths[name]) for name in LENGTHS},
        examples=_examples(a, b, first, second),
    )


def _read(queries: Rows) -> Version:
    version = Version()
    for query in queries:
        version.add(query)
    return version


def _common(a: "array[int]", b: "array[int]") -> int:
    """Rows that both have, each as often as in the version that has it less often."""
    import numpy as np

    (first, times), (second, others) = (
        np.unique(_numbers(side), return_counts=True) for side in (a, b)
    )
    _, here, there = np.intersect1d(first, second, assume_unique=True, return_indices=True)
    return int(np.minimum(times[here], others[there]).sum())


def _numbers(values: "array[int]") -> Any:
    import numpy as np

    return np.frombuffer(values, dtype=np.uint64) if len(values) else np.empty(0, dtype=np.uint64)


def _unique(values: "array[int]") -> Any:
    import numpy as np

    return np.unique(_numbers(values))


def _distinct(values: "array[int]") -> int:
    return len(_unique(values))


def _missing(values: Any, known: Any) -> int:
    import numpy as np

    return len(np.setdiff1d(values, known, assume_unique=True))


def _distribution(name: str, a: Tally, b: Tally) -> Distribution:
    values = sorted(
        a.counts.keys() | b.counts.keys(),
        key=lambda value: (-(a.counts[value] + b.counts[value]), value),
    )
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
    import numpy as np

    sides = []
    for lengths in (a, b):
        values = (
            np.frombuffer(lengths, dtype=np.uint32) if lengths else np.empty(0, dtype=np.uint32)
        )
        sides.append(
            np.bincount(np.frexp(values.astype(float))[1], minlength=33)
        )  # 0, 1, 2-3, 4-7, ...
    used = [step for step in range(33) if sides[0][step] or sides[1][step]]
    if not used:
        return ()
    return tuple(
        (_step(step), (int(sides[0][step]), int(sides[1][step])))
        for step in range(used[0], used[-1] + 1)
    )


def _step(step: int) -> str:
    low, high = (2 ** (step - 1), 2**step - 1) if step else (0, 0)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _examples(
    a: Version, b: Version, first: Read, second: Read
) -> dict[str, tuple[tuple[Query | None, Query | None], ...]]:
    """The first rows of each kind; those changed beside a row with their prompt that is in the other version alone, if there is one."""
    import numpy as np

    prompts, rows = (_numbers(a.prompts), _numbers(b.prompts)), (_numbers(a.rows), _numbers(b.rows))
    added = np.flatnonzero(~np.isin(prompts[1], prompts[0]))[:SHOWN].tolist()
    removed = np.flatnonzero(~np.isin(prompts[0], prompts[1]))[:SHOWN].tolist()
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
    found: dict[int, Query] = {}
    if places:
        for place, query in enumerate(row for row in rows if isinstance(row, Query)):
            if place in places:
                found[place] = query
                if len(found) == len(places):
                    break
    return found
