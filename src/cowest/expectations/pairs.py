"""Rules for preference pairs, before anything is trained on them."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from cowest import io
from cowest.config import Config
from cowest.detectors import Finding
from cowest.expectations import columns, private
from cowest.expectations.columns import Columns, number
from cowest.expectations.private import Private
from cowest.expectations.rules import Remarks, Rule, Seen, Severity, graded, share_left
from cowest.instructions import instructs
from cowest.preferences import decimal
from cowest.records import Message, PreferencePair, Query
from cowest.sametext import unadorned


class PairSuite(Config):
    """Settings and rules of preference pairs."""

    kind: Literal["pairs"]
    min_pairs: int = Field(default=1, ge=0)
    """Pairs that must be left, or the turn fails; of `align: kto` drafts, and of `align: grpo` 0,
    since it drafts anew and has none."""
    min_margin: float = Field(default=0.001, gt=0)
    """Smallest margin; closer pairs are set aside."""
    max_length_ratio: float = Field(default=20.0, ge=1)
    """Largest ratio of the longer side to the shorter; pairs over it are set aside."""
    max_pairs_per_query: int = Field(default=16, ge=1)
    """Largest number of pairs per query; further ones are set aside."""
    max_chars: int = Field(default=20_000, ge=1)
    """Largest number of characters on a side; longer pairs are set aside."""
    private: Private = Private()
    """Personal data and secrets."""
    max_aside: float = Field(default=0.5, ge=0, lt=1)
    """Largest share of rows that may be set aside."""
    severity: dict[str, Severity] = Field(default={})
    """Severities by the name of the rule: fail, aside or note, instead of the default."""

    def model_post_init(self, _: Any) -> None:
        self.rules()

    def rules(self) -> list[Rule]:
        """The rules; their columns are those of `see` and `whole`."""
        found = [
            *self._of_each_pair(),
            *self.private.rules("a pair"),
            Rule(
                "train", "pairs come from queries of the split 'train' alone",
                "a held-out query must not be trained on: does `pair` read the drafts of another "
                "split, or of other queries?",
                "fail", "of_train", low=1,
            ),
            Rule(
                "pairs", f"{self.min_pairs} pairs or more are left",
                "a query whose drafts all score alike gives no pair: draw more samples per query, "
                "raise the temperature, take a finer scorer or easier queries, or lower "
                "min_margin and min_pairs",
                "fail", "pairs", low=self.min_pairs, whole=True,
            ),
            share_left(self.max_aside),
        ]  # fmt: skip
        return graded(found, self.severity)

    def _of_each_pair(self) -> list[Rule]:
        return [
            Rule(
                "repeated", "a pair comes once", "only the first of its rows is kept",
                "aside", "repeated", high=0,
            ),
            Rule(
                "same",
                "chosen and rejected differ in more than spacing, articles and punctuation",
                "two equal texts teach nothing", "aside", "same", high=0,
            ),
            Rule(
                "margin", f"the margin is {self.min_margin:g} or more",
                "the scores are too close to tell which draft helped more",
                "aside", "margin", low=self.min_margin,
            ),
            Rule(
                "empty", "no side is empty", "an empty draft is nothing to prefer or to avoid",
                "aside", "least_chars", low=1,
            ),
            Rule(
                "chars", f"a side has at most {self.max_chars} characters",
                "it would be cut in training", "aside", "chars", high=self.max_chars,
            ),
            Rule(
                "length_ratio",
                f"no side is more than {self.max_length_ratio:g} times as long as the other",
                "DPO would learn length instead of help",
                "aside", "length_ratio", high=self.max_length_ratio,
            ),
            Rule(
                "per_query", f"a query gives at most {self.max_pairs_per_query} pairs",
                "one query would outweigh the others; its first pairs are kept",
                "aside", "nth_of_query", high=self.max_pairs_per_query,
            ),
            Rule(
                "instructs",
                "no chosen draft tries to instruct the strong model or the judge",
                "the instruction may have raised the score, and not the help; a rejected draft "
                "may instruct: the policy learns to avoid it",
                "aside", "instructs", high=0,
            ),
        ]  # fmt: skip

    def see(self, rows: io.Paths, against: Path) -> Seen:
        """Derives the frame of a file of pairs; `against` are the queries of the turn.

        Raises RecordError.
        """
        import numpy

        kept = Columns(
            id="Q",
            query="Q",
            same="b",
            margin="d",
            chars="i",
            least_chars="i",
            length_ratio="f",
            train="b",
            instructs="b",
            personal="h",
            secrets="h",
        )
        remarks, changed = Remarks(), set[int]()
        for at, row in enumerate(io.read(rows, PreferencePair)):
            found = self.private.found(private.pair_texts(row))
            kinds = private.remark(found)
            if kinds:
                remarks.say(at, kinds)
            # Masked first: all other rules judge the row as it goes out.
            if any(self.private.masks(found)):
                row = self._masked(row, found)
                changed.add(at)
            said = _instruction(row.chosen)
            if said is not None:
                remarks.say(at, f"the chosen draft {said}")
            kept.add(**_columns(row), **private.counted(found), instructs=said is not None)
        frame = kept.frame()
        repeated = columns.nth(frame["id"])
        # A repeated pair is set aside by its own rule, and must not take a place among the pairs of
        # its query: it is counted under its own id instead.
        place_of_query = columns.nth(frame["query"].where(repeated == 0, frame["id"])) + 1
        of_train = numpy.isin(frame["query"], _train(against)) & (frame["train"] == 1)
        frame = frame.assign(repeated=repeated, nth_of_query=place_of_query, of_train=of_train)
        return Seen(frame.drop(columns=["id", "train"]), remarks, changed, self._change)

    def _masked(self, row: PreferencePair, found: list[list[Finding]]) -> PreferencePair:
        return private.masked_pair(row, self.private.masks(found))

    def _change(self, line: bytes) -> bytes:
        """Masks a row on its way out."""
        row = PreferencePair.model_validate_json(line)
        found = self.private.found(private.pair_texts(row))
        return self._masked(row, found).model_dump_json().encode()

    def whole(self, left: Any, seen: Seen) -> dict[str, float | None]:
        """Numbers of the rows that are left, for the rules about the whole."""
        return {"pairs": len(left), "left": seen.share(left)}

    def facts(self, left: Any, seen: Seen) -> dict[str, str]:
        """Numbers for the page, in words."""
        found = {"pairs": f"{len(left)}", "queries with pairs": f"{left['query'].nunique()}"}
        if len(left):
            mean, least = left["margin"].mean(), left["margin"].min()
            if not math.isnan(mean):
                found["margin"] = f"{mean:.3f} on average, {least:.3f} at least"
            ratio = left["length_ratio"].median()
            found["length of the longer side"] = f"median {ratio:.1f} times that of the shorter"
        return found


def _columns(row: PreferencePair) -> dict[str, float]:
    sizes = [_chars(side) for side in (row.chosen, row.rejected) if side]
    longer, shorter = max(sizes, default=0), min(sizes, default=0)
    return {
        "id": int(row.id[:16], 16),
        "query": number(row.query),
        "same": _normal(row.chosen) == _normal(row.rejected),
        # A draft alone has none, and a rule is met where there is no number.
        "margin": decimal(row.margin) if len(sizes) == 2 else math.nan,
        "chars": longer,
        "least_chars": shorter,
        "length_ratio": max(longer, 1) / max(shorter, 1),
        "train": row.split == "train",
    }


def _train(queries: Path) -> Any:
    """The numbers of the ids of the queries of `train`."""
    import numpy

    ids = [number(query.id) for query in io.read(queries, Query) if query.split == "train"]
    return numpy.array(ids, dtype="uint64")


def _instruction(messages: Iterable[Message]) -> str | None:
    """Says how a side instructs its reader; None if it does not."""
    for message in messages:
        said = instructs(message.content)
        if said is not None:
            return said
    return None


def _normal(messages: Iterable[Message]) -> list[str]:
    return [unadorned(message.content) for message in messages]


def _chars(messages: Iterable[Message]) -> int:
    return sum(len(message.content.strip()) for message in messages)
