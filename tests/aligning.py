"""A small policy that is aligned by rounds and by GRPO, with a strong model on this machine."""

import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from cowest import config, io, preferences, version
from cowest.domains import domain
from cowest.models.hf import HFConfig
from cowest.preferences import PairRule
from cowest.records import Feedback, grown
from cowest.stages import dpo
from tests import tiny
from tests.servers import ChatServer, Fate, completion, error

QUERIES, HELD_BACK = 12, 3

TRAINING = {
    "learning_rate": 0.005,
    "batch_size": 6,
    "warmup_steps": 0,
    "max_length": 96,
    "dtype": "float32",
    "epochs": 2,
}

RIGHT = re.compile(r"^Notes: \W*[A-Ma-m]", re.MULTILINE)
"""The beginning of a draft that helps."""


def make_policy(folder: Path, model: Path | None = None) -> Path:
    """A policy, its queries with feedback on two drafts, and the pairs of these."""
    settings = HFConfig(model=str(model or tiny.model()))
    tiny.make_adapter(folder / "policy" / "adapter", of=model)
    prompts = domain("handbook").prompts
    base = settings.base_name(settings.folder())
    version.write(folder / "policy", base=base, prompts=prompts, trained="sft")
    train = (one for one in domain("handbook").load(tiny.HANDBOOK) if one.split == "train")
    rows: list[Feedback] = []
    for query in islice(train, QUERIES):
        for sample, draft in enumerate(("An answer.", "Not one.")):
            fed = {"refinement": "a", "solo": "b", "strong": "first", "scorer": "contains"}
            scores = {"score": 1.0 - sample, "solo_score": 0.0, "draft_score": 0.0}
            said = {"sample": sample, "draft": draft, "policy": "p"}
            rows.append(grown(Feedback, query, **said, **fed, **scores))
    io.write(folder / "feedback.jsonl", rows)
    pairs = []
    for group in io.groups(folder / "feedback.jsonl", Feedback):
        pairs += preferences.pairs(group, PairRule(), prompts.draft)
    io.write(folder / "pairs.jsonl", pairs)
    return folder


def answers(server: list[ChatServer], stops: list[int]) -> Callable[[dict[str, Any]], Fate]:
    """Answers that are right where the draft helps; no more than `stops` says."""
    targets = " ".join(
        dict.fromkeys(one.targets[0] for one in domain("handbook").load(tiny.HANDBOOK))
    )

    def answer(body: dict[str, Any]) -> Fate:
        if stops and server[0].calls > stops[0]:
            return error(401)
        helps = RIGHT.search(body["messages"][-1]["content"]) is not None
        return Fate(body=completion(targets if helps else "no idea"))

    return answer


def settings(server: ChatServer, **more: Any) -> dpo.DPOConfig:
    strong = {"provider": "openai", "model": "m", "base_url": server.url, "key_env": None}
    ask = {
        "strong": {**strong, "concurrency": 1},
        "scorer": {"scorer": "contains", "rule": 2},
        "drafting": {"temperature": 1.0, "n": 3, "max_tokens": 10},
        "refining": {"max_tokens": 200},
        "rule": {"allow_cut": True},
        "pairs": {"kind": "pairs", "min_pairs": 2},
    }
    values: dict[str, Any] = {"policy": {"model": str(tiny.model())}, "training": TRAINING}
    ask |= more.pop("ask", {})
    return config.parse(dpo.DPOConfig, {**values, "ask": ask, **more}, "dpo")


GRPO = {"dev": HELD_BACK, "judge_steps": 2}
