"""What the corpus must meet, before the policy learns it: what its row's query had to, and nothing of what is held out."""

from pathlib import Path
from string import ascii_uppercase
from typing import Any, Literal

from pydantic import Field

from cowest import io
from cowest.config import Config
from cowest.detectors import Finding
from cowest.expectations import language, near, private
from cowest.expectations.columns import Columns, number, parts
from cowest.expectations.queries import QuerySuite
from cowest.expectations.rules import Remarks, Rule, Seen, Severity, graded, share_left
from cowest.records import Demonstration, Query


class CorpusSuite(Config):
    """What the corpus must meet."""

    kind: Literal["corpus"]
    queries: QuerySuite
    """The contract of the queries, `validate.queries`: its `near`, `languages` and `private` hold for the corpus too."""
    max_aside: float = Field(default=0.5, ge=0, lt=1)
    """The share of rows that may be set aside."""
    severity: dict[str, Severity] = Field(default={})
    """By a rule's name: fail, aside or note, in place of its default."""

    def model_post_init(self, _: Any) -> None:
        self.rules()

    def rules(self) -> list[Rule]:
        """The suite; columns are those of `see` and `whole`."""
        least = self.queries.near
        nearly = "" if least is None else f", nor as much as {least:g} like one"
        rules = [
            _aside("query", "its row's query was not set aside", "what no query may say is not to be learned", "unfit", 0),
            _aside(
                "held_out", f"what it asks is no held-out question, whatever its case and spacing{nearly}",
                "a held-out question must not be learned with its answer: take it out of the corpus; where questions are near by design, "
                "set near: null among the queries",
                "held_out", 0,
            ),
        ]  # fmt: skip
        if self.queries.languages is not None:
            says = f"it is in {' or '.join(self.queries.languages)}"
            rules.append(
                _aside(
                    "language",
                    says,
                    "leave it out, or add its language to `languages` of the queries",
                    "foreign",
                    0,
                )
            )
        inherited = {
            name: severity
            for name, severity in self.queries.severity.items()
            if name in ("language", "personal", "secrets")
        }
        return graded(
            [*rules, *self.queries.private.rules("it"), share_left(self.max_aside)],
            inherited | self.severity,
        )

    def see(self, rows: io.Paths, against: Path) -> Seen:
        """The frame of a corpus; `against` are the turn's queries, those that are fit. Raises RecordError."""
        fit, held = _queries(against, self.queries.near)
        kept = Columns(unfit="b", held_out="f", foreign="b", personal="h", secrets="h", chars="i")
        remarks, changed = Remarks(), set()
        verdict = (
            language.reader(self.queries.languages) if self.queries.languages is not None else None
        )
        for at, row in enumerate(io.read(rows, Demonstration)):
            found = self.queries.private.found(private.demonstration_texts(row))
            if kinds := private.remark(found):
                remarks.say(at, kinds)
            if any(self.queries.private.masks(found)):
                row = self._masked(row, found)
                changed.add(at)
            asked = _asked(row)
            alike, place = held.nearest(asked)
            if place is not None:
                remarks.say(at, f"{alike:.2f} like {place}")
            kept.add(
                unfit=row.of_query and number(row.source) not in fit, held_out=alike,
                foreign=verdict is not None and verdict(f"{asked}\n{row.completion}") == "foreign",
                chars=len(row.completion), **private.counted(found),
            )  # fmt: skip
        return Seen(kept.frame(), remarks, changed, self._changed)

    def _masked(self, row: Demonstration, found: list[list[Finding]]) -> Demonstration:
        return private.masked_demonstration(row, self.queries.private.masks(found))

    def _changed(self, line: bytes) -> bytes:
        """A row that is masked, as it goes out."""
        row = Demonstration.model_validate_json(line)
        return (
            self._masked(row, self.queries.private.found(private.demonstration_texts(row)))
            .model_dump_json()
            .encode()
        )

    def whole(self, left: Any, seen: Seen) -> dict[str, float | None]:
        """What there is to say of the rows that are left."""
        return {"left": seen.share(left)}

    def facts(self, left: Any, seen: Seen) -> dict[str, str]:
        """Numbers for the page, in words."""
        found = {"what the policy learns": f"{len(left)} demonstrations"}
        if len(left):
            found["characters of a completion"] = (
                f"{left['chars'].median():.0f} in the middle, {left['chars'].max()} at most"
            )
        return found


def _queries(path: Path, least: float | None) -> tuple[set[int], near.Known]:
    """The rows that the queries of train come from, and what is held out."""
    fit, held = set[int](), near.Known(least)
    template: set[str] | None = None
    for _, _, row in io.held_out(path):
        said = set(_asked(row).splitlines())
        template = said if template is None else template & said
    for part in parts((f"{path}:{at}", row) for at, row in enumerate(io.read(path, Query), 1)):
        fit |= {number(row.source) for _, row in part if row.split == "train"}
        out = [(place, row) for place, row in part if row.split != "train"]
        held.add([place for place, _ in out], [_asked(row) for _, row in out])
        bare = [
            (place, text)
            for place, row in out
            if (text := _bare(row, template or set())) not in ("", _asked(row))
        ]
        held.add([place for place, _ in bare], [text for _, text in bare])
    return fit, held


def _bare(row: Query, template: set[str]) -> str:
    """What a query asks without its options and what all held-out queries say: as a customer would ask it."""
    options = {
        *row.choices,
        *(f"{ascii_uppercase[at]}. {choice}" for at, choice in enumerate(row.choices[:26])),
    }
    return "\n".join(
        line for line in _asked(row).splitlines() if line.strip() and line not in template | options
    )


def _asked(row: Query | Demonstration) -> str:
    return "\n".join(message.content for message in row.prompt if message.role != "system")


def _aside(name: str, says: str, mend: str, column: str, high: float) -> Rule:
    return Rule(name, says, mend, "aside", column, 0, high)
