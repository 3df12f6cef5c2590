"""The contents of a page, read from the files of a turn.

A part that is not there is a `Missing`, which says in words why.
"""

import heapq
import json
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from pydantic import ValidationError

from cowest import collaboration, io, preferences, version
from cowest.config import file_digest, load, parse
from cowest.errors import ConfigError, CoWestError, InputError
from cowest.preferences import PairRule
from cowest.records import (
    NOBODY,
    Changes,
    DataSet,
    Decision,
    EvalReport,
    Fate,
    Feedback,
    PreferencePair,
    Record,
    Trial,
    Validation,
)
from cowest.report.left import REPORT, of_another

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R", bound=Record)

BINS = 21
"""Bars of the distribution of gains, from -1 to 1."""
SHOWN = {"gained": 3, "lost": 3, "unchanged": 2}
"""Queries shown side by side, of each kind."""
QUARANTINED = 10
"""Raw rows shown of those that were quarantined."""

CONTRACTS = ("queries", "corpus", "feedback", "pairs")
"""Kinds of rows that `validate` judges, in their order in a turn."""
FILES = (
    "params.yaml",
    "turn.json",
    "data/queries.jsonl",
    "data/corpus.jsonl",
    "data/drafts.jsonl",
    "data/refinements.jsonl",
    "data/feedback.jsonl",
    "data/pairs.jsonl",
    "data/trials.jsonl",
    "reports/eval.json",
)
"""Files that the page lists with size and digest."""
CHALLENGER = "models/challenger"
VERSIONS = ("models/start", "models/champion", "models/policy", CHALLENGER)


@dataclass(frozen=True, slots=True)
class Missing:
    """A part of the page that can't be shown, and why."""

    why: str


@dataclass(slots=True)
class Gains:
    """The training feedback: how much better the strong model's answers were with each draft."""

    queries: int = 0
    mixed: int = 0
    """Queries whose drafts differ in their gain: only these can teach."""
    helped: int = 0
    tied: int = 0
    hurt: int = 0
    failed: int = 0
    candidates: int = 0
    """Drafts with a gain that another prompt than the policy's own asked for."""
    unasked: int = 0
    """Drafts about which no strong model was asked."""
    calls: int = 0
    """Calls to the strong model, equal drafts of a query as one."""
    whole: int = 0
    """Calls that asking about all drafts would have taken."""
    passed_over: int = 0
    """Queries about which it was not asked at all."""
    total: float = 0.0
    bins: list[int] = field(default_factory=lambda: [0] * BINS)
    agreement: preferences.Agreement = field(default_factory=preferences.Agreement)
    """The share in which the drafts' own scores rank two drafts as feedback does."""

    @property
    def drafts(self) -> int:
        """Drafts that have a gain."""
        return self.helped + self.tied + self.hurt

    @property
    def mean(self) -> float | None:
        """The mean gain; None if no draft has one."""
        return self.total / self.drafts if self.drafts else None

    def share(self, count: int) -> float:
        """A count as a share of the drafts that have a gain."""
        return count / self.drafts if self.drafts else 0.0


@dataclass(slots=True)
class Raw:
    """Counts of the raw rows by their fate."""

    used: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    quarantined: int = 0
    shown: list[Fate] = field(default_factory=list)
    """The first rows of the quarantine."""


@dataclass(slots=True)
class Pairs:
    """The preference pairs that DPO was given, or the drafts that KTO was."""

    pairs: int = 0
    queries: set[str] = field(default_factory=set)
    margins: float = 0.0
    candidates: int = 0
    """Pairs whose chosen draft another prompt than the policy's own asked for."""
    helped: int = 0
    """Drafts alone that helped."""
    not_helped: int = 0
    """Drafts alone that did not."""
    strong: set[str] = field(default_factory=set)
    """Names of the strong models whose answers taught; empty where none was asked."""
    raw: int | None = None
    """Pairs before validation; None where that file is not there."""


@dataclass(frozen=True, slots=True)
class Example:
    """One held-out query, before and after alignment."""

    kind: str
    question: str
    targets: tuple[str, ...]
    before: Trial
    """The first draft, of several."""
    after: Trial
    means: tuple[float, float] | None = None
    """The mean score before and after, where there are several drafts."""


@dataclass(slots=True)
class Examples:
    """A few queries of each kind, and the number of all."""

    counts: dict[str, int]
    shown: list[Example]


@dataclass(frozen=True, slots=True)
class Curve:
    """One chart of training: lines of (step, value)."""

    stage: str
    title: str
    lines: dict[str, list[tuple[float, float]]]


CURVES = (
    ("sft", "SFT loss", {"loss": "loss"}),
    ("dpo", "Alignment loss", {"loss": "loss"}),
    ("dpo", "Alignment: pairs told apart", {"rewards/accuracies": "accuracy"}),
    ("dpo", "Alignment: implicit reward margin", {"rewards/margins": "margin"}),
    (
        "dpo",
        "Alignment: implicit rewards",
        {"rewards/chosen": "chosen", "rewards/rejected": "rejected"},
    ),
    (
        "dpo",
        "Alignment: log-probability of drafts",
        {"logps/chosen": "chosen", "logps/rejected": "rejected"},
    ),
    ("dpo", "Alignment: estimated KL to the reference", {"kl": "KL"}),
    ("dpo", "GRPO: gain of drafts", {"reward": "gain"}),
    ("dpo", "GRPO: score on the queries held back", {"dev": "score"}),
    ("dpo", "GRPO: tokens per draft", {"length": "tokens"}),
)


@dataclass(frozen=True, slots=True)
class Contents:
    """All parts of a page that come from files."""

    report: EvalReport | Missing
    raw: Raw | Missing
    contracts: dict[str, Validation | Missing]
    """The findings of `validate`, by kind of rows."""
    gains: Gains | Missing
    pairs: Pairs | Missing
    examples: Examples | Missing
    curves: list[Curve]
    curves_missing: list[str]
    turn: dict[str, Any] | Missing
    origin: DataSet | None
    """The raw data of the turn; None where turn.json doesn't say."""
    since: Changes | None
    """The difference to what the champion rests on; None without one, or where turn.json doesn't
    say."""
    outcome: Decision | Missing
    files: list[tuple[str, int, str]]
    """Path, bytes, digest."""
    versions: list[tuple[str, version.Version | Missing]]

    @property
    def begun(self) -> bool:
        """True if a turn has begun here: one is pinned, or files that it makes are here."""
        return any(name != "params.yaml" for name, _, _ in self.files)

    @property
    def aligned(self) -> version.Aligned | None:
        """The way in which the challenger was aligned; None for one round of DPO."""
        found = dict(self.versions).get(CHALLENGER)
        return found.aligned if isinstance(found, version.Version) else None

    @property
    def taught(self) -> list[str]:
        """The strong models that the challenger was aligned by, if another judged it."""
        if isinstance(self.report, Missing):
            return []
        strong = set() if isinstance(self.pairs, Missing) else self.pairs.strong
        if self.aligned is not None:
            strong = set(self.aligned.strong)
        return sorted(strong - {self.report.strong})


def gather(root: Path) -> Contents:
    """Reads all there is of a turn in a project's folder.

    A file that can't be read becomes words on the page, never an error.
    """
    turn = _known(_turn, root / "turn.json")
    left = {} if isinstance(turn, Missing) else of_another(root, turn)

    def own(name: str, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Missing:
        """Reads what rests on a file, unless that is another turn's."""
        return Missing(left[name]) if name in left else _known(read, *args, **kwargs)

    logged = {}
    for stage, folder in (("sft", "models/policy"), ("dpo", CHALLENGER)):
        logged[stage] = own(f"{folder}/version.json", _curve_rows, root / folder / "curves.jsonl")
    contracts = {}
    for kind in CONTRACTS:
        contracts[kind] = own(f"data/{kind}.jsonl", _contract, root, kind)
    pairs = root / "data/pairs.jsonl", root / "data/pairs.raw.jsonl"
    return Contents(
        report=own(REPORT, io.read_document, root / REPORT, EvalReport),
        raw=own("data/quarantine.jsonl", _raw, root / "data/quarantine.jsonl"),
        contracts=contracts,
        gains=own("data/feedback.jsonl", gains, root / "data/feedback.jsonl", _rule(root)),
        pairs=own("data/pairs.jsonl", _pairs, *pairs),
        examples=own("data/trials.jsonl", examples, root / "data/trials.jsonl"),
        curves=_curves(logged),
        curves_missing=[
            f"{stage}: {rows.why}" for stage, rows in logged.items() if isinstance(rows, Missing)
        ],
        turn=turn,
        origin=_of_turn(turn, "raw", DataSet),
        since=_of_turn(turn, "since", Changes),
        outcome=_known(_outcome, root / "reports/decision.json", turn),
        files=_files(root, left),
        versions=[(name, own(f"{name}/version.json", _version, root / name)) for name in VERSIONS],
    )


def _known(read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Missing:
    try:
        return read(*args, **kwargs)
    except CoWestError as error:
        return Missing(str(error))


def _contract(root: Path, kind: str) -> Validation:
    """The findings of `validate` on one kind of rows. Raises InputError if they are not there."""
    findings = Path("reports", f"{kind}.json")
    page = Path("reports", f"{kind}.html")
    # A dvc.yaml that was written before findings were a file does not ask for it.
    if (root / page).exists() and not (root / findings).exists():
        raise InputError(
            f"validate@{kind} was not asked for its findings as JSON: add `--findings {findings}` "
            f"to its command in dvc.yaml, and the file to its outs. For people, they are on {page}."
        )
    return io.read_document(root / findings, Validation)


def _files(root: Path, left: Collection[str]) -> list[tuple[str, int, str]]:
    found = []
    for name in FILES:
        path = root / name
        if path.is_file() and name not in left:
            found.append((name, path.stat().st_size, file_digest(path)))
    return found


def _rule(root: Path) -> PairRule:
    """The rule of the pairs, as params.yaml has it; that of no settings where it can't be read."""
    try:
        pair = load(root / "params.yaml").get("pair")
        rule = pair.get("rule") if isinstance(pair, dict) else None
        return parse(PairRule, rule or {}, "pair.rule")
    except ConfigError:
        return PairRule()


def gains(path: Path, rule: PairRule | None = None) -> Gains:
    """Counts the gains, streamed. By the rule of the pairs it counts what own scores decide."""
    found = Gains()
    for rows in io.groups(path, Feedback):
        found.queries += 1
        calls, whole = collaboration.calls_of(rows)
        found.calls, found.whole = found.calls + calls, found.whole + whole
        found.passed_over += calls == 0
        seen = set()
        for row in rows:
            gain = row.gain
            if row.strong == NOBODY:
                found.unasked += 1
                continue
            if gain is None:
                found.failed += 1
                continue
            seen.add(gain)
            found.candidates += row.candidate is not None
            found.total += gain
            found.helped += gain > 0
            found.tied += gain == 0
            found.hurt += gain < 0
            found.bins[preferences.place(gain, BINS)] += 1
        found.mixed += len(seen) > 1
        found.agreement.add(rows, rule)
    return found


def _raw(path: Path) -> Raw:
    found = Raw()
    for row in io.read(path, Fate):
        if row.fate == "used":
            found.used += row.rows
        elif row.fate == "left out":
            found.left_out[row.reason or ""] = found.left_out.get(row.reason or "", 0) + row.rows
        else:
            found.quarantined += row.rows
            if len(found.shown) < QUARANTINED:
                found.shown.append(row)
    return found


def _pairs(path: Path, raw: Path) -> Pairs:
    found = Pairs()
    if raw.exists():
        found.raw = sum(1 for _ in io.lines(raw))
    for pair in io.read(path, PreferencePair):
        found.pairs += 1
        found.queries.add(pair.query)
        found.margins += pair.margin
        found.candidates += pair.candidates[0] is not None
        found.helped += not pair.rejected
        found.not_helped += not pair.chosen
        if pair.strong != NOBODY:
            found.strong.add(pair.strong)
    return found


def examples(path: Path) -> Examples:
    """Chooses queries whose mean score alignment raised, lowered and left as it was.

    The smallest ids are shown, so nobody picks.
    """
    counts = dict.fromkeys(SHOWN, 0)
    heaps: dict[str, list[tuple[int, Example]]] = {kind: [] for kind in SHOWN}
    for rows in io.groups(path, Trial):
        example = _example(rows)
        if example is None:
            continue
        counts[example.kind] += 1
        # The heap holds the smallest ids. They are negated, because heapq keeps its smallest entry
        # on top and drops that one. Ids are unique, so two examples are never compared.
        heap = heaps[example.kind]
        heapq.heappush(heap, (-int(example.before.id, 16), example))
        if len(heap) > SHOWN[example.kind]:
            heapq.heappop(heap)
    shown = []
    for heap in heaps.values():
        for _, example in sorted(heap, reverse=True):
            shown.append(example)
    return Examples(counts, shown)


def _example(rows: list[Trial]) -> Example | None:
    scored: dict[str, list[Trial]] = {"before": [], "after": []}
    for row in rows:
        if row.system in scored and row.failed is None and row.score is not None:
            scored[row.system].append(row)
    if not all(scored.values()):
        return None
    means = []
    for drafts in scored.values():
        # Rounded, since equal scores in another order have another sum in the last bits.
        means.append(round(sum(row.score or 0.0 for row in drafts) / len(drafts), 9))
    kind = {0: "unchanged", 1: "gained", -1: "lost"}[(means[1] > means[0]) - (means[1] < means[0])]
    before, after = (min(drafts, key=attrgetter("sample")) for drafts in scored.values())
    question = "\n\n".join(message.content for message in before.prompt if message.role != "system")
    said = (means[0], means[1]) if max(map(len, scored.values())) > 1 else None
    return Example(kind, question, before.targets, before, after, said)


def _curve_rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(io.lines(path), 1):
        try:
            row = json.loads(line)
        except ValueError:
            raise InputError(f"{path}:{number} is not JSON") from None
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _curves(logged: dict[str, list[dict[str, Any]] | Missing]) -> list[Curve]:
    """The charts of training for which there are points."""
    found = []
    for stage, title, keys in CURVES:
        rows = logged[stage]
        if isinstance(rows, Missing):
            continue
        mine = [row for row in rows if row.get("stage", stage) == stage]
        lines = {}
        for key, label in keys.items():
            points = list(_points(mine, key))
            if points:
                lines[label] = points
        if lines:
            found.append(Curve(stage, title, lines))
    return found


def _points(rows: list[dict[str, Any]], key: str) -> Iterator[tuple[float, float]]:
    for number, row in enumerate(rows, 1):
        step, value = row.get("step", number), row.get(key)
        if not isinstance(step, int | float) or not isinstance(value, int | float):
            continue
        if math.isfinite(value):
            yield float(step), float(value)


def _turn(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from None
    except ValueError:
        raise InputError(f"{path} is not JSON") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} is not a mapping")
    return found


def _of_turn(turn: dict[str, Any] | Missing, name: str, kind: type[R]) -> R | None:
    """A part of turn.json; None where it is not there, or no such part."""
    if isinstance(turn, Missing) or not turn.get(name):
        return None
    try:
        return kind.model_validate(turn[name])
    except ValidationError:
        return None


def _outcome(path: Path, turn: dict[str, Any] | Missing) -> Decision:
    found = io.read_document(path, Decision)
    if not isinstance(turn, Missing) and turn.get("key") != found.turn:
        raise InputError(f"{path} is of another turn, {found.turn[:12]}")
    return found


def _version(folder: Path) -> version.Version:
    found = version.read(folder) if folder.exists() else None
    if found is None:
        raise InputError("none yet")
    return found
