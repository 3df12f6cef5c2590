"""What preference pairs must meet, before anything is trained on them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from cowest import io
from cowest.config import Config
from cowest.detectors import Finding
from cowest.expectations import columns, private
from cowest.expectations.columns import Columns, number
from cowest.expectations.instructions import instructs
from cowest.expectations.private import Private
from cowest.expectations.rules import Remarks, Rule, Seen, Severity, graded, share_left
from cowest.records import Message, PreferencePair, Query
from cowest.scorers.normal import normalise


class PairSuite(Config):
    """What preference pairs must meet."""

    kind: Literal["pairs"]
    min_pairs: int = Field(default=1, ge=1)
    """How many must be left, or the turn fails."""
    min_margin: float = Field(default=0.001, gt=0)
    """Closer pairs are set aside."""
    max_length_ratio: float = Field(default=20.0, ge=1)
    """Of the longer side to the shorter; pairs over it are set aside."""
    max_pairs_per_query: int = Field(default=16, ge=1)
    """More of one query are set aside."""
    max_chars: int = Field(default=20_000, ge=1)
    """Characters of a side; longer pairs are set aside."""
    private: Private = Private()
    """Personal data and secrets."""
    max_aside: float = Field(default=0.5, ge=0, lt=1)
    """The share of rows that may be set aside."""
    severity: dict[str, Severity] = Field(default={})
    """By a rule's name: fail, aside or note, in place of its default."""

    def model_post_init(self, _: Any) -> None:
        self.rules()

    def rules(self) -> list[Rule]:
        """The suite; columns are those of `see` and `whole`."""
        found = [
            _aside("repeated", "a pair comes once", "the first of its rows is enough", "repeated", 0, 0),
            _aside(
                "same", "chosen and rejected differ, whatever their case, spacing, articles and punctuation", "such a pair teaches nothing",
                "same", 0, 0,
            ),
            _aside(
                "margin", f"the margin is {self.min_margin:g} or more", "the scores are too close to tell", "margin", self.min_margin, None
            ),
            _aside("empty", "no side is empty", "an empty draft is nothing to prefer or to avoid", "least_chars", 1, None),
            _aside(
                "chars", f"a side has at most {self.max_chars} characters", "it would be cut in training", "chars", None, self.max_chars
            ),
            _aside(
                "length_ratio", f"no side is more than {self.max_length_ratio:g} times as long as the other",
                "DPO would learn length in place of help", "length_ratio", 1, self.max_length_ratio,
            ),
            _aside(
                "per_query", f"a query gives at most {self.max_pairs_per_query} pairs",
                "one query would outweigh the others; its first pairs are kept", "nth_of_query", 1, self.max_pairs_per_query,
            ),
            _aside(
                "instructs", "no chosen draft tries to instruct the strong model or the judge",
                "what moved the score was not the help; rejected, such a draft may stay: the policy learns to avoid it",
                "instructs", 0, 0,
            ),
            *self.private.rules("a pair"),
            Rule(
                "train", "pairs come from queries of the split 'train' alone",
                "a held-out query must not be trained on: does `pair` read the drafts of another split, or of other queries?",
                "fail", "of_train", low=1,
            ),
            Rule(
                "pairs", f"{self.min_pairs} pairs or more are left",
                "where all drafts of a query score alike there is nothing to prefer: draw more samples a query, raise the temperature, "
                "take a finer scorer or easier queries, or lower min_margin and min_pairs",
                "fail", "pairs", low=self.min_pairs, whole=True,
            ),
            share_left(self.max_aside),
        ]  # fmt: skip
        return graded(found, self.severity)

    def see(self, rows: io.Paths, against: Path) -> Seen:
        """The frame of a file of pairs; `against` are the queries of the turn. Raises RecordError."""
        import numpy

        kept = Columns(id="Q", query="Q", same="b", margin="d", chars="i", least_chars="i", length_ratio="f", train="b", instructs="b",
                       personal="h", secrets="h")  # fmt: skip
        remarks, changed = Remarks(), set()
        for at, row in enumerate(io.read(rows, PreferencePair)):
            found = self.private.found(private.pair_texts(row))
            if kinds := private.remark(found):
                remarks.say(at, kinds)
            if any(self.private.masks(found)):
                row = self._masked(row, found)
                changed.add(at)
            if said := next(
                filter(None, (instructs(message.content) for message in row.chosen)), None
            ):
                remarks.say(at, f"the chosen draft {said}")
            chosen, rejected = _chars(row.chosen), _chars(row.rejected)
            kept.add(
                id=int(row.id[:16], 16), query=number(row.query), same=_said(row.chosen) == _said(row.rejected), margin=row.margin,
                **private.counted(found), instructs=said is not None, chars=max(chosen, rejected), least_chars=min(chosen, rejected),
                length_ratio=max(chosen, rejected, 1) / max(min(chosen, rejected), 1), train=row.split == "train",
            )  # fmt: skip
        train = numpy.array(
            [number(query.id) for query in io.read(against, Query) if query.split == "train"],
            dtype="uint64",
        )
        frame = kept.frame()
        repeated = columns.nth(frame["id"])
        once = columns.nth(frame["query"].where(repeated == 0, frame["id"]))
        frame = frame.assign(
            repeated=repeated,
            nth_of_query=once + 1,
            of_train=numpy.isin(frame["query"], train) & (frame["train"] == 1),
        )
        return Seen(frame.drop(columns=["id", "train"]), remarks, changed, self._changed)

    def _masked(self, row: PreferencePair, found: list[list[Finding]]) -> PreferencePair:
        return private.masked_pair(row, self.private.masks(found))

    def _changed(self, line: bytes) -> bytes:
        """A row that is masked, as it goes out."""
        row = PreferencePair.model_validate_json(line)
        return (
            self._masked(row, self.private.found(private.pair_texts(row)))
            .model_dump_json()
            .encode()
        )

    def whole(self, left: Any, seen: Seen) -> dict[str, float | None]:
        """What there is to say of the rows that are left."""
        return {"pairs": len(left), "left": seen.share(left)}

    def facts(self, left: Any, seen: Seen) -> dict[str, str]:
        """Numbers for the page, in words."""
        found = {"pairs": f"{len(left)}", "queries with pairs": f"{left['query'].nunique()}"}
        if len(left):
            found["margin"] = (
                f"{left['margin'].mean():.3f} on average, {left['margin'].min():.3f} at least"
            )
            found["the longer side"] = (
                f"{left['length_ratio'].median():.1f} times the shorter in the middle"
            )
        return found


def _aside(
    name: str, says: str, mend: str, column: str, low: float | None, high: float | None
) -> Rule:
    return Rule(name, says, mend, "aside", column, low, high)


def _said(messages: Iterable[Message]) -> list[str]:
    return [normalise(message.content) for message in messages]


def _chars(messages: Iterable[Message]) -> int:
    return sum(len(message.content.strip()) for message in messages)
