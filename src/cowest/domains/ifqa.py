"""IfQA (Yu et al., EMNLP 2023): counterfactual questions, with the passages that they rest on.

train.json, dev.json and test.json are one list each:

    [{"idx": 0, "answers": ["1962", "in 1962"],
      "question": "If the Comet bridge had opened two years later, in which year would that be?",
      "context": ["The Comet bridge is a bridge in Oslo that opened in 1960."]}]

Exact match and token F1 are published for it, best over the answers. Rows that share a question or
a passage are in one split.
"""

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
from cowest.scorers.squad import SquadF1Config


class IfQA(Config):
    """Counterfactual questions."""

    domain: Literal["ifqa"] = "ifqa"
    draft: drafts.DraftFormat = "chain_of_thought"
    """The contents of a draft: direct (the answer), knowledge (the passage) or chain_of_thought
    (both). Which one helps most depends on the models: compare them."""
    passage: bool = False
    """Show both models the passage before the question. Turn it on to measure reading a passage
    that is given; off, the policy must know what it says."""

    @property
    def prompts(self) -> Prompts:
        """The prompts of all models."""
        return drafts.prompts(
            self.draft,
            answer="the answer in as few words as possible",
            knowledge="State the facts that the answer to this question rests on.",
        )

    @property
    def scorer(self) -> AnyScorer:
        """Token F1 by SQuAD's rule; `squad_em` is the other published metric."""
        return SquadF1Config(marker=drafts.MARKER)

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

    def _query(self, row: published.SplitRow) -> Query:
        answers = _texts(row.fields, "answers")
        passage = "\n\n".join(_texts(row.fields, "context"))
        question = row.fields["question"].strip()
        asked = f"{passage}\n\nQuestion: {question}" if self.passage else question
        return build(
            Query,
            group=row.group,
            split=row.split,
            prompt=(Message(role="user", content=asked),),
            targets=tuple(answers),
            ideal=drafts.best(self.draft, answers[0], passage),
            source=row.where,
        )


def _keys(row: dict[str, Any]) -> list[str]:
    """The group, which is the first passage, and the texts that other rows may share."""
    passages = row.get("context")
    texts: list[str] = []
    # A row whose passages are wrong is read, too: `_texts` says later what is wrong with it.
    if isinstance(passages, list):
        texts = [text for text in passages if isinstance(text, str)]
    question = keywords(row["question"])
    group = texts[0] if texts else question
    return [group, *texts, question]


def _texts(row: dict[str, Any], field: str) -> list[str]:
    """The texts under a field. Raises Unfit if it holds anything else, or nothing."""
    found = row.get(field)
    texts = found if isinstance(found, list) else []
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise Unfit(f"{field}: expected a list of texts, and at least one")
    return texts
