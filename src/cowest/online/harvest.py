"""Served answers and verdicts become raw rows: the conversation, and the right answer to it.

The right answer is the person's own, as far as the scorer reads it. Only where a scorer gives marks
for parts of an answer, or a model grades it, an answer of ours that was called good is a target
too, and one that was sent back unchanged counts as called good. The log is folded in three
steps: the last verdict on each answer counts, each gives a row or a reason to leave it out, and of
several rows about one conversation the last one stays.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import ascii_uppercase

from cowest.detectors import PLACEHOLDER, Detection
from cowest.domains.harvested import asked
from cowest.domains.options import option_of
from cowest.expectations.near import Known
from cowest.instructions import instructs
from cowest.online import log
from cowest.online.interactions import Interaction, ServedModel
from cowest.online.masked import masked
from cowest.online.verdicts import KeptVerdict
from cowest.raw.harvested import Harvested, RowSource
from cowest.raw.intake import Unfit
from cowest.records import Message, with_contents
from cowest.sametext import caseless
from cowest.scorers import AnyScorer
from cowest.scorers.choice import ChoiceConfig, parse
from cowest.scorers.judge import JudgeConfig
from cowest.scorers.marker import after
from cowest.scorers.rules import RuleNumber
from cowest.scorers.token_f1 import TokenF1Config

OPTION = re.compile(r"([A-Z])\. (.*\S)\s*")
"""An option as a table's `{choices}` shows it."""
NOT_IN_THE_LOG = "the answer is not in the log: it was lost, or its file is gone"
REPLACED = "the same conversation came again, and its last verdict counts"
TAKEN_BACK = "a later verdict called the same answer bad"
OF_ANSWERS = (TokenF1Config, JudgeConfig)
"""Scorers under which a whole answer can be a target."""
Key = tuple[str, int]
"""An answer: the id of its request, and its number there."""


@dataclass(frozen=True, slots=True)
class HarvestRules:
    """Settings that decide about verdicts' rows."""

    scorer: AnyScorer
    detection: Detection
    held: Known
    """The held-out questions."""
    choices: bool = False
    """True if the project's questions show options."""

    @property
    def marker(self) -> str | None:
        """The marker after which the scorer reads an answer; None if it reads all of it."""
        found: str | None = getattr(self.scorer, "marker", None)
        return found

    @property
    def rule(self) -> RuleNumber:
        """The rule by which the scorer reads a marker."""
        found: RuleNumber = getattr(self.scorer, "rule", 1)
        return found

    @property
    def against_approval(self) -> str:
        """The reason why an approved answer can't be a target; empty if it can."""
        if isinstance(self.scorer, OF_ANSWERS):
            return ""
        return (
            f"good, but under `{self.scorer.scorer}` hardly any answer would match a whole answer "
            "as its target: only better answers count"
        )


@dataclass
class Harvest:
    """The rows, and what was left out."""

    rows: list[Harvested] = field(default_factory=list)
    answers: int = 0
    """Answers with a verdict, and rows of earlier harvests that no verdict of the log is about."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Those that gave no row, by reason. answers = rows + left out."""
    repeated: int = 0
    """Verdicts that were given again, with the same words."""
    replaced: int = 0
    """Verdicts that a later, different one on the same answer replaced."""
    conflicts: int = 0
    """Conversations of which two verdicts said different things; the last one counts."""
    unread: Counter[str] = field(default_factory=Counter)
    """Rows of the log that can't be read, by reason."""


@dataclass(frozen=True, slots=True)
class _Judged:
    """A verdict's row, or the reason for none and the targets that it rejects."""

    at: float
    conversation: str
    row: Harvested | None = None
    reason: str = ""
    rejects: tuple[str, ...] = ()


def harvest(
    folder: Path, rules: HarvestRules, earlier: Sequence[Harvested], since: float = 0.0
) -> Harvest:
    """Returns the rows of a log, and those of an earlier harvest that still stand.

    Only verdicts from `since` (seconds since 1970) on are read. Raises InputError and RecordError
    for a log that can't be read on.
    """
    found = Harvest()
    last = last_verdicts(folder, since, found)
    served = _served(folder, last, found)
    carried: list[tuple[Harvested, KeptVerdict | None]] = []
    for row in earlier:
        name = (row.answer, row.sample)
        if name in served:
            continue
        given = last.get(name)
        if given is not None and given.at != row.at:
            served[name] = _left_of(row, rules)
            continue
        # The answer is gone, and the row is what this verdict made of it while it was there.
        last.pop(name, None)
        carried.append((row, given))
    found.answers = len(last) + len(carried)
    judged: list[_Judged] = []
    for name, verdict in last.items():
        answer = served.get(name)
        if answer is None:
            found.left_out[NOT_IN_THE_LOG] += 1
        else:
            judged.append(_judged(verdict, answer, rules))
    for row, given in carried:
        judged.append(_carried(row, given, rules))
    _fold(judged, found, rules)
    return found


def last_verdicts(folder: Path, since: float, found: Harvest) -> dict[Key, KeptVerdict]:
    """Returns the last verdict on each answer, in no order; counts the others."""
    last: dict[Key, KeptVerdict] = {}
    for verdict in log.read_verdicts(folder, found.unread):
        if verdict.at < since:
            continue
        name = (verdict.id, verdict.sample)
        before = last.get(name)
        if before is None:
            last[name] = verdict
            continue
        said, said_before = _said(verdict), _said(before)
        if said == said_before:
            found.repeated += 1
        else:
            found.replaced += 1
        if verdict.at >= before.at:
            last[name] = verdict
    return last


def _said(verdict: KeptVerdict) -> tuple[object, ...]:
    return verdict.verdict, verdict.score, verdict.better, verdict.comment


@dataclass(frozen=True, slots=True)
class _Answer:
    """A served answer, as far as a harvest needs it."""

    prompt: tuple[Message, ...]
    text: str | None
    version: int
    unfit: str | None = None
    """The reason why a verdict of good makes no target of this answer."""
    whole: bool = True
    """False if `text` may be no more than what the scorer read of the answer."""
    left: Harvested | None = None
    """The earlier row, where it is all that is left of the answer."""


def _served(folder: Path, wanted: Iterable[Key], found: Harvest) -> dict[Key, _Answer]:
    """Returns the answers with a verdict that are still in the log."""
    served: dict[Key, _Answer] = {}
    wanted = set(wanted)
    for row in log.read_answers(folder, found.unread):
        name = (row.id, row.sample)
        if name in wanted:
            served[name] = _Answer(row.prompt, row.answer, row.version, _unfit(row))
    return served


def _left_of(row: Harvested, rules: HarvestRules) -> _Answer:
    """An answer of which an earlier row is all that is left."""
    text = row.targets[0] if row.source == "approved" else None
    whole = rules.marker is None and not row.choices
    return _Answer(row.prompt, text, row.version, whole=whole, left=row)


def _carried(row: Harvested, verdict: KeptVerdict | None, rules: HarvestRules) -> _Judged:
    """An earlier row whose answer is gone, as its verdict would give it under today's rules.

    `verdict` is None if it is gone too.
    """
    # What was right before may be near a held-out question now.
    judged = _checked(row, rules)
    if judged.row is None or row.source != "approved" or not rules.against_approval:
        return judged
    # Our words may be a target here if they are what the scorer reads of a better answer.
    called_good = verdict is not None and verdict.better is None
    is_part = rules.marker is not None or bool(judged.row.choices)
    if called_good or not is_part or _read(row.targets[0], rules) != row.targets[0]:
        return _Judged(judged.at, judged.conversation, reason=rules.against_approval)
    return judged


def _unfit(row: Interaction) -> str | None:
    if row.failed is not None or row.answer is None:
        return "good, but the answer had failed"
    if row.degraded is not None:
        return "good, but the answer was degraded: one of the two models was down"
    if row.finish != "stop":
        return f"good, but the answer had not ended by itself ({row.finish})"
    return None


def _judged(verdict: KeptVerdict, answer: _Answer, rules: HarvestRules) -> _Judged:
    """The row of a verdict, checked; or the reason for none."""
    better, says = verdict.better, verdict.says
    rejects: tuple[str, ...] = ()
    if says == "bad" and answer.text is not None:
        rejects = _rejected(answer.prompt, answer.text, rules)
    if better is not None and not _unchanged(better, answer, rules):
        judged = _checked(_row(verdict, answer, better, "better"), rules)
        if judged.row is None:
            return replace(judged, rejects=rejects)
        source = _source(judged.row, answer, rules)
        return replace(judged, row=judged.row.model_copy(update={"source": source}))
    if better is not None and verdict.score is None:
        says = says or "good"
    if says == "bad":
        reason = "bad, and no better answer was given"
    elif says is None:
        reason = "neither good nor bad, and no better answer was given"
    elif answer.text is None:
        reason = answer.unfit or NOT_IN_THE_LOG
    else:
        reason = answer.unfit or rules.against_approval
    if not reason:
        return _checked(_row(verdict, answer, answer.text or "", "approved"), rules)
    if better is not None:
        reason = f"the better answer is our own, unchanged: {reason}"
    prompt, _ = _masked(answer.prompt, "", rules)
    return _Judged(verdict.at, asked(prompt), None, reason, rejects)


def _read(answer: str, rules: HarvestRules) -> str:
    """Returns the part of an answer that the scorer reads."""
    return after(answer, rules.marker, rules.rule)


def _unchanged(better: str, answer: _Answer, rules: HarvestRules) -> bool:
    """True for an answer of ours that was sent back as it was, as far as rows tell them apart.

    Case and layout may be what a person mended.
    """
    if answer.text is None or not answer.whole:
        return False
    _, theirs = _masked(answer.prompt, better, rules)
    _, ours = _masked(answer.prompt, answer.text, rules)
    if PLACEHOLDER.search(better) or PLACEHOLDER.search(answer.text):
        theirs, ours = _unnumbered(theirs), _unnumbered(ours)
    return _unended(theirs) == _unended(ours)


def _source(row: Harvested, answer: _Answer, rules: HarvestRules) -> RowSource:
    """The source of a row with a better answer: who may have written what it teaches."""
    if _reads_ours(row, answer, rules):
        return "approved"
    left = answer.left
    if left is None or left.source == "approved":
        return "better"
    # Our answer is unknown. Only words that the earlier row has are known from when it was not.
    again = _unnumbered(row.targets[0]) == _unnumbered(left.targets[0])
    return left.source if again else "unclear"


def _reads_ours(row: Harvested, answer: _Answer, rules: HarvestRules) -> bool:
    """True if the target, which is less than the better answer, is what ours is read as."""
    is_part = rules.marker is not None or bool(row.choices)
    if answer.text is None or not is_part:
        return False
    target = caseless(_unnumbered(row.targets[0]))
    own = _rejected(answer.prompt, answer.text, rules)
    return target in [caseless(_unnumbered(text)) for text in own]


def _unnumbered(text: str) -> str:
    """The text with placeholders of their kind alone.

    Answer and verdict are masked apart, so one value may have two numbers.
    """
    return PLACEHOLDER.sub(lambda found: found[0].rpartition("_")[0], text)


def _unended(text: str) -> str:
    """The text without white space at the ends of lines, and without empty lines around it.

    Forms in a browser change no more than that.
    """
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")


def _rejected(prompt: Sequence[Message], answer: str, rules: HarvestRules) -> tuple[str, ...]:
    """The targets that rows with this answer have."""
    shown, target = _masked(prompt, _read(answer, rules), rules)
    found = [target]
    if rules.choices:
        with suppress(Unfit):
            found.append(_option(shown, target, rules.scorer)[1])
    return tuple(found)


def _row(verdict: KeptVerdict, answer: _Answer, target: str, source: RowSource) -> Harvested:
    return Harvested(
        prompt=answer.prompt,
        targets=(target,),
        source=source,
        answer=verdict.id,
        sample=verdict.sample,
        version=answer.version,
        at=verdict.at,
    )


def _checked(row: Harvested, rules: HarvestRules) -> _Judged:
    """The row masked, with what the scorer reads of its target and the options that it shows; or
    the reason why it can't be used."""
    prompt, target = _masked(row.prompt, _read(row.targets[0], rules), rules)
    name = asked(prompt)
    try:
        if row.targets[0].strip() and not target.strip():
            line = "" if rules.rule == 3 else " on its line"
            raise Unfit(f"nothing follows the scorer's marker `{rules.marker}`{line} in the answer")
        _refuse(prompt, target, rules)
        choices: tuple[str, ...] = ()
        if rules.choices:
            choices, target = _option(prompt, target, rules.scorer)
    except Unfit as error:
        return _Judged(row.at, name, reason=str(error))
    fields = row.model_dump(exclude={"id", "prompt", "targets", "choices"})
    made = Harvested(prompt=prompt, targets=(target,), choices=choices, **fields)
    return _Judged(row.at, name, made)


def _masked(
    prompt: Sequence[Message], target: str, rules: HarvestRules
) -> tuple[tuple[Message, ...], str]:
    """A conversation and its target, masked together."""
    texts = [*(message.content for message in prompt), target]
    *contents, target = masked(texts, rules.detection) or texts
    return with_contents(prompt, contents), target


def _refuse(prompt: Sequence[Message], target: str, rules: HarvestRules) -> None:
    """Raises Unfit for a question or an answer that must not be learned."""
    if not target.strip() or not prompt[-1].content.strip():
        raise Unfit("the question or the answer is empty")
    if any("\0" in text for text in (*(message.content for message in prompt), target)):
        raise Unfit("it holds a NUL character")
    why = instructs(target)
    if why is not None:
        raise Unfit(f"the answer speaks to its reader: it {why}")
    texts = [message.content for message in prompt]
    questions = [message.content for message in prompt if message.role == "user"]
    # A held-out question may have been asked, and answered, earlier in the conversation. Whoever
    # asks chooses the roles, and can put it into the system's words or into an answer.
    for question in dict.fromkeys(["\n".join(texts), "\n".join(questions), *texts]):
        if rules.held.nearest(question)[1] is not None:
            raise Unfit("it asks a held-out question, or a near copy of one")
    # An answer of a word or two may be a question's by chance.
    if rules.held.nearest(target, short=False)[1] is not None:
        raise Unfit("the answer holds a held-out question, or is a near copy of one")


def _option(
    prompt: Sequence[Message], target: str, scorer: AnyScorer
) -> tuple[tuple[str, ...], str]:
    """The options that a question shows, and the one that the target names. Raises Unfit."""
    choices = options(prompt[-1].content)
    if not choices:
        if isinstance(scorer, ChoiceConfig):
            raise Unfit("the question shows no options, and the scorer is `choice`")
        return (), target
    rule: RuleNumber = scorer.rule if isinstance(scorer, ChoiceConfig) else 2
    number = parse(target, choices, rule)
    if isinstance(number, str):
        raise Unfit("the better answer names none of the options, or several")
    return choices, option_of(choices[number], choices, "text", ())


def options(question: str) -> tuple[str, ...]:
    """The last options that a question shows, a line each, from A on; none if there are no two."""
    found: list[str] = []
    last: list[str] = []
    for line in question.splitlines():
        option = OPTION.fullmatch(line)
        if option is None or option[1] == "A":
            found = []
        if option is not None and option[1] == ascii_uppercase[len(found) : len(found) + 1]:
            found.append(option[2])
            if len(found) > 1:
                last = found
    return tuple(last)


def _fold(judged: Sequence[_Judged], found: Harvest, rules: HarvestRules) -> None:
    """Keeps one row of each conversation, that of its last verdict, in the order of verdicts."""
    standing: dict[str, Harvested] = {}
    for one in sorted(judged, key=lambda one: (one.at, one.conversation, one.reason)):
        before = standing.get(one.conversation)
        if one.row is not None:
            if before is not None:
                found.left_out[REPLACED] += 1
                found.conflicts += not _alike(before, one.row.targets[0], rules)
            standing[one.conversation] = one.row
            continue
        found.left_out[one.reason] += 1
        if before is not None and any(_alike(before, target, rules) for target in one.rejects):
            found.left_out[TAKEN_BACK] += 1
            found.conflicts += 1
            del standing[one.conversation]
    found.rows = sorted(standing.values(), key=lambda row: (row.at, row.id))


def _alike(row: Harvested, answer: str, rules: HarvestRules) -> bool:
    """True for an answer that the scorer can't tell from the row's target."""
    # A judge sees case and layout, which may be what a person mended.
    form = _unended if isinstance(rules.scorer, JudgeConfig) else caseless
    return form(row.targets[0]) == form(answer)


@dataclass
class Counts:
    """Answers of one version, as one of the models, and people's verdicts on them, counted."""

    answers: int = 0
    degraded: int = 0
    failed: int = 0
    judged: int = 0
    good: int = 0
    bad: int = 0
    better: int = 0


def by_version(
    folder: Path, since: float, unread: Counter[str]
) -> dict[tuple[int, ServedModel], Counts]:
    """Counts the answers of a log and their last verdicts, by version and model asked for.

    `since` is of answers: their verdicts may be later.
    """
    last = last_verdicts(folder, 0.0, Harvest(unread=unread))
    counts: dict[tuple[int, ServedModel], Counts] = {}
    for row in log.read_answers(folder, unread):
        if row.at < since:
            continue
        count = counts.setdefault((row.version, row.model), Counts())
        count.answers += 1
        count.degraded += row.degraded is not None
        count.failed += row.failed is not None
        verdict = last.get((row.id, row.sample))
        if verdict is None:
            continue
        count.judged += 1
        count.good += verdict.says == "good"
        count.bad += verdict.says == "bad"
        count.better += verdict.better is not None
    return dict(sorted(counts.items()))
