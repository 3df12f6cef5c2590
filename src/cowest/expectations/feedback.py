"""What feedback must meet, before preferences are made of it."""

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from cowest import io, preferences, version
from cowest.config import Config
from cowest.expectations import columns
from cowest.expectations.columns import Columns, number
from cowest.expectations.instructions import instructs
from cowest.expectations.rules import SHARE, Remarks, Rule, Seen, Severity, graded, share_left
from cowest.records import Feedback, Spread

SCORES = {"refinement": "score", "solo": "solo_score", "draft": "draft_score"}
"""The score of each text."""
CHANCE = 0.05
"""Of a drift's interval to miss."""


class FeedbackSuite(Config):
    """What feedback must meet."""

    kind: Literal["feedback"]
    max_ties: float = Field(default=0.95, ge=0, le=1)
    """The share of queries that may have drafts that all score alike: there is nothing to prefer in them."""
    max_drift: float = Field(default=0.2, ge=0, le=1)
    """How far the distribution of gains may be from that of the champion's turn."""
    max_aside: float = Field(default=0.5, ge=0, lt=1)
    """The share of rows that may be set aside."""
    severity: dict[str, Severity] = Field(default={})
    """By a rule's name: fail, aside or note, in place of its default."""

    def model_post_init(self, _: Any) -> None:
        self.rules()

    def rules(self) -> list[Rule]:
        """The suite; columns are those of `see` and `whole`."""
        mend = "the stage before this one is at fault, or somebody changed the file: run it again"
        found = [
            Rule("repeated", "a draft comes once", "the first of its rows is enough", "aside", "repeated", high=0),
            Rule(
                "range", "scores are from 0 to 1",
                "mend the scorer: gains, margins and gates take this for granted", "fail", "outside", high=0
            ),
            Rule("scored", "a row that did not fail has its score and its query's solo score", mend, "fail", "unscored", high=0),
            Rule("solo", "a query has one solo in all its rows", mend, "fail", "solos", high=1),
            Rule("outage", "no answer that a failed call did not give has a score", mend, "fail", "of_nothing", high=0),
            Rule(
                "train", "feedback is on queries of the split 'train' alone",
                "preferences are made of it, and a held-out query must not be learned: which split does `draft` read?",
                "fail", "held_out", high=0,
            ),
            Rule(
                "instructs", "no draft tries to instruct the strong model or the judge",
                "see whether its answers are better or only scored so; where it is chosen, the pair is set aside",
                "note", "instructs", high=0,
            ),
            Rule(
                "ties", f"of at most {self.max_ties:.0%} of the queries all drafts score alike",
                "there is nothing to prefer in them: draw more samples, raise the temperature, take a finer scorer or easier queries",
                "note", "ties", high=self.max_ties, whole=True, shown=SHARE,
            ),
            Rule(
                "drift", f"gains are spread as in the champion's turn: no more than {self.max_drift:g} apart, for sure",
                "the data, the strong model or the scorer is another than it was, or drafts have come to help less or more: see which",
                "note", "drift", high=self.max_drift, whole=True, shown="{:.2f} or more",
            ),
            share_left(self.max_aside),
        ]  # fmt: skip
        return graded(found, self.severity)

    def see(self, rows: io.Paths, against: Path) -> Seen:
        """The frame of a file of feedback; `against` is the champion's version, or says that there is none.

        Raises RecordError, InputError for a query that comes back, ModelError for a folder that is no version.
        """
        kept = Columns(query="Q", key="Q", outside="d", unscored="b", solos="h", of_nothing="b", held_out="b", instructs="b", gain="d",
                       failed="b")  # fmt: skip
        remarks = Remarks()
        at = 0
        for group in io.groups(rows, Feedback):
            solos = len({row.solo for row in group if row.solo is not None})
            for row in group:
                said = instructs(row.draft) if row.draft is not None else None
                if said is not None:
                    remarks.say(at, f"the draft {said}")
                kept.add(**_columns(row), solos=solos, instructs=said is not None)
                at += 1
        champion = version.read(against)
        frame = kept.frame()
        frame = frame.assign(repeated=columns.nth(frame["key"])).drop(columns=["key"])
        return Seen(frame, remarks, beside=champion.gains if champion is not None else None)

    def whole(self, left: Any, seen: Seen) -> dict[str, float | None]:
        """What there is to say of the rows that are left."""
        by_query = _by_query(left)
        several = by_query[by_query["count"] > 1]
        drift = _drift(left, seen.beside)
        return {
            "ties": float((several["min"] == several["max"]).mean()) if len(several) else None,
            "drift": drift[1] if drift else None,
            "left": seen.share(left),
        }

    def facts(self, left: Any, seen: Seen) -> dict[str, str]:
        """Numbers for the page, in words."""
        gains = left["gain"].dropna()
        found = {
            "drafts, of queries": f"{len(left)}, of {left['query'].nunique()}",
            "rows that failed": f"{int(left['failed'].sum())}",
        }
        if len(gains):
            by_query = _by_query(left)
            both = ((by_query["max"] > 0) & (by_query["min"] <= 0)).mean()
            found["gain"] = f"{gains.mean():+.3f} on average"
            found["drafts that helped, made no difference, hurt"] = ", ".join(
                f"{share.mean():.1%}" for share in (gains > 0, gains == 0, gains < 0)
            )
            found["queries with a draft that helped and one that did not"] = f"{both:.1%}"
        drift = _drift(left, seen.beside)
        found["gains against the champion's turn"] = (
            f"{drift[0]:.2f} apart, {drift[1]:.2f} to {drift[2]:.2f} with an assurance of {1 - CHANCE:.0%}"
            if drift
            else "not known: there is no champion, or it has none written down"
        )
        return found


def _columns(row: Feedback) -> dict[str, float]:
    scores = [getattr(row, name) for name in SCORES.values()]
    given = [score for score in scores if score is not None]
    return {
        "query": int(row.id[:16], 16), "key": number(f"{row.id} {row.sample}"), "held_out": row.split != "train",
        "outside": max((max(-score, score - 1, 0.0) for score in given), default=0.0),
        "unscored": row.failed is None and (row.score is None or row.solo_score is None),
        "of_nothing": any(getattr(row, text) is None and getattr(row, score) is not None for text, score in SCORES.items()),
        "gain": math.nan if row.gain is None else row.gain, "failed": row.failed is not None,
    }  # fmt: skip


def _by_query(left: Any) -> Any:
    """min, max, mean and count of the gains of each query's drafts, failed ones left out; queries that have none are not there."""
    return (
        left.dropna(subset=["gain"]).groupby("query")["gain"].agg(["min", "max", "mean", "count"])
    )


def _drift(left: Any, champion: Spread | None) -> tuple[float, float, float] | None:
    """How far the mean gains of queries are spread from the champion's, with an interval; None where one of both is not there.

    The Kolmogorov-Smirnov distance, the largest difference of the two cumulative distributions, over the bins of a spread. Its interval
    is by the inequality of Dvoretzky, Kiefer and Wolfowitz with Massart's constant (1990), for each of the two at half the chance:
    D +- sqrt(ln(4 / chance) / 2n) +- sqrt(ln(4 / chance) / 2m). It takes queries for independent, and holds for any distribution.
    """
    import numpy

    means = _by_query(left)["mean"].tolist()
    if champion is None or not champion.queries or not means:
        return None
    now = numpy.bincount(
        [preferences.place(mean, len(champion.counts)) for mean in means],
        minlength=len(champion.counts),
    )
    cumulated = [numpy.cumsum(counts) / sum(counts) for counts in (now, champion.counts)]
    apart = float(numpy.abs(cumulated[0] - cumulated[1]).max())
    band = sum(
        math.sqrt(math.log(4 / CHANCE) / (2 * queries))
        for queries in (len(means), champion.queries)
    )
    return apart, max(apart - band, 0.0), min(apart + band, 1.0)
