"""After training, what should be likelier is."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from cowest import config, io, version
from cowest.domains import domain
from cowest.errors import ConfigError, ContractError, ModelError
from cowest.models.hf import HFConfig, load
from cowest.records import Demonstration, Message, PreferencePair
from cowest.stages import dpo, sft
from tests import tiny
from tests.factories import make_feedback, make_pair

POLICY = {"provider": "hf", "model": "", "dtype": "float32"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, and a policy trained on it."""
    folder = tmp_path_factory.mktemp("training")
    POLICY["model"] = str(tiny.model())
    io.write(folder / "corpus.jsonl", list(domain("handbook").corpus(tiny.HANDBOOK))[:96])
    version.write_none(folder / "start")
    sft.main(folder / "corpus.jsonl", folder / "start", folder / "policy", settings_of_sft())
    return folder


def settings_of_sft(start: str = "base", r: int = 8, **training: Any) -> sft.SFTConfig:
    how = {
        "learning_rate": 0.01,
        "epochs": 3,
        "batch_size": 16,
        "warmup_steps": 0,
        "max_length": 96,
        **training,
    }
    values = {
        "policy": POLICY,
        "prompts": "handbook",
        "lora": {"r": r, "alpha": 16},
        "training": how,
        "start": start,
    }
    return config.parse(sft.SFTConfig, values, "test")


def settings_of_dpo(**more: Any) -> dpo.DPOConfig:
    how = {
        "learning_rate": 0.003,
        "epochs": 4,
        "batch_size": 8,
        "warmup_steps": 0,
        "max_length": 96,
    }
    return config.parse(
        dpo.DPOConfig, {"policy": POLICY, "nll": 0.0, "training": how, **more}, "test"
    )


def pairs() -> list[PreferencePair]:
    """Naming the plant is what helped, naming the core is what did not."""
    return [make_pair(number) for number in range(32)]


def likelihood(adapter: Path | None, rows: list[tuple[tuple[Message, ...], str]]) -> list[float]:
    """Log-probability of each completion after its prompt, in nats."""
    import torch
    from peft import PeftModel

    model, tokenizer = load(HFConfig(**POLICY))
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    found = []
    for prompt, completion in rows:
        said = [message.model_dump() for message in prompt]
        before = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False)
        whole = tokenizer.apply_chat_template(
            [*said, {"role": "assistant", "content": completion}], return_dict=False
        )
        with torch.no_grad():
            scores = torch.log_softmax(model(torch.tensor([whole])).logits[0].float(), -1)
        found.append(
            sum(scores[place - 1, whole[place]].item() for place in range(len(before), len(whole)))
        )
    return found


def test_sft_makes_the_corpus_likelier(folder: Path) -> None:
    rows = [
        (row.prompt, row.completion) for row in io.read(folder / "corpus.jsonl", Demonstration)
    ][:24]
    before, after = likelihood(None, rows), likelihood(folder / "policy" / "adapter", rows)
    assert sum(after) > sum(before) + 10 * len(rows)
    losses = [json.loads(line)["loss"] for line in (folder / "policy" / "curves.jsonl").open()]
    assert losses[-1] < losses[0]


def test_sft_hands_on_what_rests_on_the_same(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sft.main(folder / "corpus.jsonl", folder / "policy", folder / "handed", settings_of_sft())
    assert "handed on" in capsys.readouterr().err
    assert version.expect(folder / "handed") == version.expect(folder / "policy")
    sft.main(
        folder / "corpus.jsonl", folder / "policy", folder / "anew", settings_of_sft(epochs=0.2)
    )
    assert version.expect(folder / "anew").adapter != version.expect(folder / "policy").adapter


def losses(version_folder: Path) -> list[float]:
    lines = (version_folder / "curves.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines if "loss" in json.loads(line)]


def test_a_changed_corpus_goes_on_from_the_champion_where_it_is_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = list(io.read(folder / "corpus.jsonl", Demonstration))
    io.write(folder / "week.jsonl", rows[:64])
    champion = folder / "policy"
    sft.main(folder / "week.jsonl", champion, folder / "lost", settings_of_sft())
    said = capsys.readouterr().err
    assert "trained from the base again" in said and "sft.start: champion" in said
    assert version.expect(folder / "lost").continued is None

    going_on = settings_of_sft("champion")
    sft.main(folder / "week.jsonl", champion, folder / "kept", going_on)
    assert "goes on from the champion's adapter" in capsys.readouterr().err
    kept = version.expect(folder / "kept")
    assert kept.continued == version.expect(champion).adapter
    assert kept.trained != version.expect(folder / "lost").trained
    assert losses(folder / "kept")[0] < 0.7 * losses(folder / "lost")[0]

    sft.main(folder / "week.jsonl", folder / "kept", folder / "next", going_on)
    assert "handed on" in capsys.readouterr().err
    assert version.expect(folder / "next") == kept

    sft.main(folder / "corpus.jsonl", folder / "kept", folder / "back", going_on)
    assert version.expect(folder / "back").continued == kept.adapter, "a corpus is new work again"


def test_a_champion_of_another_base_stops_before_anything_is_trained(folder: Path) -> None:
    stranger = folder / "stranger"
    shutil.copytree(folder / "policy", stranger)
    kept = version.expect(stranger)
    version.write(stranger, base="other@1", prompts=kept.prompts, trained=kept.trained)
    with pytest.raises(ModelError, match=r"an adapter of other@1, and sft\.policy is"):
        sft.main(folder / "corpus.jsonl", stranger, folder / "nowhere", settings_of_sft())
    assert not (folder / "nowhere").exists()


def test_an_adapter_of_another_shape_is_not_gone_on_from(folder: Path) -> None:
    rows = list(io.read(folder / "corpus.jsonl", Demonstration))
    io.write(folder / "another.jsonl", rows[:16])
    with pytest.raises(ConfigError, match=r"another shape than sft\.lora \(r 8, asked 4"):
        sft.main(
            folder / "another.jsonl",
            folder / "policy",
            folder / "narrow",
            settings_of_sft("champion", r=4),
        )
    assert not (folder / "narrow").exists()


def test_dpo_makes_the_chosen_likelier_against_the_rejected(folder: Path) -> None:
    rows = pairs()
    io.write(folder / "pairs.jsonl", rows)
    dpo.main(
        folder / "pairs.jsonl",
        fed(folder),
        folder / "policy",
        folder / "challenger",
        settings_of_dpo(),
    )
    sides = [
        [(row.prompt, getattr(row, side)[0].content) for row in rows]
        for side in ("chosen", "rejected")
    ]
    margins = {
        name: sum(likelihood(folder / name / "adapter", sides[0]))
        - sum(likelihood(folder / name / "adapter", sides[1]))
        for name in ("policy", "challenger")
    }
    assert margins["challenger"] > margins["policy"] + 2 * len(rows)
    curves = [json.loads(line) for line in (folder / "challenger" / "curves.jsonl").open()]
    # The first step's policy is its reference, the adapter as SFT left it; were it the base, the
    # loss would be another.
    assert curves[0]["loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert curves[-1]["rewards/accuracies"] > 0.9
    made = version.expect(folder / "challenger")
    assert made.trained == version.expect(folder / "policy").trained
    assert made.gains is not None and made.gains.queries == 2
    assert (made.gains.counts[20], made.gains.counts[40]) == (1, 1), "gains of 0 and 1"


def fed(folder: Path) -> Path:
    """Feedback on two queries: the drafts of one helped."""
    io.write(folder / "feedback.jsonl", [make_feedback(0), make_feedback(1, score=0.0)])
    return folder / "feedback.jsonl"


def test_an_adapter_says_nothing_of_where_it_was_made(folder: Path) -> None:
    text = "".join(
        path.read_text(errors="replace")
        for path in (folder / "policy" / "adapter").iterdir()
        if path.suffix != ".safetensors"
    )
    assert str(tiny.model()) not in text and str(folder) not in text


def test_equal_training_gives_equal_bytes(folder: Path) -> None:
    sft.main(folder / "corpus.jsonl", folder / "start", folder / "again", settings_of_sft())
    assert version.expect(folder / "again").adapter == version.expect(folder / "policy").adapter


def test_another_base_is_refused(folder: Path) -> None:
    io.write(folder / "pairs.jsonl", pairs())
    other = settings_of_dpo(policy={**POLICY, "dtype": "bfloat16"})
    with pytest.raises(ModelError, match="name the same base"):
        dpo.main(folder / "pairs.jsonl", fed(folder), folder / "policy", folder / "never", other)
    assert not (folder / "never").exists()


def test_nothing_to_learn_from_is_said(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ContractError, match="corpus is empty"):
        sft.main(tmp_path / "empty.jsonl", folder / "start", tmp_path / "out", settings_of_sft())
    with pytest.raises(ContractError, match="no pairs"):
        dpo.main(
            tmp_path / "empty.jsonl",
            fed(folder),
            folder / "policy",
            tmp_path / "out",
            settings_of_dpo(),
        )
    assert not (tmp_path / "out").exists()
