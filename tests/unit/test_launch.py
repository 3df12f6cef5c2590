"""The number of processes that train a stage, and refusals before any of them starts."""

from pathlib import Path
from typing import Any

import pytest

from cowest.aligning.settings import DPOConfig
from cowest.config import Config
from cowest.distributed.launch import elsewhere
from cowest.distributed.task import Task, described, error_of
from cowest.errors import ConfigError, CoWestError, ModelError
from cowest.stages import dpo
from cowest.training import shares

TASK = Task("dpo", Config(), {"pairs": Path("pairs.jsonl")}, {"challenger": Path("challenger")})
UNSET = ("COWEST_NPROC", "COWEST_TRAINJOB", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "PET_NNODES")


@pytest.fixture(autouse=True)
def _asked_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in UNSET:
        monkeypatch.delenv(name, raising=False)


def asked(monkeypatch: pytest.MonkeyPatch, **variables: str) -> bool:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return elsewhere(TASK)


def test_one_process_trains_where_nobody_asked_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not elsewhere(TASK)
    assert not asked(monkeypatch, COWEST_NPROC="1")
    # In a process that was started with others, the caller trains.
    assert not asked(monkeypatch, COWEST_NPROC="4", WORLD_SIZE="8", LOCAL_WORLD_SIZE="4")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"COWEST_NPROC": "0"}, "COWEST_NPROC=0"),
        ({"COWEST_NPROC": "two"}, "COWEST_NPROC=two"),
        ({"COWEST_NPROC": "4", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, "torchrun started 2"),
        ({"PET_NNODES": "2"}, "begin the command with `torchrun -m`"),
        ({"COWEST_TRAINJOB": "{store: ["}, "is not YAML"),
        ({"COWEST_TRAINJOB": "{nodes: 2, nodes: 3}"}, "COWEST_TRAINJOB: 'nodes' is written twice"),
        ({"COWEST_TRAINJOB": "{nodes: 2}"}, "COWEST_TRAINJOB: store"),
        ({"COWEST_TRAINJOB": "{store: 's3://b', node: 2}"}, "COWEST_TRAINJOB: node"),
        (
            {"COWEST_TRAINJOB": "{store: 's3://b'}", "COWEST_NPROC": "2"},
            "dpo: COWEST_NPROC=2 asks .* unset one of them",
        ),
    ],
    ids=str,
)
def test_what_can_not_be_meant_is_refused(
    variables: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=said):
        asked(monkeypatch, **variables)


@pytest.mark.parametrize(
    "variables",
    [{"COWEST_NPROC": "2"}, {"COWEST_TRAINJOB": "{store: 's3://b'}"}, {"WORLD_SIZE": "2"}],
    ids=str,
)
def test_a_training_that_asks_models_is_one_process(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # An empty variable asks for nothing, as where a step unsets what all steps have.
    monkeypatch.setenv("COWEST_TRAINJOB", "")
    assert not elsewhere(TASK, alone="grpo asks models")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="grpo asks models, and needs a single process"):
        elsewhere(TASK, alone="grpo asks models")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"align": "grpo"}, "`align: grpo` asks models during training"),
        ({"rounds": 2}, "`rounds` over 1 asks models during training"),
        ({"step": "trl"}, "`step: trl` trains by TRL"),
    ],
    ids=str,
)
def test_what_takes_one_process_is_known_by_its_settings(
    setting: dict[str, Any], said: str
) -> None:
    plain = DPOConfig.model_construct(align="dpo", rounds=1, step="tree")
    assert dpo.one_process(plain) is None
    assert said in str(dpo.one_process(plain.model_copy(update=setting)))


def test_an_error_is_the_same_in_another_process() -> None:
    found = error_of(described(ModelError("no such model")))
    assert type(found) is ModelError and str(found) == "no such model"
    unknown = error_of('{"kind": "SystemExit", "words": "hostile"}')
    assert type(unknown) is CoWestError


def test_the_rows_of_a_step_are_dealt_out_whole() -> None:
    assert shares([5, 2, 9, 4, 1], 2) == [[5, 9, 1], [2, 4]]
    assert shares([5, 2], 2) == [[5], [2]]
    # Fewer rows than parts: each part has all, so that the mean over the step stays.
    assert shares([7, 3], 3) == [[7, 3]] * 3
