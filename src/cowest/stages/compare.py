"""Systems are compared on the held-out queries, and the gates are judged: seconds, and nothing is paid."""

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
    """How the challenger is judged."""

    gates: tuple[Gate, ...]
    """Conditions on paired differences; a challenger that fails one is not promoted. None at all promotes everything."""
    draws: int = Field(default=5000, ge=1000)
    """Resamples of the groups behind each interval."""
    seed: int = 0
    """Of the resampling."""
    max_failed: int | None = Field(default=None, ge=0)
    """Failed rows that may be left out; null for any number: `evaluate` has judged them."""


def main(trials: In, report: Out, config: CompareConfig) -> None:
    """Folds `Trial` rows into an `EvalReport`. Raises ContractError for too many failed rows, or none that can be compared."""
    tally, matching = Tally(), Matching()
    scores = evaluation.gather(matching.watch(tally.watch(io.groups(trials, Trial))))
    if not scores.groups:
        raise ContractError(
            f"{trials} is empty: the held-out split has no query; see evaluate.split and prepare's splits in params.yaml"
        )
    _few_failed(scores, config.max_failed, str(trials))
    found = evaluation.compare(scores, config.gates, draws=config.draws, seed=config.seed)
    io.write_document(
        report, found.model_copy(update={"choices": tally.choices(), "matches": matching.matches()})
    )


def _few_failed(scores: Scores, most: int | None, where: str) -> None:
    if most is None or scores.failures <= most:
        return
    reasons: Counter[str] = Counter()
    for system, failed in scores.failed.items():
        reasons.update({f"{system}: {reason}": count for reason, count in failed.items()})
    said = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
    raise ContractError(
        f"{where}: {scores.failures} of {scores.rows.total()} trials failed, and compare.max_failed allows {most} ({said}). "
        "Run evaluate again (what was answered is kept, failures are asked again), or raise compare.max_failed to leave them out"
    )
