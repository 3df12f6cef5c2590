"""Systems are compared on the held-out queries, and the gates are judged.

Takes seconds, and costs nothing.
"""

from collections import Counter

from pydantic import Field

from cowest import evaluation, io
from cowest.config import Config
from cowest.errors import ContractError
from cowest.evaluation import Scores
from cowest.gates import Gate
from cowest.ports import In, Out
from cowest.records import Trial
from cowest.scorers.tally import Matching, Tally


class CompareConfig(Config):
    """The conditions of promotion, and the resampling behind the intervals."""

    gates: tuple[Gate, ...]
    """Conditions on paired differences of scores. A challenger that fails one of them is not
    promoted; without any, every challenger is."""
    draws: int = Field(default=5000, ge=1000)
    """Resamples of the groups behind each interval; more make the ends of intervals steadier."""
    seed: int = 0
    """Seed of the resampling."""
    max_failed: int | None = Field(default=None, ge=0)
    """Failed rows that may be left out; null for any number, since `evaluate` has a limit too."""


def main(trials: In, report: Out, config: CompareConfig) -> None:
    """Folds `Trial` rows into an `EvalReport`.

    Raises ContractError for too many failed rows, and if no rows can be compared.
    """
    tally, matching = Tally(), Matching()
    # The trials stream by once, and all three count what they need of them.
    rows = matching.watch(tally.watch(io.groups(trials, Trial)))
    scores = evaluation.gather(rows)
    if not scores.groups:
        raise ContractError(
            f"{trials} is empty: the held-out split has no query; "
            "see evaluate.split and prepare's splits in params.yaml"
        )
    _few_failed(scores, config.max_failed, str(trials))
    found = evaluation.compare(scores, config.gates, draws=config.draws, seed=config.seed)
    counted = {"choices": tally.choices(), "matches": matching.matches()}
    io.write_document(report, found.model_copy(update=counted))


def _few_failed(scores: Scores, most: int | None, where: str) -> None:
    """Raises ContractError if more rows failed than may be left out."""
    if most is None or scores.failures <= most:
        return
    reasons: Counter[str] = Counter()
    for system, failed in scores.failed.items():
        for reason, count in failed.items():
            reasons[f"{system}: {reason}"] += count
    common = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
    raise ContractError(
        f"{where}: {scores.failures} of {scores.rows.total()} trials failed, and "
        f"compare.max_failed allows {most} ({common}). Run evaluate again (what was answered is "
        "kept, failures are asked again), or raise compare.max_failed to leave them out"
    )
