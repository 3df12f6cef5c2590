"""MedMCQA (Pal et al., CHIL 2022): four options, one of them right.

train, dev and test as .jsonl or .json, one object per line:

    {"question": "Which gland makes comet hormone?", "opa": "Thyroid", "opb": "Cometary gland",
     "opc": "Pancreas", "opd": "Thymus", "cop": 2, "choice_type": "single",
     "exp": "Ans. b. Cometary gland. The cells of its rim make comet hormone and store it.",
     "subject_name": "Physiology", "topic_name": null, "id": "an-id"}

`cop` is the number of the right option: it counts from 1 here, and from 0 in the hub's Parquet
copy (see the setting `first`). The published test rows have none and are left out: the report is on
dev, or on a part of train, drawn by digest, if only one file is there. Accuracy and macro F1 are
published for it.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from cowest.config import Config
from cowest.domains import drafts, published
from cowest.prompts import Prompts
from cowest.raw.intake import Intake, Unfit, build
from cowest.records import Demonstration, Message, Query
from cowest.sametext import keywords
from cowest.scorers import AnyScorer
from cowest.scorers.choice import ChoiceConfig

OPTIONS = ("opa", "opb", "opc", "opd")
VERDICT = re.compile(
    r"\W*(?:correct\s+)?ans(?:wer)?\b(?:\s+is\b)?\W*+(?:option\s++\W*+)?"
    r"(?:[a-d]\b|(?-i:[A-D](?=[A-Z][a-z])))(?:\W*i\.e\.)?[\s.,:;)\]-]*",
    re.IGNORECASE,
)
"""The verdict that explanations begin with: `Ans. b. `, `Answer- C. `, `Ans: C i.e. `,
`Ans. CThe ...`."""
LETTER = re.compile(
    r"\bans(?:wer)?\b\W*+(?:(?:is|will be)\W*+)?(?:option\s++)?[a-d]\b", re.IGNORECASE
)
FEW = 5
"""Number of words that an explanation has at least, if it explains anything."""


class MedMCQA(Config):
    """Medical entrance questions."""

    domain: Literal["medmcqa"] = "medmcqa"
    draft: drafts.DraftFormat = "chain_of_thought"
    """The contents of a draft: direct (the option), knowledge (the explanation) or chain_of_thought
    (both). Use direct if your copy has no explanations."""
    first: Literal[0, 1] = 1
    """The number of the first option in `cop`: 1 as published; set 0 for the copy on the Hugging
    Face hub."""

    @property
    def prompts(self) -> Prompts:
        """The prompts of all models."""
        return drafts.prompts(
            self.draft,
            answer="the letter of one option",
            knowledge="State the medical facts that decide this question.",
        )

    @property
    def scorer(self) -> AnyScorer:
        """The scorer of multiple choice."""
        return ChoiceConfig(rule=2)

    def rows(self, raw: Path, intake: Intake) -> Iterator[Query | Demonstration]:
        """Queries and corpus in one pass."""
        return published.taught(self._queries(raw, intake), raw, "exp")

    def load(self, raw: Path, intake: Intake | None = None) -> Iterator[Query]:
        """The questions of all splits, tagged by subject and by single or multi.

        Near copies, which have the same words, are of one group.
        """
        return self._queries(raw, intake or Intake())

    def corpus(self, raw: Path) -> Iterator[Demonstration]:
        """The explanations and answers of train, in the format of a draft."""
        return published.demonstrations(self.rows(raw, Intake()))

    def _queries(self, raw: Path, intake: Intake) -> Iterator[Query]:
        return published.queries(raw, {"question", *OPTIONS}, _keys, self._query, intake)

    def _query(self, row: published.SplitRow) -> Query:
        right = self._right(row)
        letter = "ABCD"[right]
        choices = tuple(row.fields[option].strip() for option in OPTIONS)
        lines = [row.fields["question"].strip()]
        lines += [f"{name}. {choice}" for name, choice in zip("ABCD", choices, strict=True)]
        knowledge = explanation(row.fields.get("exp"), choices[right])
        tags = (row.fields.get("subject_name"), row.fields.get("choice_type"))
        return build(
            Query,
            group=row.group,
            split=row.split,
            prompt=(Message(role="user", content="\n".join(lines)),),
            targets=(choices[right],),
            choices=choices,
            ideal=drafts.best(self.draft, f"{letter}. {choices[right]}", knowledge),
            tags=tuple(tag for tag in tags if isinstance(tag, str) and tag),
            source=row.where,
        )

    def _right(self, row: published.SplitRow) -> int:
        """The number of the right option, from 0. Raises Unlabelled and Unfit."""
        said, first = row.fields.get("cop"), self.first
        if row.split == "test" and said in (None, -1):
            raise published.Unlabelled("of test, without an answer as published")
        last = first + len(OPTIONS) - 1
        # `True` is an int to Python, and no number of an option.
        if type(said) is not int or not first <= said <= last:
            hint = " (does this copy count from 0? then set prepare.first)" if said == 0 else ""
            raise Unfit(f"cop: expected the number of the right option, {first} to {last}{hint}")
        return said - first


def explanation(text: Any, right: str) -> str | None:
    """An explanation without the verdict that it begins with.

    None if little else is left, or if the rest names a letter, which would give the answer away.
    """
    if not isinstance(text, str):
        return None
    rest = text
    verdict = VERDICT.match(text)
    if verdict is not None:
        rest = text[verdict.end() :].removeprefix(right)
    rest = rest.strip(" .,:;)]\n\t")
    if len(rest.split()) < FEW or LETTER.search(rest):
        return None
    return rest


def _keys(row: dict[str, Any]) -> list[str]:
    """The group and the one text that other rows may share: both are the words of the question."""
    words = keywords(row["question"], " ".join(row[option] for option in OPTIONS))
    return [words, words]
