"""Systems compared: means, paired differences and gates. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar, get_args

import numpy as np

from cowest.config import digest
from cowest.errors import ContractError
from cowest.gates import BEST, Gate, Quantity, Rules, System
from cowest.instructions import instructs
from cowest.intervals import Floats, Ratio, estimates, gap_closed
from cowest.judging import Evidence, judge, passed
from cowest.quantities import RIGHT, guarded, quantities, ratios
from cowest.records import (
    Collaboration,
    Comparison,
    Estimate,
    EvalReport,
    Trial,
)
from cowest.report_parts import Probe, Transitions
from cowest.sametext import words_only
from cowest.slices import corrected, means_by_tag, members_of
from cowest.thoughts import without_thoughts
from cowest.wear import confidence

T = TypeVar("T")
Pair = tuple[str, str]
"""Two systems of which the first is compared with the second."""
Differences = Mapping[Pair, Estimate | None]
"""The paired difference of each pair of systems; None where no query has both."""

SYSTEMS: tuple[str, ...] = get_args(System)
"""All systems, in the order of a report."""
COLLABORATIONS: tuple[str, ...] = get_args(Collaboration)
"""Systems in which the strong model refines drafts."""
SINGLES: tuple[str, ...] = ("policy_before", "policy_after", "strong")
"""Systems of one model alone."""

REASONS = 20
"""Reasons of failure that a report shows one by one, per system."""
JUDGE = "judge:"
"""Beginning of the name of a scorer that is a model, and that a text can speak to."""


class Given(NamedTuple):
    """One system's answer to a query, with its score."""

    system: str
    answer: str | None
    score: float | None
    tokens: int | None
    """Tokens of the answer as the provider counted them, if it did."""


def answers_of(row: Trial) -> list[Given]:
    """The answers that a trial holds, each with the system that gave it.

    A trial always holds the answer of its own collaboration. Its solo is the strong model's alone,
    and its draft that of the policy before or after alignment.
    """
    found = [Given(row.system, _said(row.refinement), row.score, row.refinement_tokens)]
    # A champion's prompts may be older than this turn's, and its solo then answers other prompts.
    # So it never counts for the strong model alone, not even where it is the only one.
    if row.system != "champion":
        found.append(Given("strong", _said(row.solo), row.solo_score, row.solo_tokens))
    if row.system in ("before", "after"):
        found.append(Given(f"policy_{row.system}", _said(row.draft), row.draft_score, None))
    return found


def _said(answer: str | None) -> str | None:
    """An answer without its thoughts."""
    return None if answer is None else without_thoughts(answer)


@dataclass(slots=True)
class Scores:
    """The scores of the trials: a float per query and system. The texts are dropped."""

    groups: list[str] = field(default_factory=list)
    """The group of each query."""
    tags: list[tuple[str, ...]] = field(default_factory=list)
    """The tags of each query."""
    values: dict[str, list[float | None]] = field(
        default_factory=lambda: {name: [] for name in SYSTEMS}
    )
    """By system, the score of each query; None where the system has none."""
    lost: dict[str, list[float | None]] = field(
        default_factory=lambda: {name: [] for name in SYSTEMS}
    )
    """By system, the share of each query's rows that failed; None where the system has no row."""
    transitions: dict[str, Counter[str]] = field(default_factory=dict)
    """By collaboration, the counts of `Transitions`."""
    failed: dict[str, Counter[str]] = field(default_factory=dict)
    """By collaboration, failed rows by their reason."""
    rows: Counter[str] = field(default_factory=Counter)
    """By collaboration, all rows."""
    scorers: set[str] = field(default_factory=set)
    strongs: set[str] = field(default_factory=set)
    policies: dict[str, set[str]] = field(default_factory=dict)
    """By collaboration, the names of the policies that drafted."""
    versions: dict[str, set[str | None]] = field(default_factory=dict)
    """By collaboration with a policy, the digests of the versions that drafted."""
    splits: set[str] = field(default_factory=set)
    instructs: Counter[str] = field(default_factory=Counter)
    """By system, rows whose draft or answer speaks to the strong model or the judge."""
    answered: Counter[str] = field(default_factory=Counter)
    """By system, rows with an answer."""

    @property
    def failures(self) -> int:
        """Rows that failed."""
        return sum(reasons.total() for reasons in self.failed.values())

    def instructing_shares(self) -> dict[str, float]:
        """By system, the share of its rows that speak to the judge; empty if no judge scores."""
        if not any(scorer.startswith(JUDGE) for scorer in self.scorers):
            return {}
        return {system: count / self.answered[system] for system, count in self.instructs.items()}


def gather(queries: Iterable[list[Trial]]) -> Scores:
    """Reduces trials, query by query, to scores.

    A failed row is left out whole and counted by its reason. A system with several rows of a query
    has their mean. Raises ContractError for a system that is not known.
    """
    scores = Scores()
    for rows in queries:
        scores.groups.append(rows[0].group)
        scores.tags.append(rows[0].tags)
        found: dict[str, list[float]] = {name: [] for name in SYSTEMS}
        failed: dict[str, list[bool]] = {name: [] for name in SYSTEMS}
        spoken: dict[str, bool] = {}
        for row in rows:
            _note(row, scores)
            for given in answers_of(row):
                failed[given.system].append(row.failed is not None)
                if row.failed is not None:
                    continue
                _look_at(given, row, scores, spoken)
                if given.score is not None:
                    found[given.system].append(given.score)
        for system, known in found.items():
            scores.values[system].append(sum(known) / len(known) if known else None)
            scores.lost[system].append(_lost(system, failed[system]))
    return scores


def _lost(system: str, failed: list[bool]) -> float | None:
    """The share of a query's rows that failed for a system; None if it has no row."""
    if not failed:
        return None
    # One row that did not fail has the strong model's own answer, which is the same in all.
    if system == "strong":
        return float(all(failed))
    return sum(failed) / len(failed)


def _note(row: Trial, scores: Scores) -> None:
    """Counts a row: its names, and its failure or its transition."""
    if row.system not in COLLABORATIONS:
        raise ContractError(
            f"query {row.id} has a trial of system {row.system!r}: "
            f"the systems are {', '.join(COLLABORATIONS)}"
        )
    scores.rows[row.system] += 1
    scores.scorers.add(row.scorer)
    scores.strongs.add(row.strong)
    scores.splits.add(row.split)
    scores.policies.setdefault(row.system, set()).add(row.policy)
    if row.system != "ideal":
        scores.versions.setdefault(row.system, set()).add(row.version)
    if row.failed is not None:
        # The reasons become keys of the report, so a long one is cut.
        scores.failed.setdefault(row.system, Counter())[row.failed[:200]] += 1
        return
    counts = scores.transitions.setdefault(row.system, Counter())
    if row.score is not None and row.solo_score is not None:
        words = {True: "right", False: "wrong"}
        counts[f"{words[row.solo_score >= RIGHT]}_to_{words[row.score >= RIGHT]}"] += 1
    draft, refinement, solo = map(_said, (row.draft, row.refinement, row.solo))
    counts.update(adoption(draft or "", refinement or "", solo or ""))


def _look_at(given: Given, row: Trial, scores: Scores, spoken: dict[str, bool]) -> None:
    """Counts an answer, and whether it, or the draft that it rests on, speaks to the judge.

    `spoken` has the texts of the query that were looked at before: many of its rows share them.
    """
    scores.answered[given.system] += 1
    texts = [given.answer]
    if given.system == row.system:
        texts.append(_said(row.draft))
    for text in texts:
        if text is not None and text not in spoken:
            spoken[text] = instructs(text) is not None
    if any(text is not None and spoken[text] for text in texts):
        scores.instructs[given.system] += 1


def adoption(draft: str, refinement: str, solo: str) -> tuple[str, ...]:
    """`("adopted",)`, `("adopted", "copied")` or `("ignored",)`.

    A draft is adopted if it changed the answer (refinement and solo differ), or if the answer
    stands in it word for word; case, punctuation and spacing do not count. A change may also come
    of the other prompt that a draft is shown with, and a long free text differs almost always: so
    `adopted` is an upper bound of use, and `copied` a lower one.
    """
    answer = words_only(refinement)
    if answer and f" {answer} " in f" {words_only(draft)} ":
        return "adopted", "copied"
    if answer == words_only(solo):
        return ("ignored",)
    return ("adopted",)


class Probed(NamedTuple):
    """Answers of the policies, each alone, to general questions: their scores and differences."""

    report: Probe
    found: Mapping[Quantity, Estimate | None]
    """The mean of each system, and the difference of each two."""
    failed: Mapping[str, Sequence[float]]
    """By system, 1 for each question whose answer failed or is missing, 0 for the others."""


@dataclass(frozen=True, slots=True)
class Beside:
    """Measures beside the score: `scorers` makes those of the same trials, `probe` its own."""

    macro_f1: Differences | None = None
    """Differences of macro F1 by pair of systems; None if the scorer is not `choice`."""
    strict_macro_f1: Differences = field(default_factory=dict)
    """The same with the intervals whose ends decide, where a gate asks for proof."""
    by_query: Mapping[str, Mapping[str, Floats]] = field(default_factory=dict)
    """By metric and system, the value of each query; NaN where there is none."""
    distinct: Mapping[str, Estimate] = field(default_factory=dict)
    """By system, how varied its drafts are."""
    probe: Probed | None = None
    """The answers to general questions; None if none were asked."""


def compare(
    scores: Scores, rules: Rules, beside: Beside | None = None, wear: float | None = None
) -> EvalReport:
    """Makes the whole report; `wear` is the mean number of earlier decisions per query.

    Raises ContractError if there is nothing to compare or the rows do not belong together.
    """
    _comparable(scores)
    beside = beside or Beside()
    # numpy reads None as NaN: a query without a score.
    values = {name: np.array(found, dtype=np.float64) for name, found in scores.values.items()}
    best = _best_single(values)
    champion = scores.rows["champion"] > 0
    gates = rules.all_gates(
        choices=beside.macro_f1 is not None, champion=champion, probe=beside.probe is not None
    )
    members = members_of(scores.tags)
    asked = quantities(gates, best, SYSTEMS, members)
    of_trials = ratios(asked, {**beside.by_query, "score": values}, members)
    gap = gap_closed(values["before"], values["after"], values["ideal"])
    *estimated, gap_found = estimates(scores.groups, [*of_trials.values(), gap])
    found = dict(zip(of_trials, estimated, strict=True)) | _elsewhere(beside)
    surer = confidence(wear, rules.spend)
    stricter = estimates(scores.groups, list(of_trials.values()), 1 - surer)
    strict = dict(zip(of_trials, stricter, strict=True))
    for (of, over), one in beside.strict_macro_f1.items():
        strict[Quantity("macro_f1", of, over)] = one
    held = guarded(gates, best, of_trials)
    seen = replace(
        _evidence(scores, beside, best, found),
        members=members,
        guarded=dict(zip(held, estimates(scores.groups, list(held.values())), strict=True)),
        corrected=_corrected(gates, best, of_trials, scores.groups, rules.min_groups),
        strict=strict,
        confidence=surer,
    )
    results = judge(gates, rules, seen)
    queries = len(scores.groups)
    return EvalReport(
        queries=queries,
        groups=len(set(scores.groups)),
        scorer=min(scores.scorers),
        strong=min(scores.strongs),
        policies={name: min(names) for name, names in _in_order(scores.policies)},
        versions=_versions(scores),
        split=min(scores.splits),
        rules=digest(rules),
        systems=_means(found),
        comparisons=_comparisons(found, best, queries, values),
        macro_f1=_differences(found, "macro_f1", queries),
        gap_closed=gap_found,
        transitions={name: Transitions(**one) for name, one in _in_order(scores.transitions)},
        tags=means_by_tag(members, values),
        instructs={name: scores.instructs[name] for name in SYSTEMS if scores.instructs[name]},
        failed={name: _folded(reasons) for name, reasons in _in_order(scores.failed)},
        probe=None if beside.probe is None else beside.probe.report,
        wear=wear,
        gates=results,
        passed=passed(results),
    )


def _best_single(values: Mapping[str, Floats]) -> str:
    """The single model with the highest mean score; `strong` if none has a score."""
    means = {}
    for name in SINGLES:
        if not np.isnan(values[name]).all():
            means[name] = float(np.nanmean(values[name]))
    return max(means, key=means.__getitem__, default="strong")


def _corrected(
    gates: Sequence[Gate],
    best: str,
    of_trials: Mapping[Quantity, Ratio],
    groups: Sequence[str],
    min_groups: int,
) -> dict[Gate, dict[Quantity, Estimate]]:
    """By guard of many slices, those of them that can be judged."""
    held = {}
    for gate in gates:
        if gate.slices is not None and gate.guards:
            asked = gate.quantity(best)
            of_gate = {}
            for quantity, ratio in of_trials.items():
                if quantity.tag is not None and quantity._replace(tag=None) == asked:
                    of_gate[quantity] = ratio
            held[gate] = corrected(gate, of_gate, groups, min_groups)
    return held


def _elsewhere(beside: Beside) -> dict[Quantity, Estimate | None]:
    """The quantities that others measured."""
    found: dict[Quantity, Estimate | None] = {}
    for (of, over), one in (beside.macro_f1 or {}).items():
        found[Quantity("macro_f1", of, over)] = one
    for of, one in beside.distinct.items():
        found[Quantity("distinct", of, None)] = one
    if beside.probe is not None:
        found |= beside.probe.found
    return found


def _evidence(
    scores: Scores, beside: Beside, best: str, found: Mapping[Quantity, Estimate | None]
) -> Evidence:
    """Everything that gates look at."""
    lost = {}
    for name in SYSTEMS:
        if name in SINGLES or scores.rows[name]:
            # A query that a system has no row of is as lost as one whose row failed. Only of the
            # ideal draft some queries rightly have none.
            missing = 0.0 if name == "ideal" else 1.0
            lost[name] = [missing if share is None else share for share in scores.lost[name]]
    refused = {}
    for name, values in beside.by_query.get("refused", {}).items():
        refused[name] = np.nan_to_num(values).tolist()
    instructs = scores.instructing_shares()
    probed = {} if beside.probe is None else beside.probe.failed
    return Evidence(best, found, lost, refused, instructs, probed)


def _means(found: Mapping[Quantity, Estimate | None]) -> dict[str, Estimate]:
    """The mean score of each system that has one."""
    means = {}
    for name in SYSTEMS:
        mean = found[Quantity("score", name, None)]
        if mean is not None:
            means[name] = mean
    return means


def _comparisons(
    found: Mapping[Quantity, Estimate | None],
    best: str,
    queries: int,
    values: Mapping[str, Floats],
) -> dict[str, Comparison]:
    """The differences of scores by name; that with the best single model stands there twice."""
    differences = {}
    for name, one in _differences(found, "score", queries).items():
        base = values[one.over][~np.isnan(values[one.of] - values[one.over])]
        differences[name] = one.model_copy(update={"base_mean": round(float(base.mean()), 6)})
    with_best = differences.get(f"after_minus_{best}")
    if with_best is not None:
        differences[f"after_minus_{BEST}"] = with_best
    return differences


def _differences(
    found: Mapping[Quantity, Estimate | None], metric: str, queries: int
) -> dict[str, Comparison]:
    """The differences of one metric by name, with how many of the queries each leaves out."""
    named = {}
    for quantity, one in found.items():
        of, over = quantity.of, quantity.over
        whole = quantity.metric == metric and quantity.tag is None
        if whole and over is not None and one is not None:
            left_out = queries - one.queries
            named[f"{of}_minus_{over}"] = Comparison(
                **one.model_dump(), of=of, over=over, left_out=left_out
            )
    return named


def _versions(scores: Scores) -> dict[str, str]:
    """The digest of the version behind each collaboration; rows from before it was recorded have
    none.
    """
    found = {}
    for name, digests in _in_order(scores.versions):
        (one,) = digests
        if one is not None:
            found[name] = one
    return found


def _comparable(scores: Scores) -> None:
    """Raises ContractError for rows that do not belong together, and where there are too few.

    All rows must be of one scorer, one strong model and one split, and all rows of a system but
    `ideal`, which has no policy, of one version of one policy. Before and after alignment need at
    least one good row each.
    """
    of_all = {"scorers": scores.scorers, "strong models": scores.strongs, "splits": scores.splits}
    for kind, names in of_all.items():
        if len(names) > 1:
            listed = ", ".join(sorted(names))
            raise ContractError(
                f"the trials are of {len(names)} {kind} ({listed}): "
                "run evaluate again, whole, with one"
            )
    for system, names in scores.policies.items():
        versions = [(one or "an older CoWest's")[:17] for one in scores.versions.get(system, ())]
        if system != "ideal" and (len(names) > 1 or len(versions) > 1):
            listed = f"{', '.join(sorted(names))}; versions {', '.join(sorted(versions))}"
            raise ContractError(
                f"the trials of {system} are of several policies ({listed}): "
                "run evaluate again, whole"
            )
    for system in ("before", "after"):
        rows = scores.rows[system]
        failed = scores.failed.get(system, Counter()).total()
        if failed < rows:
            continue
        reason = f"all {rows} of them failed" if rows else "there are none at all"
        raise ContractError(
            f"no good trial of system {system!r} to compare: {reason}; run evaluate again"
        )


def _in_order(found: Mapping[str, T]) -> list[tuple[str, T]]:
    """The entries of the collaborations that have one, in the order of a report."""
    return [(name, found[name]) for name in COLLABORATIONS if name in found]


def _folded(reasons: Counter[str]) -> dict[str, int]:
    """The most frequent reasons one by one, the rest under one name."""
    common = sorted(reasons.items(), key=_most_first)
    kept = dict(common[:REASONS])
    rest = sum(count for _, count in common[REASONS:])
    if rest:
        kept["other reasons"] = rest
    return kept


def _most_first(item: tuple[str, int]) -> tuple[int, str]:
    """Sorts by count, the highest first, and equal counts by name."""
    name, count = item
    return -count, name
