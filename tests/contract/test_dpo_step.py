"""The step over trees: the loss and the gradients of TRL's DPOTrainer, whatever is in a batch."""

import math
import random
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cowest.config import parse
from cowest.errors import ConfigError
from cowest.stages.dpo import DPOConfig
from cowest.trees import check, losses, plan, scores, trainer
from cowest.trees.losses import Objective
from cowest.trees.plan import Tokens, Tree
from tests import tiny
from tests.trl_reference import (
    adapted,
    assert_equal,
    gradients,
    log_probability,
    moved,
    policy,
    reference_of,
    tokenized,
)

pytestmark = pytest.mark.slow

OBJECTIVES = [
    Objective("sigmoid", 0.3, 1.0, 0.0),
    Objective("sigmoid", 0.1, 0.0, 0.0),
    Objective("hinge", 0.3, 0.5, 0.0),
    Objective("ipo", 0.3, 1.0, 0.0),
    Objective("robust", 0.3, 1.0, 0.1),
    Objective("sigmoid_norm", 2.0, 1.0, 0.0),
]


def pairs(queries: int = 5, prompt: int = 20, draft: int = 12) -> list[tuple[Tokens, ...]]:
    """Pairs of unlike lengths, several per query; drafts come back, and some begin alike."""
    dice = random.Random(0)

    def text(most: int) -> Tokens:
        return tuple(dice.randrange(5, 600) for _ in range(dice.randrange(2, most)))

    found = []
    for _ in range(queries):
        asked, drafts = text(prompt), [text(draft) for _ in range(4)]
        drafts[1] = drafts[0][:1] + drafts[1]
        found += [(asked, *both) for both in combinations(drafts, 2) if dice.random() < 0.8]
    return found


@pytest.fixture(scope="module")
def reference_step(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """TRL's trainer with a batch of all pairs: its loss and gradients under an objective."""
    import datasets
    import trl
    from transformers import AutoTokenizer

    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    rows = [dict(zip(names, map(list, one), strict=True)) for one in pairs()]

    made = tokenized(trl.DPOTrainer)(
        model=policy(),
        args=trl.DPOConfig(
            output_dir=str(tmp_path_factory.mktemp("trl")),
            per_device_train_batch_size=len(rows),
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
        made.beta, made.label_smoothing = objective.beta, objective.label_smoothing
        made.loss_types, made.loss_weights = [objective.loss, "sft"], [1.0, objective.nll]
        loss = made.compute_loss(made.model, batch)
        loss.backward()
        return loss.item(), gradients(made.model)

    return step


def tree_step(
    model: Any,
    trees: list[Tree],
    reference: Any,
    objective: Objective,
    count: int = 1,
    together: bool = True,
) -> tuple[float, dict[str, Any]]:
    """The loss and gradients of all trees in one step of so many shares."""
    trainer.attends_to_branches(model, together)
    total = 0.0
    for share in plan.shares(trees, range(len(trees)), count):
        inputs = trainer.collate(trees, reference, share, together)
        found = scores.drafts(model, model.get_output_embeddings(), inputs)
        loss, _ = trainer.loss_of(objective, found, inputs)
        loss.backward()
        total += loss.item()
    return total, gradients(model)


@pytest.fixture(scope="module")
def tree_policy() -> tuple[Any, list[Tree], list[list[float]]]:
    """The same policy, the pairs as trees, and the reference of these."""
    model, trees = policy(), plan.trees_of(pairs())
    reference = reference_of(model, trees)
    moved(model)
    return model, trees, reference


@pytest.mark.parametrize("together", [True, False], ids=["segments", "mask"])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_the_loss_and_every_gradient_are_those_of_trl(
    objective: Objective, together: bool, reference_step: Any, tree_policy: Any
) -> None:
    loss, slopes = reference_step(objective)
    found, own = tree_step(*tree_policy, objective, together=together)
    assert found == pytest.approx(loss, rel=1e-4)
    assert_equal(slopes, own)


def test_a_step_is_the_same_in_any_number_of_shares(tree_policy: Any) -> None:
    whole, slopes = tree_step(*tree_policy, OBJECTIVES[0])
    for count in (2, 7):
        found, own = tree_step(*tree_policy, OBJECTIVES[0], count)
        assert found == pytest.approx(whole, rel=1e-5)
        assert_equal(slopes, own)


def test_no_dropout_is_left_in_a_trainers_model(tree_policy: Any, tmp_path: Path) -> None:
    import transformers

    _, trees, reference = tree_policy
    model, alone = policy(dropout=0.1), plan.shares(trees, range(len(trees)), 1)
    settings = transformers.TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    trainer.make(model, trainer.Lessons(trees, alone, 1.0), OBJECTIVES[0], settings)
    moved(model)
    # Attention by segments has no dropout anyway.
    loss, slopes = tree_step(model.train(), trees, reference, OBJECTIVES[0], together=False)
    expected, others = tree_step(*tree_policy, OBJECTIVES[0], together=False)
    assert loss == pytest.approx(expected, rel=1e-6)
    assert_equal(others, slopes)


def test_logits_in_pieces_are_the_same(tree_policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, slopes = tree_step(*tree_policy, OBJECTIVES[0])
    monkeypatch.setattr(scores, "LOGITS", 3000)
    found, own = tree_step(*tree_policy, OBJECTIVES[0])
    assert found == pytest.approx(whole, rel=1e-5)
    assert_equal(slopes, own)


def test_losses_by_hand() -> None:
    import torch

    ratios, lengths = (torch.tensor([0.7]), torch.tensor([-0.5])), torch.tensor([[4.0], [5.0]])

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    apart, per_token = 1.2, 0.7 / 4 + 0.5 / 5
    by_hand = {
        "sigmoid": -math.log(sigmoid(0.2 * apart)),
        "hinge": 1 - 0.2 * apart,
        "ipo": (per_token - 1 / 0.4) ** 2,
        "robust": (-0.9 * math.log(sigmoid(0.2 * apart)) + 0.1 * math.log(sigmoid(-0.2 * apart)))
        / 0.8,
        "sigmoid_norm": -math.log(sigmoid(0.2 * per_token)),
    }
    for name, expected in by_hand.items():
        objective = Objective(name, 0.2, 0.0, 0.1)
        found = losses.of_pairs(objective, *ratios, lengths)
        assert found.item() == pytest.approx(expected, rel=1e-5), name


def test_the_loss_of_a_policy_by_hand(tree_policy: Any) -> None:
    """Each text is computed alone, and DPO and the likelihood of the chosen drafts written out."""
    model, _, _ = tree_policy
    trainer.attends_to_branches(model, wanted=False)
    before = policy()
    told_apart = likelihood = 0.0
    tokens = 0
    for prompt, chosen, rejected in pairs():
        now = log_probability(model, prompt, chosen)
        better = now - log_probability(before, prompt, chosen)
        worse = log_probability(model, prompt, rejected) - log_probability(before, prompt, rejected)
        told_apart += math.log(1 / (1 + math.exp(-0.3 * (better - worse))))
        likelihood += now
        tokens += len(chosen)
    expected = -told_apart / len(pairs()) - 0.5 * likelihood / tokens
    found, _ = tree_step(*tree_policy, Objective("sigmoid", 0.3, 0.5, 0.0))
    assert found == pytest.approx(expected, rel=1e-4)


def reason(model: Any, trees: list[Tree], together: bool | None = None) -> str | None:
    """Returns the reason against trees, if any, and sees that the trainer works as it should."""
    made = SimpleNamespace(model=model, together=None)
    found = check.reason_against(made, trees)
    assert made.together is together
    return found


def test_a_model_of_llamas_kind_attends_by_segments() -> None:
    assert reason(policy(), plan.trees_of(pairs(queries=2)), together=True) is None


def test_a_model_that_hands_no_segments_down_has_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    plain = LlamaDecoderLayer.forward

    def forward(self: Any, *given: Any, branches: Any = None, **more: Any) -> Any:
        return plain(self, *given, **more)

    monkeypatch.setattr(LlamaDecoderLayer, "forward", forward)
    assert reason(policy(), plan.trees_of(pairs(queries=2)), together=False) is None


def test_what_is_no_number_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    model, trees = policy(), plan.trees_of(pairs(queries=2))
    with monkeypatch.context() as broken:
        broken.setattr(scores, "drafts", lambda *_: torch.full((len(pairs()),), math.nan))
        assert reason(model, trees) == (
            "log-probabilities of branches are nan nats per token from those alone"
        )
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(math.nan)
    assert reason(model, trees) == "the base alone gives no number for its longest text"


def gemma(folder: Path, window: int) -> Any:
    """A Gemma 2: every second layer has a window, and logits have a cap."""
    import torch
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    shape = Gemma2Config(
        vocab_size=700,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        sliding_window=window,
        final_logit_softcapping=5.0,
        initializer_range=0.2,
    )
    Gemma2ForCausalLM(shape).save_pretrained(folder)
    return adapted(Gemma2ForCausalLM.from_pretrained(folder, attn_implementation="eager"))


def test_a_capped_model_with_attention_of_its_own_takes_trees(tmp_path: Path) -> None:
    trees = plan.trees_of(pairs(queries=2))
    model = gemma(tmp_path, window=64)
    # By segments its attention would have no cap, and by a mask it has.
    assert reason(model, trees, together=False) is None
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(scores, "TIMES", ("final_logit_softcapping",))
        assert "nats per token from those alone" in str(reason(model, trees))


def test_a_window_that_a_draft_reaches_beyond_is_a_reason(tmp_path: Path) -> None:
    trees = [Tree(tuple(range(5, 20)), (tuple(range(9)), (1, 2)), ((0, 1),))]
    said = reason(gemma(tmp_path, window=23), trees)
    assert said == "its attention looks 23 tokens back, and the longest text has 24"


def test_a_recurrent_model_is_a_reason() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    shape = MambaConfig(vocab_size=700, hidden_size=32, num_hidden_layers=1, state_size=4)
    model = adapted(MambaForCausalLM(shape), ["in_proj"])
    said = reason(model, plan.trees_of(pairs(queries=1)))
    assert said == "it keeps a state that all tokens of a row go into"


def test_a_share_of_wrong_pairs_is_for_the_robust_loss_alone() -> None:
    given = {"policy": {"model": "m"}, "training": {"learning_rate": 0.1}}
    for wrong in ({"loss": "robust"}, {"label_smoothing": 0.1}):
        with pytest.raises(
            ConfigError, match=r"label_smoothing: set it with `loss: robust`, and only there"
        ):
            parse(DPOConfig, {**given, **wrong}, "test")
