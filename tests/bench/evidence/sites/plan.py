"""The runs, fixed before any was made (docs/evidence-plan-2.md)."""

from typing import Any

from pydantic import Field, field_validator

from cowest.config import Config
from cowest.domains.invent_sites import World
from cowest.records import Split
from tests.bench.evidence import run as handbook
from tests.bench.evidence.sites.arms import SELECTED, TRAINED
from tests.bench.evidence.sites.free import FREE
from tests.bench.evidence.sites.routers import ROUTED

SEEDS = range(140, 148)
"""Knowledge bases of the result; 0 to 9 are for design."""
SELECTED_SEEDS = range(140, 144)
"""Those of them that are aligned on feedback for half of the calls too."""
HANDBOOK_SEEDS = range(130, 134)
"""Knowledge bases of the handbook for the same question."""
KEPT = 0.9
"""Share of the gain that half of the calls is to keep."""
AIMED = ("selected_half", "stopped_half")
"""The arms that are to keep it: the two rules of `refine.select`."""
COMPARATORS = FREE
"""Arms without feedback. The best of them by its mean over the runs is the comparator."""
CLAIMS = (
    ("aligned_joined", "comparator", "all", 0.10),
    ("aligned_joined", "table", "new", 0.15),
)
"""(arm, over, on which wordings, by how much): shown where the lower t bound of the difference is
at least so much."""


class Settings(Config):
    """One run: a knowledge base, and a training seed, which is the same number."""

    seed: int
    split: Split = "test"
    """The questions that are asked at the end: dev to design by, test once."""
    world: World = World()
    trained: tuple[str, ...] = tuple(TRAINED)
    """The arms that are aligned. `aligned_joined` is among them: GRPO may take what it took."""
    free: tuple[str, ...] = FREE
    routed: tuple[str, ...] = ROUTED
    policy: dict[str, Any] = Field(default_factory=dict)
    """The base of the policy, as in params.yaml; {} for the one there."""
    strong: dict[str, Any] = Field(default_factory=dict)
    """The strong model that feedback comes from, and that is asked at the end; {} for that of
    params.yaml."""
    second: dict[str, Any] | None = Field(
        default_factory=lambda: {"provider": "hf", "model": "smollm2-135m-instruct"}
    )
    """Another strong model, shown the same drafts at the end; None for none."""
    changes: dict[str, Any] = Field(default_factory=lambda: dict(CHANGES))
    """Settings other than those of params.yaml, by their path. Those that are given come to
    CHANGES, and replace only the ones of the same path."""
    grpo: dict[str, Any] = Field(default_factory=lambda: dict(GRPO))
    """Settings of GRPO other than those of `dpo`, by their path; they come to those of GRPO."""

    @field_validator("trained")
    @classmethod
    def _with_the_headline(cls, trained: tuple[str, ...]) -> tuple[str, ...]:
        if "aligned_joined" not in trained:
            raise ValueError("aligned_joined is left out, and GRPO may take what that arm took")
        return trained

    @field_validator("changes")
    @classmethod
    def _beside_the_plans(cls, changes: dict[str, Any]) -> dict[str, Any]:
        return CHANGES | changes

    @field_validator("grpo")
    @classmethod
    def _beside_grpos(cls, grpo: dict[str, Any]) -> dict[str, Any]:
        return GRPO | grpo


GRPO: dict[str, Any] = {
    "grpo.dev": 16,
    "grpo.judge_steps": 5,
    "training.batch_size": 48,
    "training.epochs": 2,
}
"""Eight questions of six drafts each are a step; 16 of the 160 questions judge checkpoints."""
CHANGES: dict[str, Any] = {
    "sft.training.epochs": 5,
    "draft.candidates": {"max_tokens": 20},
}
"""Five epochs of four wordings of each direct question: with fewer, a site is known when it is
asked for directly, and poorly recalled otherwise."""


def runs() -> dict[str, Settings]:
    """Every run of the result by its name, in the order they are made."""
    found = {}
    for seed in SEEDS:
        trained = (*TRAINED, *SELECTED) if seed in SELECTED_SEEDS else tuple(TRAINED)
        found[f"sites-{seed}"] = Settings(seed=seed, trained=trained)
    return found


def of_handbook() -> dict[str, handbook.Settings]:
    """Runs of the handbook, on feedback for half of the calls alone."""
    arms = ("aligned", *SELECTED)
    found = {}
    for seed in HANDBOOK_SEEDS:
        found[f"select-{seed}"] = handbook.Settings(seed=seed, arms=arms, samples=0)
    return found
