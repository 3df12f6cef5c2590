"""Rules for feedback, before preferences are made of it."""

import math
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from cowest import io, preferences, version
from cowest.config import Config
from cowest.expectations import columns
from cowest.expectations.columns import Columns, number
from cowest.expectations.rules import SHARE, Remarks, Rule, Seen, Severity, graded, share_left
from cowest.instructions import instructs
from cowest.records import NOBODY, Feedback, Spread
from cowest.thoughts import without_thoughts

SCORES = {"refinement": "score", "solo": "solo_score", "draft": "draft_score"}
"""Fields of texts, each with the field of its score."""
CHANCE = 0.05
"""Probability that the interval of a drift misses the true drift."""


class Drift(NamedTuple):
    """The distance of two distributions of gains, with its interval."""

    apart: float
    low: float
    high: float


class FeedbackSuite(Config):
    """Settings and rules of feedback."""

    kind: Literal["feedback"]
    max_ties: float = Field(default=0.95, ge=0, le=1)
    """Largest share of queries whose drafts may all score alike: such queries give no pair."""
    max_drift: float = Field(default=0.2, ge=0, le=1)
    """Largest distance of the distribution of gains from the one in the champion's turn."""
    max_aside: float = Field(default=0.5, ge=0, lt=1)
    """Largest share of rows that may be set aside."""
    severity: dict[str, Severity] = Field(default={})
    """Severities by the name of the rule: fail, aside or note, instead of the default."""

    def model_post_init(self, _: Any) -> None:
        self.rules()

    def rules(self) -> list[Rule]:
        """The rules; their columns are those of `see` and `whole`."""
        rules = [*self._of_each_row(), *self._of_the_whole(), share_left(self.max_aside)]
        return graded(rules, self.severity)

    def _of_each_row(self) -> list[Rule]:
        mend = "the stage before this one is at fault, or somebody changed the file: run it again"
        return [
            Rule(
                "repeated", "a draft comes once", "only the first of its rows is kept",
                "aside", "repeated", high=0,
            ),
            Rule(
                "range", "scores are from 0 to 1",
                "correct the scorer: gains, margins and gates need scores from 0 to 1",
                "fail", "outside", high=0,
            ),
            Rule(
                "scored", "a row that did not fail has a score and a solo score", mend,
                "fail", "unscored", high=0,
            ),
            Rule(
                "solo", "all rows of a query have the same solo answer", mend,
                "fail", "solos", high=1,
            ),
            Rule(
                "outage", "an answer that is missing has no score", mend,
                "fail", "of_nothing", high=0,
            ),
            Rule(
                "train", "feedback is on queries of the split 'train' alone",
                "preferences are made of feedback, and a held-out query must not be learned: which "
                "split does `draft` read?",
                "fail", "held_out", high=0,
            ),
            Rule(
                "instructs", "no draft tries to instruct the strong model or the judge",
                "see whether the answers are better, or only scored better; a pair that prefers "
                "such a draft is set aside",
                "note", "instructs", high=0,
            ),
        ]  # fmt: skip

    def _of_the_whole(self) -> list[Rule]:
        return [
            Rule(
                "ties", f"for at most {self.max_ties:.0%} of the queries all drafts score alike",
                "such queries give no pair: draw more samples, raise the temperature, take a finer "
                "scorer or easier queries",
                "note", "ties", high=self.max_ties, whole=True, shown=SHARE,
            ),
            Rule(
                "drift",
                "gains are distributed as in the champion's turn, at most "
                f"{self.max_drift:g} apart (lower end of the {1 - CHANCE:.0%} interval)",
                "the data, the strong model or the scorer changed, or drafts now help less or "
                "more: find out which",
                "note", "drift", high=self.max_drift, whole=True, shown="{:.2f} or more",
            ),
        ]  # fmt: skip

    def see(self, rows: io.Paths, against: Path) -> Seen:
        """Derives the frame of a file of feedback.

        `against` is the champion's version, or says that there is none. Raises RecordError,
        InputError for a query that comes back after others, ModelError for a folder that is no
        version.
        """
        kept = Columns(
            query="Q",
            key="Q",
            outside="d",
            unscored="b",
            solos="h",
            of_nothing="b",
            held_out="b",
            instructs="b",
            gain="d",
            failed="b",
            own="b",
        )
        remarks = Remarks()
        at = 0
        for group in io.groups(rows, Feedback):
            solos = len({row.solo for row in group if row.solo is not None})
            for row in group:
                said = instructs(without_thoughts(row.draft or ""))
                if said is not None:
                    remarks.say(at, f"the draft {said}")
                kept.add(**_columns(row), solos=solos, instructs=said is not None)
                at += 1
        champion = version.read(against)
        frame = kept.frame()
        frame = frame.assign(repeated=columns.nth(frame["key"])).drop(columns=["key"])
        return Seen(frame, remarks, beside=None if champion is None else champion.gains)

    def whole(self, left: Any, seen: Seen) -> dict[str, float | None]:
        """Numbers of the rows that are left, for the rules about the whole."""
        by_query = _by_query(left)
        several = by_query[by_query["count"] > 1]
        found: dict[str, float | None] = {"ties": None, "drift": None, "left": seen.share(left)}
        if len(several):
            found["ties"] = float((several["min"] == several["max"]).mean())
        drift = _drift(left[left["own"] > 0], seen.beside)
        # The whole interval must lie above the bound, so few queries never break the rule.
        if drift is not None:
            found["drift"] = drift.low
        return found

    def facts(self, left: Any, seen: Seen) -> dict[str, str]:
        """Numbers for the page, in words."""
        gains = left["gain"].dropna()
        found = {
            "drafts, of queries": f"{len(left)}, of {left['query'].nunique()}",
            "rows that failed": f"{int(left['failed'].sum())}",
        }
        unasked = int((left["gain"].isna() & (left["failed"] == 0)).sum())
        if unasked:
            found["drafts that no strong model was asked about"] = f"{unasked}"
        if len(gains):
            by_query = _by_query(left)
            both = ((by_query["max"] > 0) & (by_query["min"] <= 0)).mean()
            helped, tied, hurt = (gains > 0).mean(), (gains == 0).mean(), (gains < 0).mean()
            found["gain"] = f"{gains.mean():+.3f} on average"
            found["drafts that helped, made no difference, hurt"] = (
                f"{helped:.1%}, {tied:.1%}, {hurt:.1%}"
            )
            found["queries with a draft that helped and one that did not"] = f"{both:.1%}"
        drift = _drift(left[left["own"] > 0], seen.beside)
        words = "not known: there is no champion, or its version holds no gains"
        if drift is not None:
            words = (
                f"{drift.apart:.2f} apart, {1 - CHANCE:.0%} interval {drift.low:.2f} to "
                f"{drift.high:.2f}"
            )
        found["gains against the champion's turn"] = words
        return found


def _columns(row: Feedback) -> dict[str, float]:
    outside = 0.0
    of_nothing = False
    for text, name in SCORES.items():
        score = getattr(row, name)
        if score is not None:
            outside = max(outside, -score, score - 1)
            of_nothing = of_nothing or getattr(row, text) is None
    return {
        "query": int(row.id[:16], 16),
        "key": number(f"{row.id} {row.sample}"),
        "held_out": row.split != "train",
        "outside": outside,
        "unscored": row.failed is None and not _is_scored(row),
        "of_nothing": of_nothing,
        "gain": math.nan if row.gain is None else row.gain,
        "failed": row.failed is not None,
        "own": row.candidate is None,
    }


def _is_scored(row: Feedback) -> bool:
    if row.strong == NOBODY:
        return row.draft_score is not None
    return row.score is not None and row.solo_score is not None


def _by_query(left: Any) -> Any:
    """min, max, mean and count of the gains of each query's drafts.

    Failed drafts are left out, and so are queries that have no others.
    """
    gains = left.dropna(subset=["gain"]).groupby("query")["gain"]
    return gains.agg(["min", "max", "mean", "count"])


def _drift(left: Any, champion: Spread | None) -> Drift | None:
    """Compares the mean gains of queries with the champion's; None if either is missing.

    `left` has no candidates, and neither has a spread: they are not what the policy writes of
    itself.

    The distance is that of Kolmogorov and Smirnov, the largest difference of the two cumulative
    distributions, over the bins of a spread. Its interval is by the inequality of Dvoretzky, Kiefer
    and Wolfowitz with Massart's constant (1990), for each of the two at half the chance:
    D +- sqrt(ln(4 / chance) / 2n) +- sqrt(ln(4 / chance) / 2m). It takes queries for independent,
    and holds for any distribution.
    """
    import numpy

    means = _by_query(left)["mean"].tolist()
    if champion is None or not champion.queries or not means:
        return None
    bins = len(champion.counts)
    now = numpy.bincount([preferences.place(mean, bins) for mean in means], minlength=bins)
    cumulated = numpy.cumsum(now) / len(means)
    cumulated_then = numpy.cumsum(champion.counts) / champion.queries
    apart = float(numpy.abs(cumulated - cumulated_then).max())
    band = _band(len(means)) + _band(champion.queries)
    return Drift(apart, max(apart - band, 0.0), min(apart + band, 1.0))


def _band(queries: int) -> float:
    """Half the width of the interval that one of the two distributions adds."""
    return math.sqrt(math.log(4 / CHANCE) / (2 * queries))
