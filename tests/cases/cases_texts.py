"""Cases of texts: what counts as the right answer, and what is no answer."""

import json
from collections.abc import Iterator
from pathlib import Path

from cowest import collaboration
from cowest.config import Sampling
from cowest.models.scripted import ScriptedConfig, ScriptRule
from cowest.prompts import Prompts, Template
from cowest.protocols import Scorer
from cowest.records import Draft, Message, Query, grown
from cowest.scorers.contains import ContainsAlone
from cowest.scorers.exact_match import ExactMatch
from cowest.scorers.token_f1 import TokenF1
from tests.cases.outcome import Outcome

SEEN = ("Dunmark", "Corvey", "Arlen", "Offing", "203", "Eskby")
"""The answers of invisible.jsonl as a person types them, over and over."""
THOUGHT = "<think>\nRome? No, Oslo.\n</think>\n\nOslo"


def cases(folder: Path) -> Iterator[Outcome]:
    """Run each, in order."""
    lines = (folder / "tables" / "invisible.jsonl").read_text(encoding="utf-8").splitlines()
    for scorer in (ContainsAlone(), ExactMatch(rule=2), TokenF1(rule=2)):
        right = sum(
            _score(scorer, SEEN[number % len(SEEN)], json.loads(line)["answer"])
            for number, line in enumerate(lines)
        )
        kind = f"letters that can't be seen, other forms of a letter ({scorer.name})"
        said = f"{right:g} of {len(lines)} right"
        yield Outcome(kind, "all right", said, right == len(lines))
    for language, sentence, target in (
        ("Chinese", "\u7b54\u6848\u662f\u5df4\u9ece\u3002", "\u5df4\u9ece"),
        ("Japanese", "\u9996\u90fd\u306f\u6771\u4eac\u3067\u3059\u3002", "\u6771\u4eac"),
    ):
        contained = _score(ContainsAlone(), sentence, target)
        shared = _score(TokenF1(rule=2), sentence, target)
        yield Outcome(
            f"a right answer in a {language} sentence",
            "contains 1, token F1 counted by letter",
            f"contains {contained:g}, token_f1 {shared:.2f}",
            contained == 1 and 0.4 < shared < 0.7,
        )
    yield from _thoughts()


def _thoughts() -> Iterator[Outcome]:
    query = _query("Rome")
    draft = grown(Draft, query, sample=0, draft=THOUGHT, policy="p")
    shown = ScriptRule(match=r"(?s)Notes: (.*)\?", replies=("<think>Rome?</think>{1}",))
    alone = ScriptRule(replies=(THOUGHT,))
    prompts = Prompts(
        refine=Template(user="Notes: {draft}{query}"), solo=Template(user="Question: {query}")
    )
    with ScriptedConfig(rules=(shown, alone)).open() as strong:
        refined = list(collaboration.refine([[draft]], strong, prompts, Sampling()))
    (row,) = collaboration.score([refined], ContainsAlone())
    yield Outcome(
        "thoughts in the content",
        "scores as Oslo and not as Rome; the strong model is shown the answer alone",
        f"scores as Rome: {row.score}, {row.solo_score}, {row.draft_score}; shown {row.refinement}",
        (row.score, row.solo_score, row.draft_score, row.refinement) == (0, 0, 0, "Oslo"),
    )
    only = grown(Draft, query, sample=0, draft="<think>Rome? No, Os", policy="p")
    with ScriptedConfig(rules=(shown, alone)).open() as strong:
        (row_of_thought,) = collaboration.refine([[only]], strong, prompts, Sampling())
    yield Outcome(
        "nothing but a thought",
        "no answer: the row fails",
        str(row_of_thought.failed),
        row_of_thought.failed is not None,
    )


def _score(scorer: Scorer, answer: str, target: str) -> float:
    (found,) = scorer.score([(_query(target), answer)])
    return found.value or 0.0


def _query(target: str) -> Query:
    asked = (Message(role="user", content="?"),)
    return Query(group="g", split="test", prompt=asked, targets=(target,), source="case:1")
