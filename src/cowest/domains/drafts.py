"""The contents of a draft: the three formats that the paper compares, and the prompts for each.

direct             the answer and nothing else
knowledge          what the answer rests on, without the answer
chain_of_thought   what the answer rests on, and then the answer

(Jiao et al. 2025, the ablation of the interaction. Their prompts are not published, so these are
our own.)
"""

from typing import Literal

from cowest.prompts import Prompts, Template

DraftFormat = Literal["direct", "knowledge", "chain_of_thought"]
MARKER = "Answer:"
"""Announces the answer, at the end of a text."""


def best(draft: DraftFormat, answer: str, knowledge: str | None) -> str | None:
    """The best draft of a format, which the policy learns to say.

    None if the format asks for knowledge and there is none.
    """
    if draft == "direct":
        return answer
    if knowledge is None or draft == "knowledge":
        return knowledge
    return f"{knowledge}\n\n{MARKER} {answer}"


def prompts(draft: DraftFormat, *, answer: str, knowledge: str) -> Prompts:
    """The prompts of all models for a format of drafts.

    `answer` names what to answer with ("the letter of one option"); `knowledge` is the sentence
    that asks for what the answer rests on.
    """
    directly = f"Answer with {answer} and nothing else."
    thinking = f"Think step by step. Then end with one line that says {MARKER} and {answer}."
    asked = {
        "direct": directly,
        "knowledge": f"{knowledge} Do not answer it.",
        "chain_of_thought": thinking,
    }
    return Prompts(
        draft=Template(user=f"{{query}}\n\n{asked[draft]}"),
        refine=Template(
            user=f"{{query}}\n\nA specialist's notes, which may be wrong:\n{{draft}}\n\n{thinking}"
        ),
        solo=Template(user=f"{{query}}\n\n{thinking}"),
    )
