"""Enters the challenger into the registry with its decision, and the turn into the tracker.

A refused promotion is a result, not an error.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field

from cowest import alone, io, version, wear
from cowest.config import Config, digest, file_digest, load, parse, section
from cowest.errors import ContractError, InputError
from cowest.gates import Rules
from cowest.io import lines, read_document, write_document
from cowest.judging import follows, passed
from cowest.ledger.account import NAMED_VERSIONS
from cowest.ledger.claims import is_known, spent, versions_of
from cowest.ledger.store import open_store
from cowest.lineage import Turn, is_another, names_of, params_digest, settings_of, tags_of
from cowest.models.answer_config import AnswerConfig
from cowest.models.decoding import unmarked
from cowest.models.egress import unfiltered
from cowest.ports import In, Out
from cowest.probe import ProbeConfig
from cowest.protocols import Registry, Serving
from cowest.records import (
    NOBODY,
    DataSet,
    Decision,
    EvalReport,
    Message,
    PreferencePair,
    Trial,
)
from cowest.registry.acts import who
from cowest.registry.log import champion_of, settled
from cowest.registry.looks import FILE, TAG, earlier
from cowest.registry.mlflow import RegistryConfig
from cowest.registry.mlmodel import settings_of as settings_of_serve
from cowest.registry.since import data_tags
from cowest.registry.tracking import MlflowTracker, nameable, numbers
from cowest.report import description
from cowest.report.shown import filter_of, sample
from cowest.wear import Looks

EXAMPLE = (Message(role="user", content="Which questions can you answer?"),)
"""The example of a question where no held-out one may be shown."""
METRICS = {
    "queries",
    "groups",
    "systems",
    "comparisons",
    "macro_f1",
    "gap_closed",
    "transitions",
    "choices",
    "probe",
    "passed",
}
"""The fields of the report that become metrics; the whole report is kept as a file of the run."""


class RegisterConfig(Config):
    registry: RegistryConfig
    """The registry that the decision goes to."""
    traces: int | None = Field(default=5, ge=1, le=100)
    """Held-out queries whose draft, refinement and scores are kept as traces of the run, masked as
    the egress filter of `evaluate.strong` masks requests. null keeps none."""
    require_approval: bool = False
    """A challenger that no gate stops is left waiting, until a person says `cowest approve`. It
    changes no row, so it makes no new turn."""


def main(
    turn: In,
    params: In,
    report: In,
    policy: In,
    challenger: In,
    queries: In,
    corpus: In,
    pairs: In,
    trials: In | None,
    decision: Out,
    config: RegisterConfig,
    looks: In | None = None,
) -> None:
    """Promotes the challenger if no gate failed, and writes the decision.

    The challenger was judged against the champion that was pinned. Done twice, it finds what it did
    the first time. Without `trials`, neither traces nor the ids of held-out queries are kept.
    Raises RegistryError, ConfigError for `serve`, and ContractError if the report is not its own.
    """
    pinned = read_document(turn, Turn)
    judged = read_document(report, EvalReport)
    settings = _same_settings(params, pinned, turn)
    answering = answering_of(settings, str(params))
    kept = version.expect(challenger)
    _same_versions(judged, {"before": policy, "after": challenger}, pinned)
    _same_rules(judged, kept, settings, pinned, str(params))
    ids = _held_out(judged, pairs, trials, looks)
    registry = config.registry.open()
    _as_pinned(pinned, judged, ids, registry, config)
    data = _data(pinned, {"queries": queries, "corpus": corpus, "pairs": pairs})
    rests_on = _rests_on(pinned, kept, report, ids) | tags_of(data)
    # The tracker comes first. A turn that is decided is done, and nobody comes back to it: a run
    # that is cut short between the two must leave the turn open.
    tracker = MlflowTracker(config.registry.runs())
    tracker.record(
        pinned.key,
        params=settings_of(settings),
        metrics=_metrics(judged),
        curves=[*_curves(policy), *_curves(challenger)],
        tags=rests_on,
        data=data,
        files=[report, turn],
    )
    _keep(ids, tracker, pinned.key)
    shown = rows_to_show(trials, settings, config)
    if config.traces is not None:
        tracker.trace(pinned.key, shown)
    made = registry.decide(
        challenger,
        turn=pinned.key,
        promote=judged.passed,
        against=pinned.champion,
        reason=_reason(judged, _taught_by(kept, pairs)),
        tags=rests_on | _judged_by(pinned, kept, judged) | _aligned_by(kept, pairs),
        serving=serving_of(answering, shown),
        waits=config.require_approval,
    )
    tracker.describe(made.version, description.of_version(made, judged, data))
    write_document(decision, made.model_copy(update={"champion": champion_of(registry.log())}))


def _same_settings(params: Path, pinned: Turn, turn: Path) -> dict[str, Any]:
    """Reads the settings. Raises ContractError if they are not those of the turn."""
    settings = load(params)
    if params_digest(settings, str(params)) != pinned.params:
        raise ContractError(
            f"{params} was changed since {turn} was pinned: run `cowest turn`, which pins it again"
        )
    return settings


def rows_to_show(
    trials: Path | None, settings: dict[str, Any], config: RegisterConfig
) -> Sequence[Trial]:
    """The rows for traces; none where `trials` was left out, or no traces are kept."""
    if trials is None or config.traces is None:
        return []
    return sample(trials, config.traces, filter_of(settings))


def _metrics(judged: EvalReport) -> dict[str, float]:
    """The numbers of the report, by names that MLflow takes."""
    found = numbers(judged.model_dump(include=METRICS))
    return {nameable(name): value for name, value in found.items()}


def _keep(ids: list[str], tracker: MlflowTracker, turn: str) -> None:
    """Keeps the ids of the held-out queries in the turn's run."""
    if not ids:
        return
    with tempfile.TemporaryDirectory(prefix="cowest-") as scratch:
        file = Path(scratch) / FILE
        file.write_bytes(wear.packed(ids))
        tracker.attach(turn, file)


def _as_worn(judged: EvalReport, looks: Path | None, ids: list[str]) -> None:
    """Raises ContractError if the report counts on other earlier looks than were pinned."""
    # Where an older dvc.yaml gives `compare` no looks, it counts on none and says so.
    if looks is None or judged.wear is None or not ids:
        return
    expected = wear.worn(read_document(looks, Looks), ids)
    if judged.wear != expected:
        raise ContractError(
            f"the report counts {judged.wear:g} earlier decisions per held-out query, and {looks} "
            f"{expected:g}: run compare again"
        )


def _no_looks_since(
    pinned: Turn,
    judged: EvalReport,
    log: Sequence[Decision],
    ids: list[str],
    config: RegisterConfig,
) -> None:
    """Raises ContractError if a challenger passed with more confidence than its queries have left.

    So it is where turns that began at once look at the same queries: each decision is another
    chance for luck, and all but the first count it.
    """
    if not judged.passed or judged.wear is None or not ids:
        return
    # What is decided stays so, and what comes late is judged again anyway.
    if settled(log, pinned.key) is not None or champion_of(log) != pinned.champion:
        return
    now = wear.worn(earlier(log, config.registry.runs(), pinned.key), ids)
    if now is not None and now > judged.wear:
        raise ContractError(
            "since this turn was pinned, another was decided on its held-out queries: "
            f"{now:g} earlier decisions rest on each on average, and the report counts "
            f"{judged.wear:g}. Run `cowest turn` again: it compares again, and no answer is asked "
            "for twice"
        )


def answering_of(settings: dict[str, Any], where: str) -> dict[str, Any] | None:
    """The models that answer with the version; None if the settings name none.

    Raises ConfigError for settings that could not be served.
    """
    answering = settings_of_serve(settings)
    if answering is not None:
        # No stage before this one reads the section `serve`.
        name = "serve" if settings.get("serve") else "evaluate"
        parse(AnswerConfig, answering, f"{where}: {name}")
    return answering


def serving_of(answering: dict[str, Any] | None, shown: Sequence[Trial]) -> Serving | None:
    """Returns how the version is asked; None if no models that answer are known."""
    if answering is None:
        return None
    example = shown[0].prompt if shown else EXAMPLE
    return Serving(answering, example)


def _rests_on(pinned: Turn, kept: version.Version, report: Path, ids: list[str]) -> dict[str, str]:
    """Tags that name what a version rests on, by digest."""
    found = {
        "base": kept.base,
        "params": pinned.params,
        "code": pinned.code,
        "report": file_digest(report),
    }
    if ids:
        found[TAG] = wear.name_of(ids)
    return found | data_tags(pinned.data)


def _judged_by(pinned: Turn, kept: version.Version, judged: EvalReport) -> dict[str, str]:
    """Tags that only the decision has: what it was judged by, by whom, and what the turn cost."""
    gates = []
    for gate in judged.gates:
        shown = {"name", "passed", "value", "at_least", "at_most"}
        told = gate.model_dump(include=shown, exclude_none=True) | {"passed": gate.passed}
        if gate.estimate is not None:
            ends = {"mean", "low", "high", "groups"}
            told |= gate.estimate.model_dump(include=ends, exclude_none=True)
        gates.append(told)
    found = {
        "gates": _compact(gates),
        "prompts": digest(kept.prompts),
        "strong": judged.strong,
        "scorer": judged.scorer,
        "by": who(),
    }
    return found | _cost(pinned.key)


def _cost(turn: str) -> dict[str, str]:
    """Tags with what a turn cost, and the first versions that each of its models reported.

    None if the call store here does not know the turn, as where steps run on several machines.
    """
    store = open_store()
    if not is_known(store, turn):
        return {}
    found = spent(store, turn)
    tags = {"cost": _compact({"usd": round(found.usd, 6), "tokens": found.tokens})}
    reported = {}
    for model, versions in versions_of(store, turn).items():
        # Some endpoints report another version per answer, and a tag has a longest value.
        reported[model] = versions[:NAMED_VERSIONS]
    if reported:
        tags["reported"] = _compact(reported)
    return tags


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _same_versions(judged: EvalReport, folders: dict[str, Path], pinned: Turn) -> None:
    """Raises ContractError if other versions were judged than those that lie here."""
    if not judged.versions:
        raise ContractError(
            "the report does not say which versions it judged, as one of an older CoWest does: "
            "run `cowest turn`, which evaluates again"
        )
    for system, folder in folders.items():
        if judged.versions.get(system) != version.expect(folder).digest:
            raise ContractError(
                f"the report judged another version as {system!r} than {folder} holds, so it says "
                "nothing about that one: run `cowest turn`, or evaluate and compare, again"
            )
    if judged.versions.get("champion") != pinned.champion_digest:
        raise ContractError(
            "the report compares with another champion than the one that the turn was pinned "
            "with, or with none: run `cowest turn`, which pins and evaluates again"
        )


def _as_pinned(
    pinned: Turn, judged: EvalReport, ids: list[str], registry: Registry, config: RegisterConfig
) -> None:
    """Raises ContractError if the registry holds other files for the version that was pinned, or
    more looks at the held-out queries than the report counts.
    """
    log = registry.log()
    if is_another(pinned, log):
        raise ContractError(
            f"version {pinned.champion} in the registry is not the version {pinned.champion} that "
            "the turn was pinned with: is it another registry? Run `cowest turn`, which pins again"
        )
    _no_looks_since(pinned, judged, log, ids, config)


def _same_rules(
    judged: EvalReport, kept: version.Version, settings: dict[str, Any], pinned: Turn, where: str
) -> None:
    """Raises ContractError if the report's gates are not those of the settings, or its verdict does
    not follow from them, or something was not measured as the settings ask for it.
    """
    _as_asked(judged, settings, pinned)
    _same_names(judged, kept, settings, pinned)
    rules = parse(Rules, section(settings, "compare", where), f"{where}: compare")
    if judged.rules != digest(rules):
        raise ContractError(
            f"the report was made with other settings of `compare` than {where} has, or by another "
            "CoWest: run compare again"
        )
    champion = "champion" in judged.policies
    probe = judged.probe is not None
    gates = rules.all_gates(choices=bool(judged.choices), champion=champion, probe=probe)
    beside = alone.rejudged(judged, rules.max_logprob_gap)
    own = judged.gates[: len(judged.gates) - len(beside)]
    sound = follows(own, gates, champion=champion)
    sound = sound and judged.gates[len(own) :] == beside
    if not sound or judged.passed != passed(judged.gates):
        raise ContractError(
            f"the report's verdict does not follow from the gates of {where}: was it changed by "
            "hand? Run compare again"
        )


def _same_names(
    judged: EvalReport, kept: version.Version, settings: dict[str, Any], pinned: Turn
) -> None:
    """Raises ContractError if the challenger was made of another base than was pinned, or judged
    with another strong model, by another scorer or on another split than the settings name.
    """
    named = names_of(settings, pinned)
    # Settings tell neither what a filter nor what a decoder adds to a name.
    for setting, asked, found in (
        ("policy", named.base, kept.base),
        ("strong", named.strong, unmarked(unfiltered(judged.strong))),
        ("scorer", named.scorer, unmarked(unfiltered(judged.scorer))),
        ("split", named.split, judged.split),
    ):
        # An old report names no split.
        if None not in (asked, found) and asked != found:
            raise ContractError(
                f"evaluate.{setting} of this turn is {asked}, and what was judged names {found}: "
                "did a model's files or the settings change while stages ran? Run "
                "`cowest turn --force`, which runs every stage again"
            )


def _as_asked(judged: EvalReport, settings: dict[str, Any], pinned: Turn) -> None:
    """Raises ContractError if the report lacks what `evaluate` was to measure beside the trials.

    A file that was emptied looks as one does that nothing was to be in.
    """
    asked = settings.get("evaluate")
    if not isinstance(asked, dict):
        return
    forms = asked.get("agreement", {})
    policy = asked.get("policy")
    # Only weights in evaluate's own process can be looked at, so other providers have no forms.
    compared = isinstance(policy, dict) and policy.get("provider") == "hf"
    # Where `compare` was not given the file at all, as by an older dvc.yaml, the report says so.
    if compared and isinstance(forms, dict) and judged.agreement is not None:
        needed = {"adapter", "served"} if forms.get("served") is not None else {"adapter"}
        if not needed <= {one.form for one in judged.agreement}:
            raise ContractError(
                "evaluate.agreement has the challenger's policy compared with its other forms, and "
                "the report lacks them: was data/agreement.jsonl emptied? Run evaluate and compare "
                "again"
            )
    named = asked.get("probe")
    found = None if judged.probe is None else judged.probe.file
    expected = None
    if named is not None:
        file = parse(ProbeConfig, named, "evaluate.probe").file
        expected = pinned.data.get(PurePosixPath(file).as_posix(), "a file that is not there")
    if found != expected:
        raise ContractError(
            "the report rests on other general questions than evaluate.probe names in the data of "
            "this turn, or on none: does dvc.yaml give `compare` `--probe data/probe.jsonl`? Run "
            "evaluate and compare again"
        )


def _held_out(
    judged: EvalReport, pairs: Path, trials: Path | None, looks: Path | None
) -> list[str]:
    """The ids of the held-out queries; none if `trials` was left out.

    Raises ContractError if the challenger was judged by queries of a split that it learned, or if
    the report counts on other earlier looks at them than were pinned.
    """
    for row in io.read(pairs, PreferencePair):
        if row.split == judged.split:
            raise ContractError(
                f"the challenger was judged by the split {judged.split}, and {pairs} has pairs of "
                "that split: set evaluate.split to one that is not drafted on, and evaluate again"
            )
    ids = [] if trials is None else [rows[0].id for rows in io.groups(trials, Trial)]
    _as_worn(judged, looks, ids)
    return ids


def _data(pinned: Turn, made: dict[str, Path]) -> dict[str, DataSet]:
    """The data sets of the turn: the raw data, and the files made of them.

    A made file is named by its place in a project, wherever it lies here: KFP puts it elsewhere.
    """
    raw = pinned.raw or DataSet(path="raw", digest=digest(pinned.data), kept="unversioned")
    data = {"raw": raw}
    for name, path in made.items():
        data[name] = DataSet(
            path=f"data/{name}.jsonl",
            digest=file_digest(path),
            kept="derived",
            rows=sum(1 for _ in lines(path)),
        )
    return data


def _taught_by(kept: version.Version, pairs: Path) -> list[str]:
    """The strong models whose answers the challenger was aligned by."""
    if kept.aligned is not None:
        return sorted(kept.aligned.strong)
    return sorted({row.strong for row in io.read(pairs, PreferencePair)} - {NOBODY})


def _aligned_by(kept: version.Version, pairs: Path) -> dict[str, str]:
    """Tags with the objective, the rows of each round, and the strong models that taught."""
    found = {"taught": _compact(_taught_by(kept, pairs))}
    if kept.aligned is not None:
        found["align"] = kept.aligned.align
        found["rounds"] = _compact(kept.aligned.rows)
    return found


def _reason(report: EvalReport, taught: list[str]) -> str:
    """The reason of the decision: the gates that failed, or else those that passed."""
    failed = [f"{gate.name}: {gate.reason}" for gate in report.gates if gate.passed is False]
    passed = [f"{gate.name}: {gate.reason}" for gate in report.gates if gate.passed]
    said = "; ".join(failed or passed) or "no gate applied"
    others = [name for name in taught if name != report.strong]
    if others:
        said += f"; aligned by the answers of {', '.join(others)}, and judged with {report.strong}"
    return said


def _curves(folder: Path) -> list[dict[str, float]]:
    """The values that training logged, named as in sft/loss; none if nothing was trained.

    Raises InputError.
    """
    path = folder / "curves.jsonl"
    if not path.exists():
        return []
    rows: list[dict[str, float]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            rows.append(_step(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{path}:{number} is not a step of a curve: train again") from None
    return rows


def _step(row: dict[str, Any]) -> dict[str, float]:
    step, stage = row.pop("step"), row.pop("stage")
    values = {"step": step}
    for name, value in row.items():
        if value is not None:
            values[nameable(f"{stage}/{name}")] = float(value)
    return values
