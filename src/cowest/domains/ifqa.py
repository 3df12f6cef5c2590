"""IfQA (Yu et al., EMNLP 2023): questions on what would be if, with the passages they rest on. train.json, dev.json, test.json:

    [{"idx": 0, "question": "If the Comet bridge had opened two years later, in which year would it have opened?",
      "answers": ["1962", "in 1962"], "context": ["The Comet bridge is a bridge in Oslo that opened in 1960."]}]

Exact match and token F1 are published for it, best over the answers. Rows that share a question or a passage are of one split.
"""

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
from cowest.scorers.token_f1 import TokenF1Config


class IfQA(Config):
    """Counterfactual questions."""

    domain: Literal["ifqa"] = "ifqa"
    draft: drafts.DraftFormat = "chain_of_thought"
    """What a draft says; the knowledge is the passage."""
    passage: bool = False
    """Show both models the passage that the answer rests on, before the question."""

    @property
    def prompts(self) -> Prompts:
        """What each model is asked."""
        return drafts.prompts(
            self.draft,
            answer="the answer in as few words as possible",
            knowledge="State the facts that the answer to this question rests on.",
        )

    @property
    def scorer(self) -> AnyScorer:
        """The one that fits; `exact_match` is the other."""
        return TokenF1Config(marker=drafts.MARKER)

    def rows(self, raw: Path, intake: Intake) -> Iterator[Query | Demonstration]:
        """Queries and corpus in one pass."""
        return published.taught(self._queries(raw, intake), raw, "context")

    def load(self, raw: Path, intake: Intake | None = None) -> Iterator[Query]:
        """The questions of all splits, grouped by their first passage."""
        return self._queries(raw, intake or Intake())

    def corpus(self, raw: Path) -> Iterator[Demonstration]:
        """The passages and answers of train, in the format of a draft."""
        return published.demonstrations(self.rows(raw, Intake()))

    def _queries(self, raw: Path, intake: Intake) -> Iterator[Query]:
        return published.queries(raw, {"question"}, _keys, self._query, intake)

    def _query(self, row: published.Row) -> Query:
        for field in ("answers", "context"):
            _texts(row.fields, field)
        passage, question = "\n\n".join(row.fields["context"]), row.fields["question"].strip()
        asked = f"{passage}\n\nQuestion: {question}" if self.passage else question
        return tables.build(
            Query, group=row.group, split=row.split, prompt=(Message(role="user", content=asked),), targets=tuple(row.fields["answers"]),
            ideal=drafts.best(self.draft, row.fields["answers"][0], passage), source=row.where,
        )  # fmt: skip


def _keys(row: dict[str, Any]) -> list[str]:
    passages = row.get("context")
    texts = (
        [text for text in passages if isinstance(text, str)] if isinstance(passages, list) else []
    )
    question = published.same(row["question"])
    return [(texts or [question])[0], *texts, question]


def _texts(row: dict[str, Any], field: str) -> None:
    found = row.get(field)
    if (
        not isinstance(found, list)
        or not found
        or not all(isinstance(text, str) and text.strip() for text in found)
    ):
        raise Unfit(f"{field}: expected a list of texts, and at least one")
