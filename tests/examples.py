"""The examples of the repository, with tiny and scripted models in place of theirs."""

from typing import Any

from tests import lines, tiny

EXAMPLES = lines.ROOT / "examples"

HELPS = r"\s*Notes[^\n]*\n\W*[A-Ma-m]"
"""A draft that the scripted strong model makes use of: one that begins with such a letter."""


def replying() -> list[dict[str, Any]]:
    return [{"match": HELPS, "replies": ["It is damp."]}, {"match": "", "replies": ["Sorry."]}]


def judging() -> list[dict[str, Any]]:
    return [
        {"match": r"Answer to grade:\nIt is damp\.", "replies": ["9"]},
        {"match": r"Answer to grade:\n", "replies": ["2"]},
    ]


def made_tiny(params: dict[str, Any], strong: list[dict[str, Any]]) -> None:
    """Puts tiny and scripted models in place of the example's, and asks nothing of the gates."""
    policy = {"provider": "hf", "model": str(tiny.model()), "dtype": "float32"}
    for section in ("sft", "draft", "dpo", "evaluate", "serve"):
        params[section]["policy"] = policy
    for section in ("refine", "evaluate", "serve"):
        params[section]["strong"] = {"provider": "scripted", "rules": strong}
    for section in ("score", "evaluate"):
        if params[section]["scorer"]["scorer"] == "judge":
            judge = {"provider": "scripted", "rules": judging()}
            params[section]["scorer"] = {"scorer": "judge", "model": judge}
    params["sft"]["lora"] = {"r": 4, "alpha": 8}
    for section in ("sft", "dpo"):
        params[section]["training"] |= {"epochs": 1, "max_length": 128, "batch_size": 16}
    params["draft"]["sampling"] |= {"temperature": 1.0, "n": 4, "max_tokens": 8}
    params["pair"]["rule"] |= {"allow_cut": True}
    params["evaluate"]["drafting"] = {"max_tokens": 8}
    gates = [{"over": "before", "at_least": -1.0}]
    params["compare"] |= {"gates": gates, "guards": False, "draws": 1000}
