"""Rows and ports of small trainings, and adapters that came of them."""

from pathlib import Path
from typing import Any

from cowest.records import Message, PreferencePair
from tests.factories import make_pair

SFT = {"corpus": "corpus.jsonl", "start": "start", "policy": "policy"}
"""The ports of the stage `sft`."""


def rows() -> list[PreferencePair]:
    """Three drafts of each question, in two pairs."""
    found = []
    for number in range(24):
        other = Message(role="assistant", content=f"It is one of our {number} pumps.")
        one = make_pair(number)
        found += [one, one.model_copy(update={"id": f"{100 + number:020x}", "rejected": (other,)})]
    return found


def weights(folder: Path) -> dict[str, Any]:
    """The weights of a version's adapter by their names."""
    from safetensors.torch import load_file

    found: dict[str, Any] = load_file(folder / "adapter" / "adapter_model.safetensors")
    return found


def furthest(one: Path, other: Path) -> float:
    """The largest difference of two weights, beside the largest weight of their matrix."""
    found = weights(other)
    shares = []
    for name, weight in weights(one).items():
        shares.append(((weight - found[name]).abs().max() / weight.abs().max()).item())
    return max(shares)
