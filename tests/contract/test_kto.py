"""KTO over trees: the loss and the gradients of TRL's KTOTrainer, and of a computation by hand."""

import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cowest.trees import check, losses, plan, scores, trainer
from cowest.trees.losses import Objective
from cowest.trees.plan import Tokens, Tree
from tests import tiny
from tests.trl_reference import (
    assert_equal,
    gradients,
    log_probability,
    moved,
    policy,
    reference_of,
    tokenized,
)

pytestmark = pytest.mark.slow

KTO = Objective("kto", 0.3, 0.0, 0.0, (1.0, 1.0))


def drafts() -> list[tuple[Tokens, Tokens, bool]]:
    """Three drafts of each of four prompts, of unlike lengths; some begin alike."""
    dice = random.Random(0)

    def text(most: int) -> Tokens:
        return tuple(dice.randrange(5, 600) for _ in range(dice.randrange(2, most)))

    found = []
    for _ in range(4):
        prompt, first = text(20), text(9)
        for draft in (first, (*first[:1], *text(9)), text(9)):
            found.append((prompt, draft, dice.random() < 0.4))
    return found


@pytest.fixture(scope="module")
def trees() -> list[Tree]:
    return plan.trees_of_drafts(drafts(), most=100, seed=3)


@pytest.fixture(scope="module")
def tree_policy(trees: list[Tree]) -> tuple[Any, list[list[float]]]:
    model = policy()
    reference = reference_of(model, trees)
    moved(model)
    return model, reference


def tree_step(
    given: tuple[Any, list[list[float]]],
    trees: list[Tree],
    objective: Objective,
    together: bool = True,
    branches: bool = True,
) -> tuple[float, dict[str, Any]]:
    model, reference = given
    trainer.attends_to_branches(model, together and branches)
    (share,) = plan.shares(trees, range(len(trees)), 1)
    inputs = trainer.collate(trees, reference, share, together, branches)
    found = scores.drafts(model, model.get_output_embeddings(), inputs)
    loss, _ = trainer.loss_of(objective, found, inputs)
    loss.backward()
    return loss.item(), gradients(model)


def rows_of(trees: list[Tree]) -> list[dict[str, Any]]:
    """The same drafts as TRL takes them, each with the draft of another query."""
    found = []
    for tree in trees:
        assert len(tree.others) == len(tree.alone) == 3
        for (place, helped), other in zip(tree.alone, tree.others, strict=True):
            ids = {
                "prompt_ids": list(tree.prompt),
                "completion_ids": list(tree.drafts[place]),
                "KL_completion_ids": list(tree.drafts[other]),
            }
            found.append({**ids, "label": helped})
    return found


@pytest.fixture(scope="module")
def trl_step(trees: list[Tree], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """TRL's loss and gradients of one batch of all drafts, under weights and a beta."""
    import datasets
    import trl
    from transformers import AutoTokenizer

    rows = rows_of(trees)
    made = tokenized(trl.KTOTrainer)(
        model=policy(),
        args=trl.KTOConfig(
            output_dir=str(tmp_path_factory.mktemp("trl")),
            per_device_train_batch_size=len(rows),
            train_sampling_strategy="sequential",
            precompute_ref_log_probs=True,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(tiny.model()),
    )
    moved(made.model)
    batch = next(iter(made.get_train_dataloader()))

    def step(objective: Objective) -> tuple[float, dict[str, Any]]:
        made.beta = objective.beta
        made.desirable_weight, made.undesirable_weight = objective.weights
        loss = made.compute_loss(made.model, batch)
        loss.backward()
        return loss.item(), gradients(made.model)

    return step


@pytest.mark.parametrize("way", ["segments", "mask", "texts"])
@pytest.mark.parametrize("objective", [KTO, KTO._replace(beta=0.05, weights=(2.0, 1.0))], ids=str)
def test_the_loss_and_every_gradient_are_those_of_trl(
    objective: Objective, way: str, trl_step: Any, tree_policy: Any, trees: list[Tree]
) -> None:
    loss, slopes = trl_step(objective)
    found, own = tree_step(tree_policy, trees, objective, way == "segments", way != "texts")
    assert found == pytest.approx(loss, rel=1e-4)
    assert_equal(slopes, own)


def test_the_loss_by_hand(tree_policy: Any, trees: list[Tree]) -> None:
    """Each text is computed alone, and the formula written out, with the NLL term."""
    model, _ = tree_policy
    trainer.attends_to_branches(model, wanted=False)
    before = policy()
    ratios, others, helped_logps, tokens = [], [], [], 0
    for tree in trees:
        for place, helped in tree.alone:
            draft = tree.drafts[place]
            now = log_probability(model, tree.prompt, draft)
            ratios.append((now - log_probability(before, tree.prompt, draft), helped))
            if helped:
                helped_logps.append(now)
                tokens += len(draft)
        for place in tree.others:
            draft = tree.drafts[place]
            now = log_probability(model, tree.prompt, draft)
            others.append(now - log_probability(before, tree.prompt, draft))
    point = max(0.0, sum(others) / len(others))
    expected = 0.0
    for ratio, helped in ratios:
        apart = ratio - point if helped else point - ratio
        expected += (2.0 if helped else 1.5) * (1 - 1 / (1 + math.exp(-0.3 * apart))) / len(ratios)
    expected -= 0.5 * sum(helped_logps) / tokens
    objective = KTO._replace(nll=0.5, weights=(2.0, 1.5))
    found, _ = tree_step(tree_policy, trees, objective)
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_recurrent_model_is_computed_draft_by_draft(tmp_path: Path, trees: list[Tree]) -> None:
    """Rows of unlike lengths give what each text gives alone."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = tiny.make_recurrent("mamba", tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    made = SimpleNamespace(model=SimpleNamespace(get_base_model=lambda: model), together=None)
    assert "keeps a state" in str(check.reason_against(made, trees))
    inputs = trainer.tensors(trees, together=False, branches=False)
    with torch.no_grad():
        found = scores.drafts(model, model.get_output_embeddings(), inputs).tolist()
        expected = []
        for tree in trees:
            for draft in tree.drafts:
                logits = model(torch.tensor([[*tree.prompt, *draft]])).logits[0].log_softmax(-1)
                after = logits[len(tree.prompt) - 1 : -1].gather(1, torch.tensor(draft)[:, None])
                expected.append(after.sum().item())
    assert found == pytest.approx(expected, rel=1e-4)


def test_both_kinds_weigh_the_same_and_none_too_much() -> None:
    assert losses.balanced(10, 10) == (1.0, 1.0)
    assert losses.balanced(10, 30) == (3.0, 1.0)
    assert losses.balanced(30, 20) == (1.0, 1.5)
    assert losses.balanced(1, 500) == (losses.MOST, 1.0)
    assert losses.balanced(0, 5) == (1.0, 1.0)
