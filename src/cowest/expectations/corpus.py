"""Rules for the corpus, before the policy learns it.

They hold out of the corpus what the rules for queries hold out of the queries, and everything that
is asked in the held-out splits.
"""

from pathlib import Path
from string import ascii_uppercase
from typing import Any, Literal

from pydantic import Field

from cowest import io
from cowest.batched import batched
from cowest.config import Config
from cowest.detectors import Finding
from cowest.expectations import language, near, private
from cowest.expectations.columns import AT_ONCE, Columns, number
from cowest.expectations.queries import QuerySuite
from cowest.expectations.rules import Remarks, Rule, Seen, Severity, graded, share_left
from cowest.records import Demonstration, Query

INHERITED = ("language", "personal", "secrets")
"""Rules whose severities among the queries hold for the corpus too."""


class CorpusSuite(Config):
    """Settings and rules of the corpus."""

    kind: Literal["corpus"]
    queries: QuerySuite
    """The contract of the queries, `validate.queries`: its `near`, `languages` and `private` hold
    for the corpus too."""
    max_aside: float = Field(default=0.5, ge=0, lt=1)
    """Largest share of rows that may be set aside."""
    severity: dict[str, Severity] = Field(default={})
    """Severities by the name of the rule: fail, aside or note, instead of the default."""

    def model_post_init(self, _: Any) -> None:
        self.rules()

    def rules(self) -> list[Rule]:
        """The rules; their columns are those of `see` and `whole`."""
        copy = ""
        if self.queries.near is not None:
            copy = f", and no near copy of one (similarity {self.queries.near:g} or more)"
        rules = [
            Rule(
                "query",
                "the query of its raw row was not set aside",
                "a row that is unfit as a query must not be learned either",
                "aside",
                "unfit",
                high=0,
            ),
            Rule(
                "held_out",
                f"it asks no held-out question, whatever the case and spacing{copy}",
                "a held-out question must not be learned with its answer: take it out of the "
                "corpus; where questions are similar by design, set near: null among the queries",
                "aside",
                "held_out",
                high=0,
            ),
        ]
        if self.queries.languages is not None:
            rules.append(
                Rule(
                    "language",
                    f"it is in {' or '.join(self.queries.languages)}",
                    "leave it out, or add its language to `languages` of the queries",
                    "aside",
                    "foreign",
                    high=0,
                )
            )
        rules += self.queries.private.rules("it")
        rules.append(share_left(self.max_aside))
        severity = {}
        for name, value in self.queries.severity.items():
            if name in INHERITED:
                severity[name] = value
        return graded(rules, severity | self.severity)

    def see(self, rows: io.Paths, against: Path) -> Seen:
        """Derives the frame of a corpus; `against` are the turn's fit queries.

        Raises RecordError.
        """
        fit, held = known(against, self.queries.near)
        kept = Columns(unfit="b", held_out="f", foreign="b", personal="h", secrets="h", chars="i")
        remarks, changed = Remarks(), set[int]()
        verdict = None
        if self.queries.languages is not None:
            verdict = language.reader(self.queries.languages)
        for at, row in enumerate(io.read(rows, Demonstration)):
            found = self.queries.private.found(private.demonstration_texts(row))
            kinds = private.remark(found)
            if kinds:
                remarks.say(at, kinds)
            # Masked first: the fit queries, with which the row is compared, are masked too.
            if any(self.queries.private.masks(found)):
                row = self._masked(row, found)
                changed.add(at)
            asked = _asked(row)
            alike, place = held.nearest(asked, row.completion)
            if place is not None:
                remarks.say(at, f"{alike:.2f} like {place}")
            kept.add(
                unfit=row.of_query and number(row.source) not in fit,
                held_out=alike,
                foreign=verdict is not None and verdict(f"{asked}\n{row.completion}") == "foreign",
                chars=len(row.completion),
                **private.counted(found),
            )
        return Seen(kept.frame(), remarks, changed, self._change)

    def _masked(self, row: Demonstration, found: list[list[Finding]]) -> Demonstration:
        return private.masked_demonstration(row, self.queries.private.masks(found))

    def _change(self, line: bytes) -> bytes:
        """Masks a row on its way out."""
        row = Demonstration.model_validate_json(line)
        found = self.queries.private.found(private.demonstration_texts(row))
        return self._masked(row, found).model_dump_json().encode()

    def whole(self, left: Any, seen: Seen) -> dict[str, float | None]:
        """Numbers of the rows that are left, for the rules about the whole."""
        return {"left": seen.share(left)}

    def facts(self, left: Any, seen: Seen) -> dict[str, str]:
        """Numbers for the page, in words."""
        found = {"what the policy learns": f"{len(left)} demonstrations"}
        if len(left):
            middle, most = left["chars"].median(), left["chars"].max()
            found["characters of a completion"] = f"median {middle:.0f}, at most {most}"
        return found


def known(path: Path, least: float | None) -> tuple[set[int], near.Known]:
    """Returns numbers of the raw rows of the queries of `train`, and the held-out questions.

    Of a held-out question all of it is known, and what is left without its options and the lines
    that all held-out questions have. What shows no options is known with them.
    """
    template = _template(path)
    fit, held = set[int](), near.Known(least)
    at = 0
    for part in batched(io.read(path, Query), AT_ONCE):
        asked, bare = [], []
        of_asked: list[tuple[str, ...]] = []
        of_bare: list[tuple[str, ...]] = []
        for row in part:
            at += 1
            if row.split == "train":
                fit.add(number(row.source))
                continue
            place, question = f"{path}:{at}", _asked(row)
            asked.append((place, question))
            without = _bare(row, template)
            of_asked.append(row.choices if without == question else ())
            if without not in ("", question):
                bare.append((place, without))
                of_bare.append(row.choices)
        held.add(asked, of_asked)
        held.add(bare, of_bare)
    return fit, held


def _template(path: Path) -> set[str]:
    """The lines that all held-out queries have in common."""
    common: set[str] | None = None
    for _, _, row in io.held_out(path):
        lines = set(_asked(row).splitlines())
        common = lines if common is None else common & lines
    return common or set()


def _bare(row: Query, template: set[str]) -> str:
    """The question without its options and without the template: as a customer would ask it."""
    left_out = template | set(row.choices)
    for letter, choice in zip(ascii_uppercase, row.choices, strict=False):
        left_out.add(f"{letter}. {choice}")
    lines = [line for line in _asked(row).splitlines() if line.strip() and line not in left_out]
    return "\n".join(lines)


def _asked(row: Query | Demonstration) -> str:
    return "\n".join(message.content for message in row.prompt if message.role != "system")
