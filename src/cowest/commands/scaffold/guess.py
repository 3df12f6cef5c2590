"""Guesses the roles of a table's columns by their names and values, and says what is unclear."""

import re
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from cowest.commands.scaffold.sample import Sample, name_key
from cowest.domains import written
from cowest.domains.cells import (
    NoColumn,
    columns_of,
    entries,
    expect_places,
    is_template,
    text_of,
)
from cowest.domains.mapping import CHOICES, SHARES, VALUES, Table
from cowest.domains.table import Source
from cowest.errors import ConfigError
from cowest.raw.files import Row
from cowest.raw.intake import Unfit
from cowest.records import Split
from cowest.sametext import caseless

PROMPTS = [
    "question",
    "query",
    "prompt",
    "problem",
    "instruction",
    "utterance",
    "request",
    "sentence",
    "text",
    "input",
]
TARGETS = [
    "correctanswer",
    "correctoption",
    "correct",
    "answerkey",
    "answer",
    "answers",
    "answeridx",
    "answerindex",
    "cop",
    "target",
    "targets",
    "label",
    "gold",
    "goldanswer",
    "solution",
    "reference",
    "groundtruth",
    "expected",
    "output",
    "response",
    "completion",
    "reply",
]
IDEALS = [
    "explanation",
    "exp",
    "rationale",
    "reasoning",
    "why",
    "note",
    "fact",
    "hint",
    "evidence",
    "support",
    "context",
    "passage",
    "background",
    "document",
    "article",
    "paragraph",
]
OPTIONS = ["choices", "options", "candidates", "alternatives"]
GROUPS = [
    "group",
    "groupid",
    "document",
    "documentid",
    "docid",
    "passageid",
    "contextid",
    "articleid",
    "product",
    "productid",
    "user",
    "userid",
    "customer",
    "customerid",
    "patient",
    "conversationid",
    "dialogueid",
    "sessionid",
    "title",
    "url",
    "source",
]
IDS = ["id", "qid", "uid", "uuid", "questionid", "rowid", "index", "idx"]
TAGS = [
    "subject",
    "subjectname",
    "topic",
    "topicname",
    "category",
    "difficulty",
    "level",
    "language",
    "lang",
    "domain",
    "type",
    "choicetype",
    "skill",
]
SPLITS = ["split", "set", "fold", "partition", "subset"]
HELD_OUT: dict[Split, tuple[str, ...]] = {
    **VALUES,
    "test": (*VALUES["test"], "heldout", "held_out", "held-out", "holdout"),
}
LETTERED = re.compile(r"(options?|opt|op|choices?|answers?|ans|)([a-h]|[0-9])")
"""Columns that hold an option each: `a`, `option_b`, `choice3`, `opa`."""
KEYS = ("label", "text", "letter", "from_0", "from_1")
OPTION_LABELS = ["labels", "optionlabels", "choicelabels", "optionkeys", "choicekeys", "letters"]
FEW = 12
"""Number of different answers, at most, that are taken for labels."""
MANY_TAGS = 30
"""Number of different values, at most, of a column that is taken for a tag."""
FEWEST_GROUPS = 5
"""Number of different values, at least, of a column that is taken for a group."""


@dataclass
class Guess:
    """Settings of `prepare.table`, the scorer, and what to say of them."""

    table: dict[str, Any] = field(default_factory=dict)
    scorer: str = ""
    why: str = ""
    """The reason for this scorer."""
    labels: list[str] = field(default_factory=list)
    """The answers, if there are few."""
    words: float = 0
    """Mean number of words of a target."""
    understood: list[tuple[str, str]] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)


def guess(rows: list[Row], prompt: str | None = None, targets: str | None = None) -> Guess:
    """The roles of the columns of these rows; `prompt` and `targets` are what the user says.

    Raises ConfigError if the question or the right answer can't be told.
    """
    columns = Sample(rows)
    made = Guess()
    # Each role takes its column away from those after it, so the order matters: the plainest first.
    choices = _choices(columns, made)
    if prompt is not None:
        _refuse_unknown(columns, prompt)
        columns.free -= _named_in(prompt)
    target = _target(columns, made, choices, targets)
    said = "" if prompt is None else ", as you say"
    if prompt is None:
        prompt = _prompt(columns)
    if choices:
        prompt = _showing_choices(prompt)
    shown: dict[str, Any] = {"prompt": prompt}
    if choices:
        shown["choices"] = choices
    shown["targets"] = target
    made.table = {**shown, **made.table}
    made.understood.insert(0, ("prompt", f"{prompt!r}{said}"))
    _rest(columns, made)
    _scorer(rows, made)
    return made


def _refuse_unknown(columns: Sample, prompt: str) -> None:
    """Raises ConfigError for a prompt with a column that is not there, or with a lone brace."""
    try:
        expect_places(prompt)
        # Column by column: one that is empty in this row hides none after it.
        for name in columns_of(prompt):
            if name != CHOICES:
                _expect_column(columns.raw, name)
    except (NoColumn, ValueError) as error:
        raise ConfigError(f"--prompt: {error}") from None


def _expect_column(rows: list[Row], name: str) -> None:
    """Raises NoColumn for one that the first row has not; `{name?}` may stand in any row."""
    if name not in rows[0] and name.endswith("?"):
        name = name.removesuffix("?")
        rows = [row for row in rows if name in row] or rows
    # An empty one is said with the rows that don't fit.
    with suppress(Unfit):
        text_of(rows[0], name)


def _named_in(prompt: str) -> set[str]:
    """The columns that a prompt shows."""
    if not is_template(prompt):
        return {prompt}
    return {name.removesuffix("?") for name in columns_of(prompt)}


def _showing_choices(prompt: str) -> str:
    """The prompt as a template that shows the options."""
    place = f"{{{CHOICES}}}"
    if place in prompt:
        return prompt
    template = prompt if is_template(prompt) else f"{{{prompt}}}"
    return f"{template}\n{place}"


def _choices(columns: Sample, made: Guess) -> list[str]:
    """The columns of the options: one with lists, or a series such as `a`, `b`, `c`."""
    one = columns.take(OPTIONS, columns.are_lists)
    if one is not None:
        made.understood.append(("choices", f"the list {one!r}"))
        return [one]
    series: dict[str, dict[str, str]] = {}
    for column in columns.values:
        found = LETTERED.fullmatch(name_key(column))
        if found and columns.are_texts(column):
            series.setdefault(found[1], {})[found[2]] = column
    for by_mark in series.values():
        marks = sorted(by_mark)
        if len(marks) > 1 and marks[0] in "a01" and _adjoin(marks):
            named = [by_mark[mark] for mark in marks]
            columns.free -= set(named)
            made.understood.append(("choices", ", ".join(named)))
            return named
    return []


def _adjoin(marks: list[str]) -> bool:
    return all(ord(later) - ord(earlier) == 1 for earlier, later in pairwise(marks))


def _target(columns: Sample, made: Guess, choices: list[str], said: str | None) -> str:
    """The column of the right answer, and with choices the way in which it names an option."""
    if said is None:
        candidates = [column for column in columns.named(TARGETS) if column in columns.free]
    else:
        _refuse_taken(columns, said, choices)
        candidates = [said]
        columns.free.remove(said)
    if not candidates:
        raise _unclear(columns, "the right answer", "--targets")
    labels = columns.take(OPTION_LABELS, columns.are_lists) if len(choices) == 1 else None
    if not choices:
        columns.free.discard(candidates[0])
        _lists(columns, made, candidates[0])
        return candidates[0]
    best, keyed, share = candidates[0], "text", 0.0
    for column in candidates:
        for how in KEYS:
            fits = _fits(columns, column, choices, how, labels)
            if fits > share:
                best, keyed, share = column, how, fits
    columns.free.discard(best)
    if keyed == "label":
        made.table["labels"] = labels
    elif keyed != "text":
        made.table["keyed"] = keyed
    said_how = {
        "label": f"the label, of {labels!r},",
        "text": "the text",
        "letter": "the letter",
        "from_0": "the number, from 0,",
        "from_1": "the number, from 1,",
    }[keyed]
    made.understood.append(("targets", f"{best!r}: {said_how} of an option"))
    if keyed == "from_0" and _fits(columns, best, choices, "from_1", None) == share:
        made.unclear.append(
            f"whether {best!r} counts the options from 0 or from 1: both would do; 0 was taken, "
            "see `keyed`"
        )
    if share < 1:
        made.unclear.append(f"{best!r} of {1 - share:.0%} of the rows: it names no option there")
    return best


def _refuse_taken(columns: Sample, said: str, choices: list[str]) -> None:
    """Raises ConfigError for a column of targets that is not there, or that has a role."""
    if said in columns.free:
        return
    if said in choices:
        why = "it holds options: name the column that says which of them is right"
    elif said in columns.values:
        why = "the prompt shows it, and would give the answer away: name another column"
    else:
        why = "init can't tell its values: give it a name without braces, one object deep at most"
        try:
            text_of(columns.raw[0], said)
        except (NoColumn, Unfit) as error:
            why = str(error)
    raise ConfigError(f"--targets {said}: {why}")


def _lists(columns: Sample, made: Guess, target: str) -> None:
    """Says how right answers are read that are texts of lists."""
    if not columns.are_written_lists(target):
        made.understood.append(("targets", repr(target)))
        return
    if all(written.are_quoted(found) for found in columns.lists(target) if found):
        made.table["lists"] = "read"
        made.understood.append(("targets", f"{target!r}: texts of lists, read as lists"))
    else:
        made.understood.append(("targets", f"{target!r}: texts in brackets, as they are"))
        made.unclear.append(
            f"whether {target!r} holds lists of right answers: they were taken as texts; see "
            "`lists` in docs/your-data.md"
        )


def _fits(
    columns: Sample, column: str, choices: list[str], keyed: str, labels: str | None
) -> float:
    """The share of rows whose target names an option, read in this way."""
    settings: dict[str, Any] = {"prompt": column, "targets": column, "choices": choices}
    if keyed != "label":
        settings["keyed"] = keyed
    elif labels is not None:
        settings["labels"] = labels
    else:
        return 0.0
    source = Source(Table.model_validate(settings))
    fit = 0
    for row in columns.raw:
        try:
            source.answers(row)
        except (Unfit, NoColumn):
            continue
        fit += 1
    return fit / max(1, columns.rows)


def _prompt(columns: Sample) -> str:
    found = columns.take(PROMPTS, columns.are_texts)
    if found is None:
        raise _unclear(columns, "the question", "--prompt")
    # Instructions often have a second column, with the text that they are about.
    if name_key(found) == "instruction":
        more = columns.take(["input"], columns.are_texts)
        if more is not None:
            return f"{{{found}}}\n\n{{{more}?}}"
    return found


def _unclear(columns: Sample, what: str, flag: str) -> ConfigError:
    left = ", ".join(column for column in columns.values if column in columns.free) or "none"
    return ConfigError(
        f"can't tell which column is {what}: say it with {flag} COLUMN; the columns without a "
        f"role are {left}"
    )


def _rest(columns: Sample, made: Guess) -> None:
    """The roles that a table may do without."""
    split = columns.take(SPLITS)
    if split is not None:
        _splits(columns, made, split)
    if "splits" not in made.table:
        made.table["splits"] = {"shares": dict(SHARES), "seed": 0}
        made.understood.append(("splits", "drawn by share: train 0.7, dev 0.1, test 0.2"))

    def are_ids(column: str) -> bool:
        return columns.in_every_row(column) and columns.distinct(column) == columns.rows

    unique = columns.take(IDS, are_ids)
    if unique is not None:
        made.table["id"] = unique
        made.understood.append(("id", repr(unique)))
    _group(columns, made, split)
    ideal = columns.take(IDEALS, columns.are_texts)
    if ideal is not None:
        made.table |= {"ideal": ideal, "corpus": {"completion": ideal}}
        made.understood.append(
            ("ideal, corpus", f"{ideal!r}: the best draft, and what the policy learns to say")
        )
    else:
        made.unclear.append(
            "what a good draft is: the policy learns the answers themselves; see `ideal` and "
            "`corpus`"
        )
    tags = []
    for column in columns.values:
        if column not in columns.free or name_key(column) not in TAGS:
            continue
        if 2 <= columns.distinct(column) <= MANY_TAGS:
            tags.append(column)
    columns.free -= set(tags)
    if tags:
        made.table["tags"] = tags
        made.understood.append(("tags", ", ".join(tags)))
    left = [column for column in columns.values if column in columns.free]
    if left:
        made.unclear.append(f"what to do with {', '.join(left)}: left out")
    if columns.in_braces:
        made.unclear.append(
            f"what to do with {', '.join(columns.in_braces)}: left out, since no template can name "
            "a column with a brace in its name: rename it"
        )


def _group(columns: Sample, made: Guess, split: str | None) -> None:
    """The column of rows that belong together: in every row, and with several rows per value."""

    def are_groups(column: str) -> bool:
        if not columns.in_every_row(column):
            return False
        return FEWEST_GROUPS <= columns.distinct(column) < 0.9 * columns.rows

    group = columns.take(GROUPS, are_groups)
    if group is None:
        made.unclear.append(
            "which rows belong together (one product, one document): each question is a group of "
            "its own; see `group`"
        )
    elif split in made.table["splits"].values() and _straddles(columns, group, str(split)):
        made.unclear.append(
            f"{group!r}: rows of one {group} are in two splits, so it was not taken as `group`"
        )
    else:
        made.table["group"] = group
        made.understood.append(
            ("group", f"{group!r}: {columns.distinct(group)} of them; each stays in one split")
        )


def _splits(columns: Sample, made: Guess, column: str) -> None:
    """The values of a column that stand for each split, if they are all known ones."""
    seen = sorted(set(columns.texts(column)))
    values: dict[Split, list[str]] = {}
    for split, known in HELD_OUT.items():
        values[split] = [said for said in seen if caseless(said) in known]
    recognised = sum(map(len, values.values()))
    held_out = values["test"] or values["dev"]
    if recognised < len(seen) or not values["train"] or not held_out:
        made.unclear.append(
            f"{column!r} as a split: it says {', '.join(map(repr, seen[:8]))}; see `splits`"
        )
        return
    if not values["test"]:
        values = {"train": values["train"], "test": values["dev"]}
        made.unclear.append(
            f"which rows are for the test: {column!r} has none, so its "
            f"{', '.join(values['test'])} are"
        )
    made.table["splits"] = {
        "column": column,
        "values": {split: found for split, found in values.items() if found},
    }
    made.understood.append(("splits", f"{column!r}: {', '.join(seen)}"))


def _straddles(columns: Sample, group: str, split: str) -> bool:
    """True if one group has rows in two splits."""
    pairs = set(zip(map(str, columns.values[group]), map(str, columns.values[split]), strict=False))
    return len(pairs) > len({group for group, _ in pairs})


def _scorer(rows: list[Row], made: Guess) -> None:
    """The scorer that fits the right answers."""
    targets: list[str] = []
    lists = made.table.get("lists", "quoted")
    for row in rows:
        try:
            targets += entries(row, made.table["targets"], None, lists)[:1]
        except (Unfit, NoColumn):
            continue
    made.words = sum(len(target.split()) for target in targets) / max(1, len(targets))
    labels = sorted({target.strip() for target in targets})
    # Labels come back, three times each on average, and are short.
    few = 1 < len(labels) <= FEW and len(targets) >= 3 * len(labels)
    if "choices" in made.table:
        made.scorer, made.why = "choice", "there are options"
    elif few and all(len(label) <= 40 for label in labels):
        made.scorer, made.why = "exact_match", f"there are {len(labels)} answers alone"
        made.labels = labels
    elif made.words <= 5:
        made.scorer, made.why = "contains", f"answers are short, {made.words:.1f} words"
    else:
        made.scorer = "token_f1"
        made.why = f"answers are long, {made.words:.0f} words; a judge may be fairer"
    made.understood.append(("scorer", f"{made.scorer}: {made.why}"))
