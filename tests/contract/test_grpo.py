"""GRPO's loss over trees: the loss and the gradients of TRL's, and of a computation by hand."""

import math
import statistics
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from cowest.aligning import grpo
from cowest.aligning.rollouts import Rollout
from cowest.trees import losses, plan, trainer
from cowest.trees.plan import Tokens
from tests.trl_reference import assert_equal, gradients, moved, policy

pytestmark = pytest.mark.slow

GROUPS: list[tuple[Tokens, list[Tokens], list[float]]] = [
    ((7, 8, 9, 10), [(20, 21, 22), (20, 30), (40, 41, 42, 43, 44), (20, 30)], [1.0, 0.0, 0.5, 0.0]),
    ((11, 12), [(50, 51), (52,), (53, 54, 55), (56, 57)], [0.0, 1.0, 0.0, 0.0]),
    # All earned the same, so that only the KL moves them.
    ((13,), [(60, 61), (62, 63)], [1.0, 1.0]),
]
KL, TEMPERATURE = 0.3, 0.8


def rollout() -> Rollout:
    found = Rollout([], [], [], {})
    for prompt, drafts, gains in GROUPS:
        found.add(prompt, drafts, gains)
    return found


def tree_step(
    model: Any, before: Any, parts: int = 1, branches: bool = True, rough: bool = False
) -> Any:
    """The loss and gradients of the step of a rollout, in so many parts; `rough` in bfloat16."""
    import torch

    config = SimpleNamespace(
        training=SimpleNamespace(gradient_accumulation=parts),
        grpo=SimpleNamespace(kl=KL),
        asking=lambda: SimpleNamespace(drafting=SimpleNamespace(temperature=TEMPERATURE)),
    )
    accelerator = SimpleNamespace(device="cpu")
    made = SimpleNamespace(
        model=model, together=branches, branches=branches, accelerator=accelerator
    )
    learner = grpo.Learner(before, SimpleNamespace(steps=[[]]), config)
    learner.begin(0, SimpleNamespace(rollout=lambda *_: rollout()))
    trainer.attends_to_branches(model, branches)
    total = 0.0
    for part in range(parts):
        # As the trainer has it: one autocast around all that a part computes.
        with torch.autocast("cpu", torch.bfloat16, enabled=rough):
            loss = learner.loss(made, model, part)
        loss.backward()
        total += loss.item()
    return total, gradients(model), learner.logged()


def alone(model: Any, prompt: Tokens, draft: Tokens) -> list[float]:
    """The log-probabilities of a draft's tokens at the temperature, computed alone."""
    import torch

    trainer.attends_to_branches(model, wanted=False)
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *draft]])).logits[0] / TEMPERATURE
    found = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return [row[token].item() for row, token in zip(found, draft, strict=True)]


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any]:
    """The policy after a step, and as it was."""
    model, before = policy(), policy()
    moved(model)
    return model, before


@pytest.mark.parametrize("parts", [1, 2, 5])
@pytest.mark.parametrize("branches", [True, False])
def test_the_loss_by_hand(models: Any, parts: int, branches: bool) -> None:
    model, before = models
    expected = divergence = tokens = 0.0
    for prompt, drafts, gains in GROUPS:
        spread = statistics.stdev(gains) + 1e-4
        for draft, gain in zip(drafts, gains, strict=True):
            advantage = (gain - statistics.mean(gains)) / spread
            now, then = alone(model, prompt, draft), alone(before, prompt, draft)
            for one, other in zip(now, then, strict=True):
                apart = math.exp(other - one) - (other - one) - 1
                expected += KL * apart - advantage
                divergence += apart
                tokens += 1
    loss, _, logged = tree_step(model, before, parts, branches)
    assert loss == pytest.approx(expected / tokens, rel=1e-3, abs=1e-5)
    assert logged["kl"] == pytest.approx(divergence / tokens, rel=1e-3)


@pytest.mark.parametrize("branches", [True, False])
def test_bfloat16_learns_at_the_policys_weights(models: Any, branches: bool) -> None:
    """Autocast keeps copies of weights, and those of the reference are none of the policy's."""
    model, before = models
    loss, slopes, logged = tree_step(model, before, branches=branches)
    rough_loss, rough, told = tree_step(model, before, branches=branches, rough=True)
    assert told["kl"] == pytest.approx(logged["kl"], rel=0.2) and logged["kl"] > 1e-3
    assert rough_loss == pytest.approx(loss, abs=0.02)
    for name, slope in slopes.items():
        assert (slope - rough[name]).norm() <= 0.1 * slope.norm(), name


def test_every_gradient_is_that_of_trl(models: Any, tmp_path: Any) -> None:
    """TRL's trainer is given the same drafts with their advantages, padded as it pads them."""
    import torch
    import trl
    from datasets import Dataset
    from transformers import AutoTokenizer

    from tests import tiny

    model, before = models
    made = trl.GRPOTrainer(
        model=policy(),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=trl.GRPOConfig(
            output_dir=str(tmp_path),
            beta=KL,
            temperature=TEMPERATURE,
            loss_type="dapo",
            per_device_train_batch_size=2,
            num_generations=2,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
        ),
        train_dataset=Dataset.from_list([{"prompt": "a"}] * 4),
        processing_class=AutoTokenizer.from_pretrained(tiny.model()),
    )
    moved(made.model)
    made.current_gradient_accumulation_steps = made.args.steps_per_generation = 1
    rows: list[tuple[Tokens, Tokens, float]] = []
    for prompt, drafts, gains in GROUPS:
        for draft, advantage in zip(drafts, losses.advantages(gains), strict=True):
            rows.append((prompt, draft, advantage))
    inputs = {
        "prompt_ids": padded([row[0] for row in rows], left=True),
        "prompt_mask": padded([(1,) * len(row[0]) for row in rows], left=True),
        "completion_ids": padded([row[1] for row in rows]),
        "completion_mask": padded([(1,) * len(row[1]) for row in rows]),
        "advantages": torch.tensor([row[2] for row in rows]),
        "ref_per_token_logps": torch.zeros(len(rows), 5),
        "num_items_in_batch": torch.tensor(sum(len(row[1]) for row in rows)),
    }
    for number, (prompt, draft, _) in enumerate(rows):
        known = torch.tensor(alone(before, prompt, draft))
        inputs["ref_per_token_logps"][number, : len(draft)] = known
    loss = made.compute_loss(made.model, inputs)
    loss.backward()
    found, own, _ = tree_step(model, before)
    assert found == pytest.approx(loss.item(), rel=1e-4, abs=1e-6)
    assert_equal(gradients(made.model), own)


def padded(rows: Sequence[Sequence[int]], left: bool = False) -> Any:
    import torch

    most = max(map(len, rows))
    found = torch.zeros((len(rows), most), dtype=torch.long)
    for number, row in enumerate(rows):
        first = most - len(row) if left else 0
        found[number, first : first + len(row)] = torch.tensor(row)
    return found


def test_a_draft_that_was_made_twice_counts_twice() -> None:
    found = rollout()
    assert found.trees[0].drafts == ((20, 21, 22), (20, 30), (40, 41, 42, 43, 44))
    assert found.counts == [1, 2, 1, 1, 1, 1, 1, 1, 1]
    assert found.tokens() == 3 + 2 * 2 + 5 + 2 + 1 + 3 + 2 + 2 + 2
    assert found.advantages[:3] == losses.advantages([1.0, 0.0, 0.5, 0.0])[:3]
    assert found.advantages[-2:] == [0.0, 0.0]
    assert losses.advantages([0.7]) == [0.0]


def test_a_step_of_which_nothing_is_learned_has_no_gradient(models: Any) -> None:
    model, before = models
    config = SimpleNamespace(training=SimpleNamespace(gradient_accumulation=1))
    learner = grpo.Learner(before, SimpleNamespace(steps=[[]]), config)
    learner.begin(0, SimpleNamespace(rollout=lambda *_: Rollout([], [], [], {})))
    learner.loss(SimpleNamespace(), model, 0).backward()
    assert all(not slope.any() for slope in gradients(model).values())
    assert plan.shares([], range(0), 1)[0].trees == ()
