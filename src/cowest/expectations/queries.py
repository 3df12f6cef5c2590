"""Rules for queries, before anything is spent on them."""

from collections.abc import Mapping
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Literal

from pydantic import Field, field_validator

from cowest import io
from cowest.batched import batched
from cowest.config import Config
from cowest.detectors import Finding
from cowest.errors import ConfigError
from cowest.expectations import benchmarks, columns, copies, language, near, private
from cowest.expectations.benchmarks import Benchmark
from cowest.expectations.columns import AT_ONCE, SPLITS, Columns, number
from cowest.expectations.copies import Reader
from cowest.expectations.numbering import unnumbered
from cowest.expectations.private import Private
from cowest.expectations.rules import (
    SHARE,
    Remarks,
    Rule,
    Seen,
    Severity,
    commonest,
    graded,
    share_left,
)
from cowest.models.hf import HFConfig
from cowest.records import Query, Split
from cowest.sametext import caseless, seen, unpunctuated

MANY = 30
"""A split needs this many queries for the balance of its classes to be judged."""


class QuerySuite(Config):
    """Settings and rules of queries."""

    kind: Literal["queries"]
    splits: dict[Split, int] = Field(default={"train": 1, "test": 1})
    """Splits that may not be empty, as a list; or each with the queries that it needs at least."""
    max_chars: int = Field(default=20_000, ge=1)
    """Most characters of a prompt; longer ones are set aside."""
    policy: HFConfig | None = None
    """Model whose tokens `max_tokens` counts."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Most tokens of a prompt's texts, without the few that a chat template adds: leave room for
    the draft."""
    max_class_share: float = Field(default=0.9, gt=0, le=1)
    """Largest share of a split's queries with the same right answer, or with the right answer in
    the same place among the options."""
    languages: tuple[str, ...] | None = None
    """Languages that queries may be in, as in [en, de]; null for any. Only texts of which the
    detector is sure are set aside."""
    near: float | None = Field(default=0.9, ge=near.LEAST, le=1)
    """Similarity from which on a query is a near copy of one in another split; null where questions
    are similar by design: then served conversations alone are compared, word for word."""
    contamination: tuple[Benchmark, ...] = ()
    """Benchmark files whose questions, and near copies of them, are set aside."""
    private: Private = Private()
    """Personal data and secrets."""
    max_aside: float = Field(default=0.5, ge=0, lt=1)
    """Largest share of rows that may be set aside."""
    severity: dict[str, Severity] = Field(default={})
    """Severities by the name of the rule: fail, aside or note, instead of the default."""

    @field_validator("splits", mode="before")
    @classmethod
    def _sizes(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return dict.fromkeys(value, 1)
        return value

    @field_validator("contamination", mode="before")
    @classmethod
    def _files(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        files = []
        for item in value:
            is_whole = isinstance(item, Mapping | Benchmark)
            files.append(item if is_whole else {"file": item})
        return files

    def model_post_init(self, _: Any) -> None:
        if (self.policy is None) != (self.max_tokens is None):
            raise ValueError("max_tokens is in the tokens of `policy`: give both or neither")
        self.rules()

    def rules(self) -> list[Rule]:
        """The rules; their columns are those of `see` and `whole`."""
        rules = [
            *self._of_each_query(),
            *self._if_asked_for(),
            *self.private.rules("a query"),
            *self._of_the_splits(),
            self._balance(),
            share_left(self.max_aside),
        ]
        return graded(rules, self.severity)

    def _of_each_query(self) -> list[Rule]:
        return [
            Rule(
                "repeated", "a query comes once", "only the first of its rows is kept",
                "aside", "repeated", high=0,
            ),
            Rule(
                "chars", f"a prompt has 1 to {self.max_chars} characters",
                "shorten it, or raise max_chars", "aside", "chars", low=1, high=self.max_chars,
            ),
            Rule(
                "targets", "every query has a target", "give it a right answer",
                "fail", "targets", low=1,
            ),
            Rule(
                "groups", "no group is in two splits",
                "what training learns about a group would be measured on the same group: put the "
                "whole group into one split",
                "fail", "group_splits", high=1,
            ),
            Rule(
                "groups_alike",
                "no group is in another split under a name with other case, spacing or form of "
                "letters",
                "if the names mean one group, give it one name, in one split; if they are two (ids "
                "that differ in case), nothing is wrong",
                "note", "groups_alike", high=0,
            ),
            Rule(
                "numbered", "no query differs from one in another split by its number alone",
                "of two copies, such as one with `Question 17:` or `(2 points)`, the one nearer to "
                "training is left out; set severity: {numbered: note} where such numbers mean "
                "something",
                "aside", "numbered", high=0,
            ),
            Rule(
                "leak",
                "no question is in two splits, whatever its case, spacing, form of letters and "
                "order of options",
                "a held-out question must not be trained on: take it out of one of the splits",
                "fail", "prompt_splits", high=1,
            ),
        ]  # fmt: skip

    def _if_asked_for(self) -> list[Rule]:
        """Rules that depend on settings."""
        rules = []
        if self.max_tokens is not None:
            says = f"a prompt has at most {self.max_tokens} tokens of the policy"
            mend = "shorten it, or raise max_tokens"
            rules.append(Rule("tokens", says, mend, "aside", "tokens", high=self.max_tokens))
        says = "no served conversation asks what a query of another split asks, word for word"
        mend = "a held-out question must not be trained on: take the row out of the harvest"
        if self.near is not None:
            says = (
                "no query is a near copy of one in another split "
                f"(similarity {self.near:g} or more)"
            )
            mend = (
                "of two copies the one nearer to training is left out; where questions are similar "
                "by design, set near: null"
            )
        rules.append(Rule("near", says, mend, "aside", "near", high=0))
        if self.contamination:
            files = ", ".join(str(benchmark.file) for benchmark in self.contamination)
            says = f"no query is a question of {files}"
            mend = "a score on a benchmark says nothing if its questions were learned"
            rules.append(Rule("contamination", says, mend, "aside", "benchmark", high=0))
        if self.languages is not None:
            says = f"a query is in {' or '.join(self.languages)}"
            mend = "leave it out, or add its language to `languages`"
            rules.append(Rule("language", says, mend, "aside", "foreign", high=0))
        return rules

    def _of_the_splits(self) -> list[Rule]:
        rules = []
        for split, least in self.splits.items():
            says = f"split {split!r} has {least} queries or more"
            if least == 1:
                says = f"split {split!r} is not empty"
            mend = f"put queries into {split!r}, or leave it out of `splits` if nothing needs it"
            if split == "test":
                mend += (
                    ": where dev is what there is, set `splits: [train, dev]` and "
                    "`evaluate.split: dev`"
                )
            rules.append(Rule(split, says, mend, "fail", split, low=least, whole=True))
        return rules

    def _balance(self) -> Rule:
        return Rule(
            "classes",
            "no right answer, and no place among the options, is shared by more than "
            f"{self.max_class_share:.0%} of a split",
            "a policy that always gives this answer would look good: add queries of the other "
            "classes, or look at macro F1",
            "note",
            "commonest",
            high=self.max_class_share,
            whole=True,
            shown=SHARE,
        )

    def see(self, rows: io.Paths, against: Path) -> Seen:
        """Derives the frame of a file of queries; `against` is the raw folder with the benchmarks.

        Raises RecordError, InputError.
        """
        kept = Columns(
            id="Q",
            chars="i",
            tokens="i",
            targets="h",
            split="b",
            group="Q",
            group_alike="Q",
            prompt="Q",
            bare="Q",
            number="Q",
            answer="Q",
            place="b",
            near="f",
            benchmark="f",
            foreign="b",
            unsure="b",
            personal="h",
            secrets="h",
        )
        remarks, changed = Remarks(), set[int]()
        after_masking = self._readers(rows, remarks)
        before_masking: list[Reader] = []
        if self.contamination:
            known = benchmarks.known(self.contamination, against, self.near)
            before_masking.append(copies.of_benchmarks(known, remarks))
        start = 0
        for part in batched(io.read(rows, Query), AT_ONCE):
            found = [self.private.found(private.query_texts(row)) for row in part]
            # Benchmarks are not masked, so queries are compared with them as they came in. Queries
            # are compared with each other as they go out.
            derived = [read(start, part) for read in before_masking]
            masked = [self._masked(row, its) for row, its in zip(part, found, strict=True)]
            derived += [read(start, masked) for read in after_masking]
            for at, row in enumerate(masked):
                values = _columns(row)
                values.update(private.counted(found[at]))
                for columns_of_part in derived:
                    values.update(columns_of_part[at])
                kept.add(**values)
                kinds = private.remark(found[at])
                if kinds:
                    remarks.say(start + at, kinds)
                if any(self.private.masks(found[at])):
                    changed.add(start + at)
            start += len(part)
        return Seen(_compared(kept.frame()), remarks, changed, self._change)

    def _masked(self, row: Query, found: list[list[Finding]]) -> Query:
        masks = self.private.masks(found)
        return private.masked_query(row, masks) if any(masks) else row

    def _as_it_goes_out(self, row: Query) -> Query:
        if "mask" not in (self.private.personal, self.private.secrets):
            return row
        return self._masked(row, self.private.found(private.query_texts(row)))

    def _change(self, line: bytes) -> bytes:
        """Masks a row on its way out."""
        return self._as_it_goes_out(Query.model_validate_json(line)).model_dump_json().encode()

    def _readers(self, rows: io.Paths, remarks: Remarks) -> list[Reader]:
        found: list[Reader] = []
        if self.policy is not None:
            found.append(_tokens(self.policy))
        if self.near is not None:
            found.append(copies.of_held_out(rows, self.near, remarks, self._as_it_goes_out))
        else:
            found.append(copies.of_served(rows, remarks, self._as_it_goes_out))
        if self.languages is not None:
            found.append(_languages(self.languages))
        return found

    def whole(self, left: Any, seen: Seen) -> dict[str, float | None]:
        """Numbers of the rows that are left, for the rules about the whole."""
        counts = left["split"].value_counts()
        found: dict[str, float | None] = {}
        for split in self.splits:
            found[split] = int(counts.get(SPLITS.index(split), 0))
        return {**found, "commonest": _commonest(left), "left": seen.share(left)}

    def facts(self, left: Any, seen: Seen) -> dict[str, str]:
        """Numbers for the page, in words."""
        counts = left["split"].value_counts()
        found = {}
        for number_of_split, name in enumerate(("train on", "tune on", "test on")):
            found[f"queries to {name}"] = f"{counts.get(number_of_split, 0)}"
        if not len(left):
            return found
        for column, name in LENGTHS.items():
            middle, most = left[column].median(), left[column].max()
            if most > 0:
                found[name] = f"median {middle:.0f}, at most {most}"
        if self.languages is not None:
            found["too short to tell the language, or unclear"] = f"{left['unsure'].mean():.0%}"
        return found


LENGTHS = {"chars": "characters of a prompt", "tokens": "the policy's tokens of a prompt"}
"""Columns of lengths with their names on the page."""


def _compared(frame: Any) -> Any:
    """The frame with the columns that compare rows, without the digests that they need."""
    repeated = columns.nth(frame["id"])
    groups = columns.splits_of(frame["group"], frame["split"])
    alike = columns.splits_of(frame["group_alike"], frame["split"])
    prompts = columns.splits_of(frame["prompt"], frame["split"])
    return frame.drop(columns=["id", "group", "group_alike", "prompt", "bare", "number"]).assign(
        repeated=repeated,
        group_splits=groups,
        groups_alike=(alike > groups).astype("int8"),
        prompt_splits=prompts,
        numbered=_numbered(frame, prompts),
    )


def _numbered(frame: Any, prompt_splits: Any) -> Any:
    """1 for a row that asks, under another number, what a row of a later split asks; else 0."""
    import numpy

    found = numpy.zeros(len(frame), dtype="int8")
    asked, splits, numbers = (frame[name].to_numpy() for name in ("bare", "split", "number"))
    # Copies to the letter are for the rule `leak`. So few rows are left to look at.
    spread = columns.splits_of(asked, splits) > prompt_splits
    alike: dict[int, list[int]] = {}
    for row in map(int, numpy.flatnonzero(numpy.isin(asked, asked[spread]))):
        alike.setdefault(int(asked[row]), []).append(row)
    for rows in alike.values():
        held = {(splits[row], numbers[row]) for row in rows}
        for row in rows:
            if spread[row]:
                found[row] = any(
                    split > splits[row] and (not numbers[row] or number in (0, numbers[row]))
                    for split, number in held
                )
    return found


def _commonest(left: Any) -> float | None:
    """The largest share of one right answer, or of one place among the options, in any split."""
    shares = []
    for _, part in left.groupby("split"):
        if len(part) < MANY:
            continue
        shares.append(commonest(part["answer"]) or 0.0)
        # Queries without options have no place. A split with some of them says nothing of places.
        if (part["place"] >= 0).all():
            shares.append(commonest(part["place"]) or 0.0)
    return max(shares, default=None)


def _columns(row: Query) -> dict[str, float]:
    """The columns that need nothing but the row. Readers replace those that are 0 at the end."""
    texts = [message.content for message in row.prompt]
    # A question is the same in whatever order its options stand.
    stems = [seen(_stem(text, row.choices)) for text in texts]
    options = sorted(caseless(seen(choice)) for choice in row.choices)
    question = "\0".join([*map(caseless, stems), *options])
    bare = [unnumbered(stem, "".join(options)) for stem in stems]
    asked = "\0".join([*(caseless(found.text) for found in bare), *options])
    numbers = " ".join(found.number for found in bare if found.number)
    place = -1
    # The column has one byte per row.
    if row.targets[0] in row.choices[:100]:
        place = row.choices.index(row.targets[0])
    return {
        "id": int(row.id[:16], 16),
        "chars": sum(len(text.strip()) for text in texts),
        "split": SPLITS.index(row.split),
        "targets": min(sum(bool(target.strip()) for target in row.targets), 1000),
        "group": number(row.group),
        # `Comet pump` and `comet pump ` may be one group, each drawn to its own split.
        "group_alike": number(caseless(seen(row.group))),
        "prompt": number(question),
        "bare": number(asked),
        "number": number(numbers) if numbers else 0,
        "answer": number(unpunctuated(row.targets[0]) or row.targets[0]),
        "place": place,
        "tokens": 0,
        "near": 0,
        "benchmark": 0,
        "foreign": 0,
        "unsure": 0,
    }


def _stem(text: str, choices: tuple[str, ...]) -> str:
    """A prompt's text without the lines that show its options."""
    text = f"\n{text}\n"
    for letter, choice in zip(ascii_uppercase, choices, strict=False):
        for shown in (f"\n{letter}. {choice}\n", f"\n{choice}\n"):
            # Options stand last: a line above them that says the same belongs to the question.
            before, found, after = text.rpartition(shown)
            if found:
                text = f"{before}\n{after}"
                break
    return text


def _tokens(policy: HFConfig) -> Reader:
    import tokenizers

    path = policy.folder() / "tokenizer.json"
    if not path.exists():
        raise ConfigError(
            f"max_tokens: {policy.model} has no tokenizer.json: save its tokenizer in the fast "
            "form, or leave max_tokens out"
        )
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    # The file may ask for texts to be cut or filled up, and then the count would be wrong.
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def read(_: int, rows: list[Query]) -> list[dict[str, float]]:
        texts = ["\n".join(message.content for message in row.prompt) for row in rows]
        encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [{"tokens": len(tokens)} for tokens in encoded]

    return read


def _languages(expected: tuple[str, ...]) -> Reader:
    verdict = language.reader(expected)

    def read(_: int, rows: list[Query]) -> list[dict[str, float]]:
        verdicts = [verdict(copies.asked(row)) for row in rows]
        return [{"foreign": one == "foreign", "unsure": one == "unsure"} for one in verdicts]

    return read
