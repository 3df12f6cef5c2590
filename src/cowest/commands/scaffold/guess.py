"""What the columns of a table seem to be, by their names and by what stands in them; what can't be told is said."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from cowest.domains.cells import PLACES, NoColumn, entries, plain
from cowest.domains.table import CHOICES, VALUES, option_of
from cowest.errors import ConfigError
from cowest.raw.intake import Unfit
from cowest.raw.tables import Row
from cowest.records import Split

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
LETTERED = re.compile(r"(option|opt|op|choice|answer|ans|)([a-h]|[0-9])")
"""Columns that hold an option each: `a`, `option_b`, `choice3`, `opa`."""
KEYS = ("text", "letter", "from_0", "from_1")
FEW, MANY_TAGS, FEWEST_GROUPS = 12, 30, 5


@dataclass
class Guess:
    """Settings of `prepare.table`, the scorer, and what to say of them."""

    table: dict[str, Any] = field(default_factory=dict)
    scorer: str = ""
    why: str = ""
    """Why this scorer."""
    labels: list[str] = field(default_factory=list)
    """The answers, where there are few."""
    words: float = 0
    """Of a target, on average."""
    understood: list[tuple[str, str]] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)


def guess(rows: list[Row], prompt: str | None = None, targets: str | None = None) -> Guess:
    """What the columns of these rows seem to be; prompt and targets as a person says. Raises ConfigError where one can't be told."""
    columns = _Columns(rows)
    made = Guess()
    named = prompt is not None
    choices = _choices(columns, made)
    target = _target(columns, made, choices, targets)
    if prompt is None:
        prompt = _prompt(columns)
    else:
        columns.free -= {
            place[1].removesuffix("?") for place in PLACES.finditer(prompt) if place[1]
        } or {prompt}
    if choices and f"{{{CHOICES}}}" not in prompt:
        prompt = f"{prompt if PLACES.search(prompt) else f'{{{prompt}}}'}\n{{{CHOICES}}}"
    shown = {"prompt": prompt, **({"choices": choices} if choices else {}), "targets": target}
    made.table = {**shown, **made.table}
    made.understood.insert(0, ("prompt", f"{prompt!r}{', as you say' if named else ''}"))
    _rest(columns, made)
    _scorer(rows, made)
    return made


class _Columns:
    """The columns of a sample, and which of them have no role yet. What is in an object is a column too: `answers.text`."""

    def __init__(self, rows: list[Row]) -> None:
        self.values: dict[str, list[Any]] = {}
        for number, row in enumerate(rows):
            for name, value in row.items():
                inner = (
                    {f"{name}.{part}": found for part, found in value.items()}
                    if isinstance(value, dict)
                    else {name: value}
                )
                for column, found in inner.items():
                    if column.strip() and not set(column) & set("{}"):
                        self.values.setdefault(column, [None] * len(rows))[number] = found
        self.free = set(self.values)
        self.rows = len(rows)

    def take(
        self, names: Iterable[str], fits: Callable[[str], bool] = lambda _: True
    ) -> str | None:
        """The first column of such a name that fits; it has a role now."""
        found = next(
            (
                column
                for name in names
                for column in self.values
                if column in self.free and _key(column) == name and fits(column)
            ),
            None,
        )
        self.free -= {found} if found is not None else set()
        return found

    def texts(self, column: str) -> list[str]:
        """What a column says where it says something; none where it holds lists or objects."""
        found = [value for value in self.values[column] if value is not None and str(value).strip()]
        return (
            []
            if any(isinstance(value, list | dict) for value in found)
            else [str(value) for value in found]
        )

    def are_texts(self, column: str) -> bool:
        return bool(self.texts(column))

    def distinct(self, column: str) -> int:
        return len(set(self.texts(column)))


def _key(column: str) -> str:
    """A name without case and marks; the texts in an object go by the object's name."""
    parent, _, part = column.partition(".")
    return re.sub(
        r"[^a-z0-9]", "", (parent if part in ("text", "value", "texts") else column).lower()
    )


def _choices(columns: _Columns, made: Guess) -> list[str]:
    def lists(column: str) -> bool:
        return all(isinstance(value, list) and len(value) > 1 for value in columns.values[column])

    one = columns.take(OPTIONS, lists)
    if one is not None:
        made.understood.append(("choices", f"the list {one!r}"))
        return [one]
    series: dict[str, dict[str, str]] = {}
    for column in columns.values:
        found = LETTERED.fullmatch(_key(column))
        if found and columns.are_texts(column):
            series.setdefault(found[1], {})[found[2]] = column
    for found_series in series.values():
        marks = sorted(found_series)
        if (
            len(marks) > 1
            and marks[0] in "a01"
            and all(ord(b) - ord(a) == 1 for a, b in pairwise(marks))
        ):
            named = [found_series[mark] for mark in marks]
            columns.free -= set(named)
            made.understood.append(("choices", ", ".join(named)))
            return named
    return []


def _target(columns: _Columns, made: Guess, choices: list[str], said: str | None) -> str:
    candidates = (
        [said]
        if said is not None
        else [column for name in TARGETS for column in columns.values if _key(column) == name]
    )
    candidates = [column for column in candidates if column in columns.free]
    if not candidates:
        raise _unclear(columns, "the right answer", "--targets")
    best, keyed, share = candidates[0], "text", 0.0
    for column in candidates if choices else ():
        for how in KEYS:
            fits = _fits(columns, column, choices, how)
            if fits > share:
                best, keyed, share = column, how, fits
    columns.free.discard(best)
    if not choices:
        made.understood.append(("targets", repr(best)))
        return best
    if keyed != "text":
        made.table["keyed"] = keyed
    said_how = {
        "text": "the text",
        "letter": "the letter",
        "from_0": "the number, from 0,",
        "from_1": "the number, from 1,",
    }[keyed]
    made.understood.append(("targets", f"{best!r}: {said_how} of an option"))
    if keyed == "from_0" and _fits(columns, best, choices, "from_1") == share:
        made.unclear.append(
            f"whether {best!r} counts the options from 0 or from 1: both would do; 0 was taken, see `keyed`"
        )
    if share < 1:
        made.unclear.append(f"{best!r} of {1 - share:.0%} of the rows: it names no option there")
    return best


def _fits(columns: _Columns, column: str, choices: list[str], keyed: str) -> float:
    """The share of rows whose target names an option, read in this way."""
    fit = 0
    for number, value in enumerate(columns.values[column]):
        row = {
            name: columns.values[name][number]
            for name in choices
            if number < len(columns.values[name])
        }
        try:
            options = (
                entries(row, choices[0], None)
                if len(choices) == 1
                else [str(row[name]) for name in choices]
            )
            option_of(str(value), tuple(options), keyed)
            fit += 1
        except (Unfit, NoColumn, KeyError):
            continue
    return fit / max(1, len(columns.values[column]))


def _prompt(columns: _Columns) -> str:
    found = columns.take(PROMPTS, columns.are_texts)
    if found is None:
        raise _unclear(columns, "the question", "--prompt")
    more = columns.take(["input"], columns.are_texts) if _key(found) == "instruction" else None
    return found if more is None else f"{{{found}}}\n\n{{{more}?}}"


def _unclear(columns: _Columns, what: str, flag: str) -> ConfigError:
    left = ", ".join(column for column in columns.values if column in columns.free) or "none"
    return ConfigError(
        f"can't tell which column is {what}: say it with {flag} COLUMN; the columns without a role are {left}"
    )


def _rest(columns: _Columns, made: Guess) -> None:
    rows = columns.rows
    split = columns.take(SPLITS)
    if split is not None:
        _splits(columns, made, split)
    if "splits" not in made.table:
        made.table["splits"] = {"shares": {"train": 0.7, "dev": 0.1, "test": 0.2}, "seed": 0}
        made.understood.append(("splits", "drawn by share: train 0.7, dev 0.1, test 0.2"))
    unique = columns.take(
        IDS, lambda column: len(columns.texts(column)) == columns.distinct(column) == rows
    )
    if unique is not None:
        made.table["id"] = unique
        made.understood.append(("id", repr(unique)))
    group = columns.take(
        GROUPS,
        lambda column: (
            len(columns.texts(column)) == rows
            and FEWEST_GROUPS <= columns.distinct(column) < 0.9 * rows
        ),
    )
    if (
        group is not None
        and split in made.table["splits"].values()
        and _straddles(columns, group, str(split))
    ):
        made.unclear.append(
            f"{group!r}: rows of one {group} are in two splits, so it was not taken as `group`"
        )
    elif group is not None:
        made.table["group"] = group
        made.understood.append(
            ("group", f"{group!r}: {columns.distinct(group)} of them; each stays in one split")
        )
    else:
        made.unclear.append(
            "which rows belong together (one product, one document): each question is a group of its own; see `group`"
        )
    ideal = columns.take(IDEALS, columns.are_texts)
    if ideal is not None:
        made.table |= {"ideal": ideal, "corpus": {"completion": ideal}}
        made.understood.append(
            ("ideal, corpus", f"{ideal!r}: the best draft, and what the policy learns to say")
        )
    else:
        made.unclear.append(
            "what a good draft is: the policy learns the answers themselves; see `ideal` and `corpus`"
        )
    tags = [
        column
        for column in columns.values
        if column in columns.free
        and _key(column) in TAGS
        and 2 <= columns.distinct(column) <= MANY_TAGS
    ]
    columns.free -= set(tags)
    if tags:
        made.table["tags"] = tags
        made.understood.append(("tags", ", ".join(tags)))
    left = [column for column in columns.values if column in columns.free]
    if left:
        made.unclear.append(f"what to do with {', '.join(left)}: left out")


def _splits(columns: _Columns, made: Guess, column: str) -> None:
    seen = sorted(set(columns.texts(column)))
    values: dict[str, list[str]] = {
        split: [said for said in seen if plain(said) in known] for split, known in HELD_OUT.items()
    }
    if (
        sum(map(len, values.values())) < len(seen)
        or not values["train"]
        or not (values["test"] or values["dev"])
    ):
        made.unclear.append(
            f"{column!r} as a split: it says {', '.join(map(repr, seen[:8]))}; see `splits`"
        )
        return
    if not values["test"]:
        values = {"train": values["train"], "test": values["dev"]}
        made.unclear.append(
            f"which rows are for the test: {column!r} has none, so its {', '.join(values['test'])} are"
        )
    made.table["splits"] = {
        "column": column,
        "values": {split: found for split, found in values.items() if found},
    }
    made.understood.append(("splits", f"{column!r}: {', '.join(seen)}"))


def _straddles(columns: _Columns, group: str, split: str) -> bool:
    pairs = set(zip(map(str, columns.values[group]), map(str, columns.values[split]), strict=False))
    return len(pairs) > len({group for group, _ in pairs})


def _scorer(rows: list[Row], made: Guess) -> None:
    targets: list[str] = []
    for row in rows:
        try:
            targets += entries(row, made.table["targets"], None)[:1]
        except (Unfit, NoColumn):
            continue
    made.words = sum(len(target.split()) for target in targets) / max(1, len(targets))
    labels = sorted({target.strip() for target in targets})
    if "choices" in made.table:
        made.scorer, made.why = "choice", "there are options"
    elif (
        1 < len(labels) <= FEW
        and len(targets) >= 3 * len(labels)
        and all(len(label) <= 40 for label in labels)
    ):
        made.scorer, made.why, made.labels = (
            "exact_match",
            f"there are {len(labels)} answers alone",
            labels,
        )
    elif made.words <= 5:
        made.scorer, made.why = "contains", f"answers are short, {made.words:.1f} words"
    else:
        made.scorer, made.why = (
            "token_f1",
            f"answers are long, {made.words:.0f} words; a judge may be fairer",
        )
    made.understood.append(("scorer", f"{made.scorer}: {made.why}"))
