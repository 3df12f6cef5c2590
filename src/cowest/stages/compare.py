"""Systems are compared on the held-out queries, and the gates are judged.

Takes seconds, and costs nothing.
"""

import sys
from collections import Counter
from pathlib import Path

from cowest import alone, evaluation, io
from cowest.errors import ContractError
from cowest.evaluation import Beside, Pair, Scores
from cowest.gates import GUARDS_OF_CHOICES, Rules
from cowest.intervals import ALPHA, FEWEST
from cowest.judging import passed
from cowest.ports import In, Out
from cowest.probe import probed
from cowest.records import Estimate, EvalReport, Trial
from cowest.report import tables
from cowest.report_parts import PolicyAgreement
from cowest.scorers.measures import Measures, Variety
from cowest.scorers.tally import Matching, Tally
from cowest.wear import HeldOut, Looks, confidence, worn


def main(
    trials: In,
    report: Out,
    config: Rules,
    policy: In | None = None,
    challenger: In | None = None,
    metrics: Out | None = None,
    systems: Out | None = None,
    sft: Out | None = None,
    dpo: Out | None = None,
    agreement: In | None = None,
    looks: In | None = None,
    probe: In | None = None,
) -> None:
    """Folds `Trial` rows, and what `evaluate` found beside them, into an `EvalReport`.

    Without `looks`, which `pin` writes, it is not known how often earlier decisions have looked at
    these queries, and no confidence is spent on that.

    The ports that may be left out are for `dvc metrics` and `dvc plots`: a few numbers of the
    report, the systems, and the curves of training that the two versions hold.

    Raises ContractError for too many failed rows, and if no rows can be compared.
    """
    tally, matching = Tally(), Matching()
    held_out = HeldOut()
    measures, variety = Measures({gate.metric for gate in config.gates}), Variety()
    # The trials stream by once, and all count what they need of them.
    rows = matching.watch(tally.watch(io.groups(trials, Trial)))
    rows = held_out.watch(variety.watch(measures.watch(rows)))
    scores = evaluation.gather(rows)
    if not scores.groups:
        raise ContractError(
            f"{trials} is empty: the held-out split has no query; "
            "see evaluate.split and prepare's splits in params.yaml"
        )
    _few_failed(scores, config.max_failed, str(trials))
    wear = worn(_read(looks), held_out.ids)
    alpha = 1 - confidence(wear, config.spend)
    beside = Beside(
        macro_f1=_macro_f1(tally, scores, config),
        strict_macro_f1=_macro_f1(tally, scores, config, alpha, FEWEST) or {},
        by_query=measures.by_query(),
        distinct=variety.found(),
        probe=None if probe is None else probed(probe, scores.versions),
    )
    found = evaluation.compare(scores, config, beside, wear)
    counted = {"choices": tally.choices(), "matches": matching.matches()}
    forms = None if agreement is None else _forms(agreement, found)
    judged = _with_alone(found.model_copy(update=counted), forms, config)
    io.write_document(report, judged)
    if metrics is not None:
        tables.write_metrics(metrics, judged)
    if systems is not None:
        tables.write_systems(systems, judged)
    if sft is not None and policy is not None:
        tables.write_curve(sft, policy, "sft")
    if dpo is not None and challenger is not None:
        tables.write_curve(dpo, challenger, "dpo")


def _with_alone(
    report: EvalReport, agreement: tuple[PolicyAgreement, ...] | None, rules: Rules
) -> EvalReport:
    """The report with the gates on the policy alone."""
    results = (*report.gates, *alone.agreement_gates(agreement, rules.max_logprob_gap))
    more = {"agreement": agreement, "gates": results, "passed": passed(results)}
    return report.model_copy(update=more)


def _read(looks: Path | None) -> Looks | None:
    """The earlier looks; None, with a word on it, if they were not given."""
    if looks is not None:
        return io.read_document(looks, Looks)
    print(
        "compare: how worn the held-out queries are is not counted: add `--looks looks.json` to "
        "its command in dvc.yaml, and looks.json to its deps",
        file=sys.stderr,
    )
    return None


def _forms(agreement: Path, report: EvalReport) -> tuple[PolicyAgreement, ...]:
    """The other forms of the challenger's policy.

    Raises ContractError for those of another challenger than the report is on.
    """
    judged, digest = report.policies["after"], report.versions.get("after")
    found = tuple(io.read(agreement, PolicyAgreement))
    for one in found:
        # A model that serves has a name of its own; rows of an older CoWest have no version.
        another = one.version is not None and one.version != digest
        if another or (one.form == "adapter" and one.model != judged):
            raise ContractError(
                f"{agreement} is of another challenger ({one.model}) than the trials "
                f"({judged}): run evaluate again, which writes both"
            )
    return found


def _macro_f1(
    tally: Tally, scores: Scores, config: Rules, alpha: float = ALPHA, fewest: int = 0
) -> dict[Pair, Estimate | None] | None:
    """The differences of macro F1 that gates look at; None if the answers are no choices."""
    if not tally.choices():
        return None
    pairs = []
    for gate in (*GUARDS_OF_CHOICES, *config.gates):
        if gate.metric == "macro_f1" and gate.over is not None:
            pairs.append((gate.of, gate.over))
    return tally.differences(dict.fromkeys(pairs), scores.groups, alpha, fewest)


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
