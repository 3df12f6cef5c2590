"""Personal data and secrets in rows: reported, masked or refused. What is found is named by its kind; what it says is shown nowhere."""

from collections.abc import Sequence
from typing import Literal

from cowest import detectors
from cowest.config import Config, digest
from cowest.detectors import Detection, Finding
from cowest.expectations.rules import Rule, Severity
from cowest.records import Demonstration, Message, PreferencePair, Query

Handling = Literal["report", "mask", "refuse"]
"""report: the page names the rows, which stay as they are; mask: [EMAIL_1] stands in its place; refuse: the row is set aside."""
SEVERITIES: dict[Handling, Severity] = {"report": "note", "mask": "note", "refuse": "aside"}
BETWEEN = "\n| |\n"
"""What parts texts that are looked at together: part of nothing that is looked for."""
SECRET = "secret"  # noqa: S105 (a kind of finding)


class Private(Config):
    """What is done with personal data and secrets."""

    personal: Handling | None = "report"
    """E-mail addresses, phone, card and account numbers, national ids, one's own terms; null: not looked for."""
    secrets: Handling | None = "report"
    """Keys, tokens, passwords; null: not looked for."""
    detection: Detection = Detection()
    """What is looked for, and how."""

    def rules(self, what: str) -> list[Rule]:
        """The rules of these settings; columns are `personal` and `secrets`."""
        return [
            Rule(
                name, f"{what} holds no {words}",
                "a placeholder stands in its place" if handling == "mask" else f"see what it is; private.{name} masks or refuses it",
                SEVERITIES[handling], name, high=0,
            )
            for name, words, handling in (
                ("personal", "personal data", self.personal), ("secrets", "key or password", self.secrets),
            )
            if handling is not None
        ]  # fmt: skip

    def found(self, texts: Sequence[str]) -> list[list[Finding]]:
        """What is in each text, of what is looked for."""
        wanted = {"personal": self.personal, "secrets": self.secrets}
        if not any(wanted.values()) or not detectors.find(
            BETWEEN.join(texts), self.detection
        ):  # most rows: all their texts at once
            return [[] for _ in texts]
        return [
            [one for one in detectors.find(text, self.detection) if wanted[_rule(one)] is not None]
            for text in texts
        ]

    def masks(self, found: Sequence[Sequence[Finding]]) -> list[list[Finding]]:
        """Those of the findings that are to be masked."""
        wanted = {"personal": self.personal, "secrets": self.secrets}
        return [[one for one in its if wanted[_rule(one)] == "mask"] for its in found]


def counted(found: Sequence[Sequence[Finding]]) -> dict[str, float]:
    """Columns of a row."""
    said = [_rule(one) for its in found for one in its]
    return {name: min(said.count(name), 1000) for name in ("personal", "secrets")}


def remark(found: Sequence[Sequence[Finding]]) -> str:
    """The kinds of what was found, in words."""
    return ", ".join(dict.fromkeys(one.kind.replace("_", " ") for its in found for one in its))


def _rule(finding: Finding) -> str:
    return "secrets" if finding.kind == SECRET else "personal"


def query_texts(row: Query) -> list[str]:
    """What a query says, everywhere; its group last."""
    said = [*(message.content for message in row.prompt), *row.targets, *row.choices, *row.tags]
    return [*said, *([row.ideal] if row.ideal is not None else []), row.group]


def masked_query(row: Query, found: Sequence[Sequence[Finding]]) -> Query:
    """A query with placeholders for these findings in its texts, one for each value. It is another query, and its id is new.

    A group is named by its digest instead, so that groups stay apart.
    """
    texts = iter(detectors.mask_all(query_texts(row), found)[0])
    prompt = tuple(Message(role=message.role, content=next(texts)) for message in row.prompt)
    targets, choices, tags = (
        tuple(next(texts) for _ in those) for those in (row.targets, row.choices, row.tags)
    )
    ideal = next(texts) if row.ideal is not None else None
    group = f"g{digest(row.group)[:16]}" if found[-1] else row.group
    return Query(
        prompt=prompt, targets=targets, choices=choices, tags=tags, ideal=ideal, group=group, split=row.split, source=row.source
    )  # fmt: skip


def demonstration_texts(row: Demonstration) -> list[str]:
    """What a demonstration says, everywhere."""
    return [*(message.content for message in row.prompt), row.completion]


def masked_demonstration(row: Demonstration, found: Sequence[Sequence[Finding]]) -> Demonstration:
    """A demonstration with placeholders for these findings in its texts."""
    *said, completion = detectors.mask_all(demonstration_texts(row), found)[0]
    prompt = tuple(
        Message(role=message.role, content=text)
        for message, text in zip(row.prompt, said, strict=True)
    )
    return row.model_copy(update={"prompt": prompt, "completion": completion})


def pair_texts(row: PreferencePair) -> list[str]:
    """What a pair says, everywhere."""
    return [
        message.content
        for messages in (row.prompt, row.chosen, row.rejected)
        for message in messages
    ]


def masked_pair(row: PreferencePair, found: Sequence[Sequence[Finding]]) -> PreferencePair:
    """A pair with placeholders for these findings in its texts."""
    texts = iter(detectors.mask_all(pair_texts(row), found)[0])
    prompt, chosen, rejected = (
        tuple(Message(role=message.role, content=next(texts)) for message in messages)
        for messages in (row.prompt, row.chosen, row.rejected)
    )
    name = digest([row.query, *(message.content for message in (*chosen, *rejected))])[:20]
    return row.model_copy(
        update={"id": name, "prompt": prompt, "chosen": chosen, "rejected": rejected}
    )
