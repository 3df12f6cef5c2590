"""`cowest export`: a version that plain transformers and PEFT load, where there is no CoWest."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cowest import cli, evaluation, io, version
from cowest.config import Sampling, file_digest
from cowest.gates import Rules
from cowest.lineage import tags_of
from cowest.models.hf import HFConfig
from cowest.protocols import Request
from cowest.records import DataSet, Message
from cowest.registry.mlflow import RegistryConfig
from cowest.report import licence
from tests import tiny
from tests.factories import make_trial
from tests.registries import PROMPTS, empty_registry

pytestmark = pytest.mark.slow

QUESTION = "Which country makes the Phoenix fan?"
TOKENS = 8
DATA = {"raw": DataSet(path="data/raw", digest="d" * 64, kept="git", rev="c" * 40)}
NO_COWEST = """\
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "cowest":
            raise ImportError("no CoWest here")

sys.meta_path.insert(0, Blocked())
try:
    import cowest
except ImportError:
    pass
else:
    sys.exit("CoWest is here")
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a champion whose adapter changes what the tiny model says."""
    import peft
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("project")
    made = folder / "version"
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny.model())
    lora = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    tuned = peft.get_peft_model(model, lora)
    torch.manual_seed(1)
    for name, weight in tuned.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.5)
    tuned.save_pretrained(made / "adapter")
    version.write(made, base="tiny@1", prompts=PROMPTS, trained="t")
    registry = empty_registry(folder)
    rows = [[make_trial(number, system) for system in ("before", "after")] for number in range(12)]
    report = evaluation.compare(evaluation.gather(rows), Rules(gates=(), promote_everything=True))
    io.write_document(folder / "eval.json", report)
    runs = registry.runs()
    runs.keep(runs.of("aa"), folder / "eval.json")
    tags = {"report": file_digest(folder / "eval.json"), "params": "p" * 64} | tags_of(DATA)
    registry.open().decide(
        made, turn="aa", promote=True, against=None, reason="better by 0.1", tags=tags
    )
    write_params(folder, registry, {"provider": "hf", "model": str(tiny.model())})
    return folder


def write_params(folder: Path, registry: RegistryConfig, policy: dict[str, Any]) -> None:
    serve = {
        "registry": registry.model_dump(),
        "policy": policy,
        "strong": {"provider": "scripted", "rules": [{"match": "", "replies": ["x"]}]},
        "drafting": {"max_tokens": TOKENS},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump({"serve": serve}))


@pytest.fixture
def export(project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.setenv("COWEST_STORE", str(project / "calls.sqlite"))

    def run(to: Path, *more: str) -> int:
        return cli.main(
            ["export", "--params", str(project / "params.yaml"), "--to", str(to), *more]
        )

    return run


def said_by_cowest(project: Path) -> str | None:
    policy = HFConfig(model=str(tiny.model()))
    asked = PROMPTS.draft.render((Message(role="user", content=QUESTION),))
    with policy.open(adapter=project / "version" / "adapter") as model:
        (made,) = model.generate([Request(asked, Sampling(max_tokens=TOKENS))])
    return made.text


@pytest.mark.parametrize("merged", [False, True], ids=["adapter", "merged"])
def test_plain_transformers_and_peft_say_the_same(
    merged: bool, export: Callable[..., int], project: Path, tmp_path: Path
) -> None:
    to = tmp_path / "out"
    assert export(to, *(["--merged"] if merged else [])) == 0
    card = (to / "README.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    program = program.replace('question = "..."', f"question = {QUESTION!r}")
    command = [sys.executable, "-I", "-c", NO_COWEST + program]
    done = subprocess.run(command, cwd=to, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (said_by_cowest(project) or "").strip() != ""
    names = {path.name for path in to.iterdir()}
    assert ("model.safetensors" in names, "adapter_config.json" in names) == (merged, not merged)
    assert json.loads((to / "prompts.json").read_text()) == PROMPTS.model_dump(mode="json")


def test_the_card_says_what_the_registry_knows(export: Callable[..., int], tmp_path: Path) -> None:
    assert export(tmp_path / "out", "--version", "1") == 0
    card = (tmp_path / "out" / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["library_name"] == "peft"
    assert "base_model" not in head, "the hub knows no folder of this machine"
    assert f"A PEFT adapter (LoRA) on `{tiny.model()}`." in card
    assert "license" not in head and "Of the base model: unknown: look it up" in card
    assert "Promoted, judged against no champion: better by 0.1" in card
    # Of 12 groups without a fault: the interval is that of a count.
    assert "| collaboration after alignment | 1.000 | 0.735 to 1.000 | 12 |" in card
    assert "| after less before | +0.000 |" in card
    assert card.count("| after less policy before |") == 1
    assert f"| raw | data/raw | git at cccccccccccc |  | {'d' * 64} |" in card
    assert f"| settings | {'p' * 64} |" in card
    for title in ("Use", "Evaluation", "Data and training", "Intended use", "Licence"):
        assert f"\n## {title}\n" in card


def test_nothing_is_written_over_and_nothing_half(
    export: Callable[..., int], project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("mine")
    assert export(full) == 1
    assert "is not empty: name a new folder" in capsys.readouterr().err
    assert [path.name for path in full.iterdir()] == ["mine"]
    assert export(tmp_path / "none", "--version", "7") == 1
    assert "has no version 7" in capsys.readouterr().err
    registry = RegistryConfig(
        **yaml.safe_load((project / "params.yaml").read_text())["serve"]["registry"]
    )
    write_params(tmp_path, registry, {"provider": "scripted", "rules": [{"replies": ["x"]}]})
    to = tmp_path / "none"
    assert cli.main(["export", "--params", str(tmp_path / "params.yaml"), "--to", str(to)]) == 1
    assert "no weights here" in capsys.readouterr().err
    # A base that is not here stops it when the folder was begun.
    write_params(tmp_path, registry, {"provider": "hf", "model": str(tmp_path / "gone")})
    assert cli.main(["export", "--params", str(tmp_path / "params.yaml"), "--to", str(to)]) == 1
    assert not to.exists() and not [path for path in tmp_path.iterdir() if "none" in path.name]


@pytest.mark.parametrize("more", [(), ("--merged",)], ids=["adapter", "merged"])
def test_a_version_with_code_or_a_pickle_is_not_passed_on(
    more: tuple[str, ...],
    export: Callable[..., int],
    project: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = tmp_path / "version"
    shutil.copytree(project / "version", made)
    (made / "adapter" / "adapter_model.bin").write_bytes(b"a pickle")
    (made / "adapter" / "run.py").write_text("import os")
    version.write(made, base="tiny@1", prompts=PROMPTS, trained="t")
    registry = empty_registry(tmp_path)
    registry.open().decide(
        made, turn="aa", promote=True, against=None, reason="better by 0.1", tags={}
    )
    write_params(tmp_path, registry, {"provider": "hf", "model": str(tiny.model())})
    to = tmp_path / "out"
    params = ["--params", str(tmp_path / "params.yaml")]
    assert cli.main(["export", *params, "--to", str(to), *more]) == 1
    said = capsys.readouterr().err
    assert "adapter_model.bin: may be a pickle" in said and "run.py: code" in said
    assert not to.exists()


def test_the_licence_of_a_base_is_read_where_it_stands(tmp_path: Path) -> None:
    assert licence.of("org/name", tmp_path) == "unknown: look it up"
    assert licence.of("gemma3-270m", tmp_path) == "Gemma Terms of Use"
    (tmp_path / "LICENSE").write_text("\n  Apache License\nVersion 2.0\n")
    assert licence.of("org/name", tmp_path) == "Apache License (see LICENSE of the base)"
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: llama3.1\n---\n# x\n")
    assert licence.of("org/name", tmp_path) == "llama3.1"
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n")
    assert licence.of("org/name", tmp_path) == "Apache License (see LICENSE of the base)"
