"""What is run, fixed before it is run (docs/evidence-plan.md)."""

from cowest.domains import invent
from tests.bench.evidence.arms import HEADLINE
from tests.bench.evidence.free import FREE
from tests.bench.evidence.run import Settings

SEEDS = range(100, 108)
"""Knowledge bases of the result; 0 to 9 are for design."""
CURVES = ("queries_quarter", "queries_half", "samples_2", "samples_4")
CURVE_SEEDS = range(100, 104)
"""Those of the result that answer what depends on pairs, samples and rounds too."""
ANSWER_SHARES = (0.1, 0.7)
"""The share of the archive's replies that are final answers, where the result has 0.4; the other
habits share the rest as they did.
"""
SHARE_SEEDS = range(110, 112)
PLAIN_SEEDS = range(120, 123)
"""Knowledge bases whose questions ask for the private fact itself."""


def runs() -> dict[str, Settings]:
    """Every run by its name, in the order they are made."""
    found = {f"result-{seed}": Settings(seed=seed, **_curves(seed)) for seed in SEEDS}
    found |= {
        f"plain-{seed}": Settings(
            seed=seed, asked="plain", arms=("aligned", "self_scored", "shuffled"), samples=0
        )
        for seed in PLAIN_SEEDS
    }
    for share in ANSWER_SHARES:
        found |= {
            f"answers-{share:g}-{seed}": Settings(
                seed=seed, mix=with_answers(share), arms=("aligned", "self_scored"), samples=0
            )
            for seed in SHARE_SEEDS
        }
    for seed in SEEDS:
        found[f"free-{seed}"] = Settings(seed=seed, arms=(), free=FREE, samples=0)
    for seed in CURVE_SEEDS:
        found[f"nll-{seed}"] = Settings(seed=seed, arms=("aligned", "no_nll"), samples=0)
    return found


def _curves(seed: int) -> dict[str, object]:
    return (
        {"arms": HEADLINE + CURVES, "second_round": True}
        if seed in CURVE_SEEDS
        else {"arms": HEADLINE}
    )


def with_answers(share: float) -> dict[str, float]:
    """The usual habits, with another share of final answers."""
    rest = 1 - invent.MIX["answer"]
    return {
        habit: share if habit == "answer" else round(usual * (1 - share) / rest, 4)
        for habit, usual in invent.MIX.items()
    }
