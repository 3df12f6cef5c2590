"""Trains the policy of an arm by the product's own stage, or by SFT on chosen drafts."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cowest import io
from cowest.config import Config
from cowest.records import PreferencePair
from cowest.stages import dpo
from tests.bench.evidence.run import hand_on, sft_on_chosen
from tests.bench.evidence.sites.arms import Way


def prefer(way: Way, pairs: Path, feedback: Path, policy: Path, out: Path, config: Config) -> None:
    """DPO on the pairs with the settings of the way, or SFT on their chosen drafts.

    Without pairs the policy stays what it was.
    """
    assert isinstance(config, dpo.DPOConfig)
    rate = way.arm.rate * config.training.learning_rate
    training = config.training.model_copy(update={"learning_rate": rate})
    nll = config.nll if way.arm.nll is None else way.arm.nll
    changed = {"training": training, "nll": nll, "align": way.align}
    settings = config.model_copy(update=changed)
    if not any(io.read(pairs, PreferencePair)):
        hand_on(policy, out)
    elif way.arm.chosen_only:
        sft_on_chosen(pairs, policy, out, settings)
    else:
        dpo.main(pairs, feedback, policy, out, settings)


def on_policy(
    feedback: Path, policy: Path, out: Path, config: Config, calls: int, seconds: float
) -> None:
    """GRPO by the product's own stage, with at most `calls` strong calls and `seconds` of CPU."""
    assert isinstance(config, dpo.DPOConfig)
    ends = config.grpo.model_copy(update={"calls": calls, "cpu_seconds": seconds})
    with tempfile.TemporaryDirectory() as scratch:
        pairs = Path(scratch, "pairs.jsonl")
        io.write(pairs, [])
        dpo.main(pairs, feedback, policy, out, config.model_copy(update={"grpo": ends}))


@contextmanager
def own_store(place: Path) -> Iterator[None]:
    """Lets calls be kept in a store of their own while the block lasts.

    Else the answers that other arms paid for would be found there, and cost nothing.
    """
    before = os.environ.get("COWEST_STORE")
    os.environ["COWEST_STORE"] = str(place)
    try:
        yield
    finally:
        del os.environ["COWEST_STORE"]
        if before is not None:
            os.environ["COWEST_STORE"] = before
