"""The packed step of SFT: the loss and gradients of its rows alone, and none sees another."""

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cowest import config, io, version
from cowest.domains import domain
from cowest.errors import ConfigError, ContractError
from cowest.stages import sft
from cowest.trees import packed, scores, trainer
from tests import tiny
from tests.trl_reference import assert_equal, gradients, policy

pytestmark = pytest.mark.slow


def rows(alike: int) -> list[dict[str, Any]]:
    """Texts of 3 to 40 tokens, the first `alike` of which are the same in all."""
    dice = random.Random(0)
    begun = [dice.randrange(5, 600) for _ in range(alike)]
    found = []
    for number in range(7):
        tokens = [*begun, 600 + number, *(dice.randrange(5, 600) for _ in range(2 + 5 * number))]
        found.append({"input_ids": tokens, "start": dice.randrange(alike + 1, len(tokens))})
    # A text comes back, and another goes on where one ends.
    found.append(found[2])
    found.append({**found[3], "input_ids": [*found[3]["input_ids"], 9, 8]})
    return found


def alone(model: Any, row: dict[str, Any]) -> Any:
    """The log-probability of an answer in a row of its own."""
    import torch

    tokens = torch.tensor([row["input_ids"]])
    found = model(input_ids=tokens, use_cache=False).logits[0, :-1].log_softmax(-1)
    return found.gather(1, tokens[0, 1:, None])[row["start"] - 1 :].sum()


@pytest.mark.parametrize("alike", [0, 6])
def test_loss_and_gradients_are_those_of_the_rows_alone(alike: int) -> None:
    model, given = policy(), rows(alike)
    learned = sum(len(row["input_ids"]) - row["start"] for row in given)
    expected = -sum(alone(model, row) for row in given) / learned
    expected.backward()
    slopes = gradients(model)

    trainer.attends_to_branches(model, True)
    inputs = packed.collate(given)
    assert inputs["shift_labels"].numel() == learned
    found = -scores.drafts(model, model.get_output_embeddings(), inputs).sum() / learned
    found.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert_equal(slopes, gradients(model))


def test_no_token_of_a_row_sees_another_rows() -> None:
    import torch

    model, given = policy(), rows(0)[:7]
    trainer.attends_to_branches(model, True)
    inputs = packed.collate(given)
    read: list[Any] = []

    def keep(_: Any, __: Any, states: Any) -> None:
        states.retain_grad()
        read.append(states)

    model.get_input_embeddings().weight.requires_grad_(True)
    model.get_input_embeddings().register_forward_hook(keep)
    found = scores.drafts(model, model.get_output_embeddings(), inputs)
    laid = inputs["input_ids"][0].tolist()
    for number, row in enumerate(given):
        (slope,) = torch.autograd.grad(found[number], read[0], retain_graph=True)
        first, length = laid.index(row["input_ids"][0]), len(row["input_ids"])
        own = list(range(first, first + length))
        assert [laid[place] for place in own] == row["input_ids"]
        assert inputs["position_ids"][0, own].tolist() == list(range(length))
        moved = slope[0].abs().sum(1).nonzero()[:, 0].tolist()
        # All but the last token, which nothing follows.
        assert moved == own[:-1]


def test_no_token_is_computed_for_nothing() -> None:
    given = rows(6)
    laid = packed.collate(given)["input_ids"]
    assert laid.shape[0] == 1
    assert laid.numel() == 6 + sum(len(row["input_ids"]) - 6 for row in given[:7]) + 2


def settings(step: str, model: Path, **more: Any) -> sft.SFTConfig:
    training = {"learning_rate": 0.003, "epochs": 2, "warmup_steps": 0, "max_length": 96}
    values = {
        "policy": {"provider": "hf", "model": str(model), "dtype": "float32"},
        "prompts": "handbook",
        "lora": {"r": 4, "alpha": 8, "targets": more.pop("targets", "all-linear")},
        "step": step,
        "training": {**training, "dtype": "float32", **more},
    }
    return config.parse(sft.SFTConfig, values, "test")


def trained(folder: Path, name: str, settings: sft.SFTConfig) -> dict[str, Any]:
    """The adapter that the stage trains on a few of the handbook's rows."""
    from safetensors.torch import load_file

    if not (folder / "corpus.jsonl").exists():
        io.write(folder / "corpus.jsonl", list(domain("handbook").corpus(tiny.HANDBOOK))[:40])
        version.write_none(folder / "start")
    sft.main(folder / "corpus.jsonl", folder / "start", folder / name, settings)
    found: dict[str, Any] = load_file(folder / name / "adapter" / "adapter_model.safetensors")
    return found


def test_the_stage_gives_what_trl_gives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = trained(tmp_path, "trl", settings("trl", tiny.model()))
    for parts in (1, 2, 3):
        own = trained(
            tmp_path, "own", settings("packed", tiny.model(), gradient_accumulation=parts)
        )
        assert_equal(theirs, own)
    assert "by TRL" not in capsys.readouterr().err
    losses = []
    for name in ("trl", "own"):
        rows = (tmp_path / name / "curves.jsonl").read_text().splitlines()
        losses.append([json.loads(row)["loss"] for row in rows])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_step_has_its_rows_in_any_number_of_parts(tmp_path: Path) -> None:
    """Parts that don't divide the batch, and more parts than rows."""
    steps = {}
    for batch, parts in ((6, 1), (6, 4), (2, 1), (2, 5)):
        name = f"{batch}-{parts}"
        more = {"batch_size": batch, "gradient_accumulation": parts, "epochs": 1}
        trained(tmp_path, name, settings("packed", tiny.model(), **more))
        last = (tmp_path / name / "curves.jsonl").read_text().splitlines()[-1]
        steps[batch, parts] = json.loads(last)["step"]
    assert steps[6, 4] == steps[6, 1] and steps[2, 5] == steps[2, 1] == 20


def test_the_head_is_no_target(tmp_path: Path) -> None:
    """Its adapter would be learned the wrong way round, and refused where it is used."""
    for name in ("lm_head", "embed_tokens"):
        given = settings("packed", tiny.model(), targets=["q_proj", name])
        with pytest.raises(ConfigError, match=f"sft.lora.targets: {name} stands outside"):
            trained(tmp_path, "none", given)


def test_a_training_that_diverges_is_an_error_at_its_end(tmp_path: Path) -> None:
    """Between two rows of the log, too."""
    more = {"learning_rate": 1e30, "batch_size": 10, "epochs": 1}
    with pytest.raises(ContractError, match=r"sft: the loss or a weight is not a finite number"):
        trained(tmp_path, "wild", settings("packed", tiny.model(), **more))
    assert not (tmp_path / "wild").exists()


def test_a_recurrent_policy_is_trained_with_padded_rows_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny.make_recurrent("lfm2", tmp_path / "model")
    theirs = trained(tmp_path, "trl", settings("trl", model, targets=["q_proj"], epochs=0.4))
    assert "padded" not in capsys.readouterr().err
    own = trained(tmp_path, "own", settings("packed", model, targets=["q_proj"], epochs=0.4))
    said = capsys.readouterr().err
    assert "is trained with padded rows, by TRL: it keeps a state" in said
    assert all(bool((theirs[name] == own[name]).all()) for name in theirs)


def test_attention_that_is_handed_no_rows_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    plain = LlamaDecoderLayer.forward

    def forward(self: Any, *given: Any, branches: Any = None, **more: Any) -> Any:
        return plain(self, *given, **more)

    texts = [packed.text(row["input_ids"][: row["start"]], row["input_ids"]) for row in rows(2)]
    made = SimpleNamespace(model=policy(), together=None)
    assert packed.reason_against(made, texts) is None
    monkeypatch.setattr(LlamaDecoderLayer, "forward", forward)
    made = SimpleNamespace(model=policy(), together=None)
    assert packed.reason_against(made, texts) == "its attention takes no several texts in one row"
