"""What a draft says: the three formats that the paper compares, and what each model is asked for them.

direct             the answer and nothing else
knowledge          what the answer rests on, without the answer
chain_of_thought   what it rests on, and then the answer
(Jiao et al. 2025, the ablation of interaction; their prompts are not published.)
"""

from typing import Literal

from cowest.prompts import Prompts, Template

DraftFormat = Literal["direct", "knowledge", "chain_of_thought"]
MARKER = "Answer:"
"""What announces the answer, at the end."""


def best(draft: DraftFormat, answer: str, knowledge: str | None) -> str | None:
    """The best draft that can be given in a format, and what the policy learns to say; None where the knowledge is not known."""
    if draft == "direct":
        return answer
    if knowledge is None or draft == "knowledge":
        return knowledge
    return f"{knowledge}\n\n{MARKER} {answer}"


def prompts(draft: DraftFormat, *, answer: str, knowledge: str) -> Prompts:
    """What each model is asked. `answer`: what to answer with ("the letter of one option"); `knowledge`: what to state."""
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
