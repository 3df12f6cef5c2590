"""MedMCQA (Pal et al., CHIL 2022): four options, one of them right. train, dev and test as .jsonl or .json, one object a line:

    {"question": "Which gland makes comet hormone?", "opa": "Thyroid", "opb": "Cometary gland", "opc": "Pancreas", "opd": "Thymus",
     "cop": 2, "exp": "Ans. b. Cometary gland. The cells of its rim make comet hormone and store it.", "subject_name": "Physiology",
     "topic_name": null, "id": "an-id", "choice_type": "single"}

`cop` counts from 1 here, and from 0 in the hub's Parquet copy: `first` says which. The published test rows have none and are left out:
dev is what is reported on, or a part of train by digest where only one file is there. Accuracy and macro F1 are published for it.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from cowest.config import Config
from cowest.domains import drafts, published
from cowest.prompts import Prompts
from cowest.raw import tables
from cowest.raw.intake import Intake, Unfit
from cowest.records import Demonstration, Message, Query
from cowest.scorers import AnyScorer
from cowest.scorers.choice import ChoiceConfig

OPTIONS = ("opa", "opb", "opc", "opd")
VERDICT = re.compile(
    r"\W*(?:correct\s+)?ans(?:wer)?\b(?:\s+is\b)?\W*(?:option\s+)?\W*(?:[a-d]\b|(?-i:[A-D](?=[A-Z][a-z])))(?:\W*i\.e\.)?[\s.,:;)\]-]*",
    re.IGNORECASE,
)
"""How explanations begin: `Ans. b. `, `Answer- C. `, `Ans: C i.e. `, `Ans. CThe ...`."""
LETTER = re.compile(r"\bans(?:wer)?\b\W*(?:is|will be)?\W*(?:option\s+)?[a-d]\b", re.IGNORECASE)
FEW = 5
"""Words of an explanation that explains something, at least."""


class MedMCQA(Config):
    """Medical entrance questions."""

    domain: Literal["medmcqa"] = "medmcqa"
    draft: drafts.DraftFormat = "chain_of_thought"
    """What a draft says; the knowledge is the explanation."""
    first: Literal[0, 1] = 1
    """The number of the first option in `cop`: 1 as published, 0 in the copy on the Hugging Face hub."""

    @property
    def prompts(self) -> Prompts:
        """What each model is asked."""
        return drafts.prompts(
            self.draft,
            answer="the letter of one option",
            knowledge="State the medical facts that decide this question.",
        )

    @property
    def scorer(self) -> AnyScorer:
        """The one that fits."""
        return ChoiceConfig()

    def rows(self, raw: Path, intake: Intake) -> Iterator[Query | Demonstration]:
        """Queries and corpus in one pass."""
        return published.taught(self._queries(raw, intake), raw, "exp")

    def load(self, raw: Path, intake: Intake | None = None) -> Iterator[Query]:
        """The questions of all splits; near copies (the same words) are of one group. Tags: subject, and single or multi."""
        return self._queries(raw, intake or Intake())

    def corpus(self, raw: Path) -> Iterator[Demonstration]:
        """The explanations and answers of train, in the format of a draft."""
        return published.demonstrations(self.rows(raw, Intake()))

    def _queries(self, raw: Path, intake: Intake) -> Iterator[Query]:
        return published.queries(raw, {"question", *OPTIONS}, _keys, self._query, intake)

    def _query(self, row: published.Row) -> Query:
        said, first = row.fields.get("cop"), self.first
        if row.split == "test" and said in (None, -1):
            raise published.Unlabelled("of test, without an answer as published")
        if type(said) is not int or not first <= said < first + len(OPTIONS):
            hint = " (does this copy count from 0? then set prepare.first)" if said == 0 else ""
            raise Unfit(
                f"cop: expected the number of the right option, {first} to {first + len(OPTIONS) - 1}{hint}"
            )
        right = said - first + 1
        choices = tuple(row.fields[option].strip() for option in OPTIONS)
        lines = [
            row.fields["question"].strip(),
            *(f"{letter}. {choice}" for letter, choice in zip("ABCD", choices, strict=True)),
        ]
        told = (row.fields.get("subject_name"), row.fields.get("choice_type"))
        knowledge = explanation(row.fields.get("exp"), choices[right - 1])
        return tables.build(
            Query, group=row.group, split=row.split, prompt=(Message(role="user", content="\n".join(lines)),),
            targets=(choices[right - 1],), choices=choices,
            ideal=drafts.best(self.draft, f"{'ABCD'[right - 1]}. {choices[right - 1]}", knowledge),
            tags=tuple(tag for tag in told if isinstance(tag, str) and tag), source=row.where,
        )  # fmt: skip


def explanation(text: Any, right: str) -> str | None:
    """What an explanation explains, its verdict taken off; None where it says little else, or goes on to name a letter."""
    if not isinstance(text, str):
        return None
    verdict = VERDICT.match(text)
    rest = text[verdict.end() :].removeprefix(right) if verdict else text
    rest = rest.strip(" .,:;)]\n\t")
    return rest if len(rest.split()) >= FEW and not LETTER.search(rest) else None


def _keys(row: dict[str, Any]) -> list[str]:
    return [published.same(row["question"], " ".join(row[option] for option in OPTIONS))] * 2
