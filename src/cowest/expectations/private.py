"""Personal data and secrets in rows: reported, masked or refused.

A finding is named by its kind. The data themselves are shown nowhere.
"""

from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Literal, TypeVar

from cowest import detectors
from cowest.config import Config, digest
from cowest.detectors import Detection, Finding
from cowest.detectors.plain import BETWEEN
from cowest.expectations.rules import Rule, Severity
from cowest.records import Demonstration, Message, PreferencePair, Query, with_contents

T = TypeVar("T")
Texts = dict[str, list[str]]
"""The texts of a row by the field that holds them."""
Handling = Literal["report", "mask", "refuse"]
"""report: the page names the rows, which stay as they are; mask: a placeholder such as [EMAIL_1]
replaces the finding; refuse: the row is set aside."""
SEVERITIES: dict[Handling, Severity] = {"report": "note", "mask": "note", "refuse": "aside"}
SECRET = "secret"  # noqa: S105 (a kind of finding)
MOST = 1000
"""Findings of a row that are counted."""


class Private(Config):
    """Handling of personal data and secrets."""

    personal: Handling | None = "report"
    """E-mail addresses, phone, card and account numbers, national ids, and your own terms; null
    does not look for them."""
    secrets: Handling | None = "report"
    """Keys, tokens and passwords; null does not look for them."""
    detection: Detection = Detection()
    """Settings of the detectors."""

    def rules(self, what: str) -> list[Rule]:
        """Returns the rules of these settings; their columns are `personal` and `secrets`."""
        rules = []
        for name, words in (("personal", "personal data"), ("secrets", "key or password")):
            handling = self._handling(name)
            if handling is None:
                continue
            mend = f"see what it is; private.{name} masks or refuses it"
            if handling == "mask":
                mend = "a placeholder stands in its place"
            says = f"{what} holds no {words}"
            rules.append(Rule(name, says, mend, SEVERITIES[handling], name, high=0))
        return rules

    def found(self, texts: Sequence[str]) -> list[list[Finding]]:
        """Returns the findings in each text, of the kinds that are looked for."""
        # Most rows hold nothing private. Such a row takes one search, of all its texts at once.
        if self.personal is None and self.secrets is None:
            return [[] for _ in texts]
        if not detectors.find(BETWEEN.join(texts), self.detection):
            return [[] for _ in texts]
        found = []
        search = partial(detectors.find, config=self.detection)
        for all_of_it in detectors.find_together(texts, search):
            found.append([one for one in all_of_it if self._handling(_rule(one)) is not None])
        return found

    def masks(self, found: Sequence[Sequence[Finding]]) -> list[list[Finding]]:
        """Returns the findings that are to be masked."""
        masks = []
        for findings in found:
            masks.append([one for one in findings if self._handling(_rule(one)) == "mask"])
        return masks

    def _handling(self, rule: str) -> Handling | None:
        return self.secrets if rule == "secrets" else self.personal


def counted(found: Sequence[Sequence[Finding]]) -> dict[str, float]:
    """Returns the columns of a row: the number of findings of each rule."""
    counts: dict[str, float] = {"personal": 0, "secrets": 0}
    for findings in found:
        for one in findings:
            counts[_rule(one)] += 1
    return {rule: min(count, MOST) for rule, count in counts.items()}


def remark(found: Sequence[Sequence[Finding]]) -> str:
    """Names the kinds of the findings, each once."""
    kinds: list[str] = []
    for findings in found:
        for one in findings:
            kind = one.kind.replace("_", " ")
            if kind not in kinds:
                kinds.append(kind)
    return ", ".join(kinds)


def _rule(finding: Finding) -> str:
    return "secrets" if finding.kind == SECRET else "personal"


def query_texts(row: Query) -> list[str]:
    """Returns all texts of a query."""
    return in_order(_of_query(row))


def masked_query(row: Query, found: Sequence[Sequence[Finding]]) -> Query:
    """Returns a query with placeholders for these findings in its texts, one per value.

    It is another query, with a new id. The name of a group with a finding becomes a digest, and so
    does a finding in a tag: placeholders are numbered row by row, and groups and slices must stay
    apart.
    """
    fields = _of_query(row)
    texts = _masked(fields, found)
    found_in = by_field(fields, found)
    tags = [_digested(tag, its) for tag, its in zip(row.tags, found_in["tags"], strict=True)]
    in_group = any(found_in["group"])
    return Query(
        prompt=with_contents(row.prompt, texts["prompt"]),
        targets=tuple(texts["targets"]),
        choices=tuple(texts["choices"]),
        tags=tuple(tags),
        ideal=None if row.ideal is None else texts["ideal"][0],
        group=f"g{digest(row.group)[:16]}" if in_group else row.group,
        split=row.split,
        source=row.source,
    )


def _digested(text: str, found: Sequence[Finding]) -> str:
    """Returns a text with a digest for each of these findings."""
    parts = []
    end = 0
    for one in found:
        parts.append(f"{text[end : one.start]}{one.kind} {digest(text[one.start : one.end])[:16]}")
        end = one.end
    return "".join([*parts, text[end:]])


def _of_query(row: Query) -> Texts:
    return {
        "prompt": _contents(row.prompt),
        "targets": list(row.targets),
        "choices": list(row.choices),
        "tags": list(row.tags),
        "ideal": [] if row.ideal is None else [row.ideal],
        "group": [row.group],
    }


def demonstration_texts(row: Demonstration) -> list[str]:
    """Returns all texts of a demonstration."""
    return in_order(_of_demonstration(row))


def masked_demonstration(row: Demonstration, found: Sequence[Sequence[Finding]]) -> Demonstration:
    """Returns a demonstration with placeholders for these findings in its texts."""
    texts = _masked(_of_demonstration(row), found)
    prompt = with_contents(row.prompt, texts["prompt"])
    return row.model_copy(update={"prompt": prompt, "completion": texts["completion"][0]})


def _of_demonstration(row: Demonstration) -> Texts:
    return {"prompt": _contents(row.prompt), "completion": [row.completion]}


def pair_texts(row: PreferencePair) -> list[str]:
    """Returns all texts of a pair."""
    return in_order(_of_pair(row))


def masked_pair(row: PreferencePair, found: Sequence[Sequence[Finding]]) -> PreferencePair:
    """Returns a pair with placeholders for these findings in its texts. Its id is new."""
    texts = _masked(_of_pair(row), found)
    fields = {
        "id": digest([row.query, *texts["chosen"], *texts["rejected"]])[:20],
        "prompt": with_contents(row.prompt, texts["prompt"]),
        "chosen": with_contents(row.chosen, texts["chosen"]),
        "rejected": with_contents(row.rejected, texts["rejected"]),
    }
    return row.model_copy(update=fields)


def _of_pair(row: PreferencePair) -> Texts:
    return {
        "prompt": _contents(row.prompt),
        "chosen": _contents(row.chosen),
        "rejected": _contents(row.rejected),
    }


def _contents(messages: Sequence[Message]) -> list[str]:
    return [message.content for message in messages]


def in_order(fields: Texts) -> list[str]:
    """Returns all texts of a row, field by field."""
    found = []
    for texts in fields.values():
        found += texts
    return found


def _masked(fields: Texts, found: Sequence[Sequence[Finding]]) -> Texts:
    """Masks all texts of a row together, so that a value has one placeholder in all fields."""
    masked, _ = detectors.mask_all(in_order(fields), found)
    return by_field(fields, masked)


def by_field(fields: Texts, items: Sequence[T]) -> dict[str, list[T]]:
    """Returns one item per text, in the texts' order, by the field of the text."""
    # This is the only place where the order of the texts matters.
    rest = iter(items)
    return {name: list(islice(rest, len(texts))) for name, texts in fields.items()}
