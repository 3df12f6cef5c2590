"""What queries must meet, before anything is spent on them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from cowest import io
from cowest.config import Config
from cowest.detectors import Finding
from cowest.errors import ConfigError
from cowest.expectations import benchmarks, columns, language, near, private
from cowest.expectations.benchmarks import Benchmark
from cowest.expectations.columns import SPLITS, Columns, number, parts
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

MANY = 30
"""Queries of a split from which on its classes are counted."""


class QuerySuite(Config):
    """What queries must meet."""

    kind: Literal["queries"]
    splits: dict[Split, int] = Field(default={"train": 1, "test": 1})
    """Splits that may not be empty, as a list; or each with how many queries it needs at least."""
    max_chars: int = Field(default=20_000, ge=1)
    """Characters of a prompt; longer ones are set aside."""
    policy: HFConfig | None = None
    """Whose tokens `max_tokens` counts."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Tokens of a prompt's texts, without the few that a chat template adds: leave room for the draft."""
    max_class_share: float = Field(default=0.9, gt=0, le=1)
    """How many queries of a split may have the same right answer, or it in the same place among their options."""
    languages: tuple[str, ...] | None = None
    """Languages that queries may be in, as in [en, de]; null for any. Only texts of which the detector is sure are held against it."""
    near: float | None = Field(default=0.9, ge=near.LEAST, le=1)
    """From which similarity on a query is a near copy of one in another split; null where questions are near by design."""
    contamination: tuple[Benchmark, ...] = ()
    """Benchmark files whose questions, and near copies of them, are set aside."""
    private: Private = Private()
    """Personal data and secrets."""
    max_aside: float = Field(default=0.5, ge=0, lt=1)
    """The share of rows that may be set aside."""
    severity: dict[str, Severity] = Field(default={})
    """By a rule's name: fail, aside or note, in place of its default."""

    @field_validator("splits", mode="before")
    @classmethod
    def _sizes(cls, value: Any) -> Any:
        return dict.fromkeys(value, 1) if isinstance(value, list | tuple) else value

    @field_validator("contamination", mode="before")
    @classmethod
    def _files(cls, value: Any) -> Any:
        return (
            [item if isinstance(item, Mapping | Benchmark) else {"file": item} for item in value]
            if isinstance(value, list)
            else value
        )

    def model_post_init(self, _: Any) -> None:
        if (self.policy is None) != (self.max_tokens is None):
            raise ValueError("max_tokens is in the tokens of `policy`: give both or neither")
        self.rules()

    def rules(self) -> list[Rule]:
        """The suite; columns are those of `see` and `whole`."""
        rules = [
            _aside("repeated", "a query comes once", "the first of its rows is enough", "repeated", 0, 0),
            _aside("chars", f"a prompt has 1 to {self.max_chars} characters", "shorten it, or raise max_chars", "chars", 1, self.max_chars),
            Rule("targets", "every query has a target", "give it a right answer", "fail", "targets", low=1),
            Rule(
                "groups", "no group is in two splits",
                "what is learned of a group in training would be measured on it: put the whole group into one split",
                "fail", "group_splits", high=1,
            ),
            Rule(
                "leak", "no question is in two splits, whatever its case and spacing",
                "a held-out question must not be trained on: take it out of one of the splits",
                "fail", "prompt_splits", high=1,
            ),
        ]  # fmt: skip
        if self.max_tokens is not None:
            says, mend = (
                f"a prompt has at most {self.max_tokens} tokens of the policy",
                "shorten it, or raise max_tokens",
            )
            rules.append(_aside("tokens", says, mend, "tokens", None, self.max_tokens))
        if self.near is not None:
            rules.append(
                _aside(
                    "near", f"no query is as much as {self.near:g} like one of another split",
                    "the copy that is nearer to training is left out; where questions are near by design, set near: null",
                    "near", 0, 0,
                )
            )  # fmt: skip
        if self.contamination:
            says = f"no query is one of {', '.join(str(benchmark.file) for benchmark in self.contamination)}"
            rules.append(
                _aside(
                    "contamination",
                    says,
                    "what is reported on a benchmark must not be learned from it",
                    "benchmark",
                    0,
                    0,
                )
            )
        if self.languages is not None:
            says = f"a query is in {' or '.join(self.languages)}"
            rules.append(
                _aside(
                    "language",
                    says,
                    "leave it out, or add its language to `languages`",
                    "foreign",
                    0,
                    0,
                )
            )
        return graded(
            [*rules, *self.private.rules("a query"), *self._of_the_whole()], self.severity
        )

    def _of_the_whole(self) -> list[Rule]:
        sizes = [
            Rule(
                split, f"split {split!r} is not empty" if least == 1 else f"split {split!r} has {least} queries or more",
                f"put queries into {split!r}, or leave it out of `splits` if nothing needs it"
                + (": where dev is what there is, set `splits: [train, dev]` and `evaluate.split: dev`" if split == "test" else ""),
                "fail", split, low=least, whole=True,
            )
            for split, least in self.splits.items()
        ]  # fmt: skip
        balance = Rule(
            "classes", f"no right answer is that of more than {self.max_class_share:.0%} of a split",
            "a policy that always gives this answer would look good: add queries of the other classes, or look at macro F1",
            "note", "commonest", high=self.max_class_share, whole=True, shown=SHARE,
        )  # fmt: skip
        return [*sizes, balance, share_left(self.max_aside)]

    def see(self, rows: io.Paths, against: Path) -> Seen:
        """The frame of a file of queries; `against` is the raw folder, where benchmarks lie. Raises RecordError, InputError."""
        kept = Columns(id="Q", chars="i", tokens="i", targets="h", split="b", group="Q", prompt="Q", answer="Q", place="b",
                       near="f", benchmark="f", foreign="b", unsure="b", personal="h", secrets="h")  # fmt: skip
        remarks, changed = Remarks(), set()
        more = self._readers(rows, remarks)
        of_raw = (
            [_benchmarks(benchmarks.known(self.contamination, against, self.near), remarks)]
            if self.contamination
            else []
        )
        start = 0
        for part in parts(io.read(rows, Query)):
            found = [self.private.found(private.query_texts(row)) for row in part]
            extra = [
                [private.counted(its) for its in found],
                *(read(start, part) for read in of_raw),
            ]  # benchmarks are not masked
            part = [self._masked(row, its) for row, its in zip(part, found, strict=True)]
            extra += [read(start, part) for read in more]
            for at, row in enumerate(part):
                kept.add(
                    **_columns(row)
                    | {name: value for read in extra for name, value in read[at].items()}
                )
                if said := private.remark(found[at]):
                    remarks.say(start + at, said)
                if any(self.private.masks(found[at])):
                    changed.add(start + at)
            start += len(part)
        frame = kept.frame()
        repeated = columns.nth(frame["id"])
        groups, prompts = (
            columns.splits_of(frame[name], frame["split"]) for name in ("group", "prompt")
        )
        frame = frame.drop(columns=["id", "group", "prompt"]).assign(
            repeated=repeated, group_splits=groups, prompt_splits=prompts
        )
        return Seen(frame, remarks, changed, self._changed)

    def _masked(self, row: Query, found: list[list[Finding]]) -> Query:
        masks = self.private.masks(found)
        return private.masked_query(row, masks) if any(masks) else row

    def _as_it_goes_out(self, row: Query) -> Query:
        masked = "mask" in (self.private.personal, self.private.secrets)
        return self._masked(row, self.private.found(private.query_texts(row))) if masked else row

    def _changed(self, line: bytes) -> bytes:
        """A row that is masked, as it goes out."""
        return self._as_it_goes_out(Query.model_validate_json(line)).model_dump_json().encode()

    def _readers(self, rows: io.Paths, remarks: Remarks) -> "list[Reader]":
        found: list[Reader] = []
        if self.policy is not None:
            found.append(_tokens(self.policy))
        if self.near is not None:
            found.append(_copies(rows, self.near, remarks, self._as_it_goes_out))
        if self.languages is not None:
            found.append(_languages(self.languages))
        return found

    def whole(self, left: Any, seen: Seen) -> dict[str, float | None]:
        """What there is to say of the rows that are left."""
        counts = left["split"].value_counts()
        sizes: dict[str, float | None] = {
            split: int(counts.get(SPLITS.index(split), 0)) for split in self.splits
        }
        splits = [part for _, part in left.groupby("split") if len(part) >= MANY]
        shares = [commonest(part["answer"]) or 0.0 for part in splits]
        shares += [commonest(part["place"]) or 0.0 for part in splits if (part["place"] >= 0).all()]
        return {**sizes, "commonest": max(shares, default=None), "left": seen.share(left)}

    def facts(self, left: Any, seen: Seen) -> dict[str, str]:
        """Numbers for the page, in words."""
        counts = left["split"].value_counts()
        found = {
            f"queries to {name}": f"{counts.get(number, 0)}"
            for number, name in enumerate(("train on", "tune on", "test on"))
        }
        for column, name in {
            "chars": "characters of a prompt",
            "tokens": "the policy's tokens of a prompt",
        }.items():
            if len(left) and left[column].max() > 0:
                middle, most = left[column].median(), left[column].max()
                found[name] = f"{middle:.0f} in the middle, {most} at most"
        if self.languages is not None and len(left):
            found["too short to tell the language, or unclear"] = f"{left['unsure'].mean():.0%}"
        return found


Reader = Callable[[int, list[Query]], list[dict[str, float]]]
"""Columns of some adjacent rows, given the number of the first."""


def _aside(
    name: str, says: str, mend: str, column: str, low: float | None, high: float | None
) -> Rule:
    return Rule(name, says, mend, "aside", column, low, high)


def _columns(row: Query) -> dict[str, float]:
    """Those that need nothing but the row; readers fill in the others."""
    said = [message.content for message in row.prompt]
    whole = "\0".join([*(" ".join(text.casefold().split()) for text in said), *row.choices])
    place = row.choices.index(row.targets[0]) if row.targets[0] in row.choices[:100] else -1
    return {
        "id": int(row.id[:16], 16), "chars": sum(len(text.strip()) for text in said), "split": SPLITS.index(row.split),
        "targets": min(sum(bool(target.strip()) for target in row.targets), 1000), "group": number(row.group), "prompt": number(whole),
        "answer": number(near.plain(row.targets[0]) or row.targets[0]), "place": place,
        "tokens": 0, "near": 0, "benchmark": 0, "foreign": 0, "unsure": 0,
    }  # fmt: skip


def _asked(row: Query) -> str:
    """What a query asks, without what a system prompt says to all of them."""
    return "\n".join(message.content for message in row.prompt if message.role != "system")


def _tokens(policy: HFConfig) -> Reader:
    import tokenizers

    path = policy.folder() / "tokenizer.json"
    if not path.exists():
        raise ConfigError(
            f"max_tokens: {policy.model} has no tokenizer.json: save its tokenizer in the fast form, or leave max_tokens out"
        )
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def read(_: int, rows: list[Query]) -> list[dict[str, float]]:
        texts = ["\n".join(message.content for message in row.prompt) for row in rows]
        return [
            {"tokens": len(found)}
            for found in tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        ]

    return read


def _copies(
    rows: io.Paths, least: float, remarks: Remarks, as_it_goes_out: Callable[[Query], Query]
) -> Reader:
    """Held-out queries are indexed, and all stream past: the one of two copies that is nearer to training is the copy."""
    index = near.Index(least)
    held: dict[int, tuple[int, str]] = {}
    for part in parts(io.held_out(rows)):
        held |= {number: (SPLITS.index(row.split), place) for place, number, row in part}
        index.add(
            [number for _, number, _ in part],
            [near.plain(_asked(as_it_goes_out(row))) for *_, row in part],
        )

    def read(start: int, part: list[Query]) -> list[dict[str, float]]:
        found = []
        for at, (row, sketch) in enumerate(
            zip(part, near.sketches([near.plain(_asked(row)) for row in part]), strict=True), start
        ):
            mine = SPLITS.index(row.split)
            alike, other = index.nearest(sketch, lambda number, mine=mine: held[number][0] > mine)  # type: ignore[misc]
            if other is not None:
                remarks.say(at, f"{alike:.2f} like {held[other][1]}")
            found.append({"near": alike})
        return found

    return read


def _benchmarks(known: near.Known, remarks: Remarks) -> Reader:
    def read(start: int, part: list[Query]) -> list[dict[str, float]]:
        found = [known.nearest(_asked(row)) for row in part]
        for at, (alike, place) in enumerate(found, start):
            if place is not None:
                remarks.say(at, f"{alike:.2f} like {place}")
        return [{"benchmark": alike} for alike, _ in found]

    return read


def _languages(expected: tuple[str, ...]) -> Reader:
    verdict = language.reader(expected)

    def read(_: int, rows: list[Query]) -> list[dict[str, float]]:
        said = [verdict(_asked(row)) for row in rows]
        return [{"foreign": word == "foreign", "unsure": word == "unsure"} for word in said]

    return read
