"""Rows for tests: the records' own constructors, with what a test does not care about filled in."""

from pathlib import Path
from typing import Any

from cowest.config import Sampling
from cowest.gates import Rules
from cowest.online.interactions import Interaction, ServedCall
from cowest.prompts import Prompts, Template
from cowest.protocols import Request
from cowest.records import Feedback, Message, PreferencePair, Query, Trial
from cowest.stages import compare

PROMPTS = Prompts(
    refine=Template(user="Notes: {draft}\nQuestion: {query}"),
    solo=Template(user="Question: {query}"),
)
"""Prompts of a version that say which of their two questions is asked."""
GREEDY = Sampling(max_tokens=10)


def ask(text: str, sampling: Sampling = GREEDY, sample: int = 0, block: int = 0) -> Request:
    """A request of one message."""
    return Request((Message(role="user", content=text),), sampling, sample, block)


def make_query(number: int = 0, text: str | None = None, **fields: Any) -> Query:
    """A query of its own; equal numbers (or texts) are equal queries."""
    values: dict[str, Any] = {
        "group": f"product-{number}",
        "split": "test",
        "prompt": (
            Message(role="user", content=text or f"In which country is product {number} built?"),
        ),
        "targets": ("Italy",),
        "source": f"questions.jsonl:{number + 1}",
    }
    return Query(**{**values, **fields})


def make_feedback(number: int = 0, **fields: Any) -> Feedback:
    """A scored draft of query `number`: it helped, unless the fields say otherwise."""
    return Feedback(**_feedback(number, fields))


def make_trial(number: int = 0, system: str = "after", **fields: Any) -> Trial:
    """A held-out query `number` answered by a system."""
    return Trial(
        **_feedback(number, {"policy": f"policy@{system}", "split": "test", **fields}),
        system=system,
    )


def make_pair(number: int = 0, **fields: Any) -> PreferencePair:
    """A pair of query `number`: naming the plant is what helped, naming the core is not."""
    chosen = Message(role="assistant", content=f"It is made in Oslo {number}.")
    rejected = Message(role="assistant", content=f"It has a zinc core {number}.")
    values: dict[str, Any] = {
        "id": f"{number:020x}",
        "query": f"{number:020x}",
        "split": "train",
        "prompt": (Message(role="user", content=f"Where is product {number} made?"),),
        "chosen": (chosen,),
        "rejected": (rejected,),
        "margin": 1.0,
        "policy": "p",
        "strong": "s",
        "scorer": "c",
        "samples": (0, 1),
    }
    return PreferencePair(**{**values, **fields})


def _feedback(number: int, fields: dict[str, Any]) -> dict[str, Any]:
    of_query = {name: value for name, value in fields.items() if name in Query.model_fields}
    query = make_query(number, **{"split": "train", **of_query})
    values: dict[str, Any] = {
        "sample": 0,
        "draft": "It is built in Milan.",
        "policy": "policy@start",
        "refinement": "Italy",
        "solo": "France",
        "strong": "strong",
        "score": 1.0,
        "solo_score": 0.0,
        "draft_score": 0.0,
        "scorer": "exact_match",
    }
    return {**query.model_dump(), **values, **fields}


def write_report(trials: Path, report: Path, rules: Rules) -> None:
    """The stage `compare` from a file of trials to the report, without the files for DVC."""
    compare.main(
        trials=trials,
        policy=None,
        challenger=None,
        report=report,
        metrics=None,
        systems=None,
        sft=None,
        dpo=None,
        config=rules,
    )


def make_interaction(id: str, question: str = "Where?", **fields: Any) -> Interaction:
    """A served answer, `Italy`, of version 1."""
    values: dict[str, Any] = {
        "at": 1_700_000_000.0,
        "seconds": 0.5,
        "model": "cowest",
        "version": 1,
        "prompt": (Message(role="user", content=question),),
        "draft": "It is built in Milan.",
        "answer": "Italy",
        "drafting": ServedCall(model="p", finish="stop", seconds=0.1),
        "answering": ServedCall(model="s", finish="stop", seconds=0.3),
        "finish": "stop",
    }
    return Interaction(id=id, **{**values, **fields})
