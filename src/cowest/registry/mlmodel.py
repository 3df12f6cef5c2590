"""The files around a version's folder that make it an MLflow model.

    MLmodel                       the flavour `python_function`: loader, settings, signature
    version/                      the version's folder, as it was trained and judged
    wheels/cowest-...whl          CoWest itself, where it is installed as a distribution
    requirements.txt              and conda.yaml, python_env.yaml: the environment
    input_example.json            and serving_input_example.json: one question

They are written as text: no model is loaded for it, and nothing here imports MLflow. The digest of
a version is that of the folder inside, since MLflow writes beside `MLmodel` when it loads, and
`MLmodel` holds a time.
"""

import json
import platform
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from cowest import __version__
from cowest.config import section
from cowest.protocols import Serving
from cowest.records import Message
from cowest.registry import wheel

MLMODEL = "MLmodel"
INSIDE = "version"
"""Folder, beside `MLmodel`, of the version itself."""
LOADER = "cowest.online.pyfunc"
ANSWERING = ("policy", "strong", "drafting", "refining")
"""The settings of `serve` that a version carries."""
BASE = ("model", "dtype", "chat_template")
"""The settings that say which base a local model is, whatever runs it."""
EXTRAS = {"hf": "train", "openai": "strong"}
"""Extra of CoWest that opens a model, by its provider."""
TEXT = {"type": "string"}
MESSAGE = {
    "type": "object",
    "properties": {
        "content": {"type": "string", "required": True},
        "role": {"type": "string", "required": True},
    },
}
INPUTS = [
    {"name": "question", "required": False, **TEXT},
    {"name": "messages", "required": False, "type": "array", "items": MESSAGE},
]
OUTPUTS = [
    {"name": "answer", "required": False, **TEXT},
    {"name": "draft", "required": False, **TEXT},
    {"name": "failed", "required": False, **TEXT},
]


def settings_of(params: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns what answers with a version, by the settings of a project; None if they don't say.

    That is `serve`, or else the models of `evaluate`. Files are named by their whole path, since a
    model is loaded in any folder. The registry is left out: its address may hold a password. The
    values are not checked. Raises ConfigError for a section that is no mapping.
    """
    name = "serve" if params.get("serve") else "evaluate"
    if not params.get(name):
        return None
    found = section(dict(params), name)
    if not {"policy", "strong"} <= found.keys():
        return None
    kept = {key: found[key] for key in ANSWERING if key in found}
    for role in ("policy", "strong"):
        kept[role] = _anywhere(kept[role])
    return kept


def _anywhere(provider: Any) -> Any:
    """The settings of a model as they hold in any folder, and for one question at once."""
    if not isinstance(provider, Mapping):
        return provider
    found = dict(provider)
    if found.get("provider") == "vllm":
        # It decodes batches in another environment. A question is answered by the same base here.
        found = {"provider": "hf"} | {name: found[name] for name in BASE if name in found}
    # A question can't wait for a batch, as `serve` says of its own settings.
    found.pop("batch", None)
    model = found.get("model")
    if found.get("provider", "hf") == "hf" and isinstance(model, str) and Path(model).is_dir():
        found["model"] = str(Path(model).absolute())
    served = found.get("adapters_of")
    if served is not None:
        # The model of a server that swaps adapters, which is local here.
        found["adapters_of"] = _anywhere(served)
    egress = found.get("egress")
    if isinstance(egress, Mapping) and isinstance(egress.get("terms_file"), str):
        terms = str(Path(egress["terms_file"]).absolute())
        found["egress"] = {**egress, "terms_file": terms}
    return found


def write(folder: Path, serving: Serving) -> None:
    """Writes all files but the version itself into a folder that is there."""
    example = _example(serving.example)
    _json(folder / "input_example.json", example)
    _json(folder / "serving_input_example.json", {"dataframe_split": example})
    needed = _environment(folder, serving.settings)
    _write(folder / MLMODEL, _mlmodel(serving.settings, needed))


def _example(prompt: Sequence[Message]) -> dict[str, Any]:
    """One question as a frame of one row."""
    if len(prompt) == 1:
        return {"columns": ["question"], "data": [[prompt[0].content]]}
    said = [message.model_dump() for message in prompt]
    return {"columns": ["messages"], "data": [[said]]}


def _mlmodel(settings: Mapping[str, Any], needed: list[str]) -> dict[str, Any]:
    flavour = {
        "loader_module": LOADER,
        "data": INSIDE,
        "config": dict(settings),
        "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
        "python_version": platform.python_version(),
    }
    return {
        "flavors": {"python_function": flavour},
        "mlflow_version": needed[0].partition("==")[2] or None,
        "model_uuid": uuid.uuid4().hex,
        "saved_input_example_info": {
            "artifact_path": "input_example.json",
            "type": "dataframe",
            "pandas_orient": "split",
            "serving_input_path": "serving_input_example.json",
        },
        "signature": {
            "inputs": json.dumps(INPUTS),
            "outputs": json.dumps(OUTPUTS),
            "params": None,
        },
        "utc_time_created": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f}",
    }


def _environment(folder: Path, settings: Mapping[str, Any]) -> list[str]:
    """Writes the files that name the environment, and the wheel; returns the requirements."""
    extras = set()
    for role in ("policy", "strong"):
        extra = EXTRAS.get(settings[role]["provider"])
        if extra is not None:
            extras.add(extra)
    made = wheel.write(folder / "wheels")
    ours = f"cowest=={__version__}" if made is None else f"wheels/{made.name}"
    needed = [wheel.pinned("mlflow") or "mlflow", ours, *wheel.requirements(extras)]
    text = "".join(f"{line}\n" for line in needed)
    (folder / "requirements.txt").write_text(text, encoding="utf-8")
    python = platform.python_version()
    pip = {"pip": ["-r requirements.txt"]}
    conda = {
        "name": "cowest",
        "channels": ["conda-forge"],
        "dependencies": [f"python={python}", "pip", pip],
    }
    _write(folder / "conda.yaml", conda)
    built_by = ["pip", "setuptools", "wheel"]
    virtual = {
        "python": python,
        "build_dependencies": built_by,
        "dependencies": ["-r requirements.txt"],
    }
    _write(folder / "python_env.yaml", virtual)
    return needed


def _json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")


def _write(path: Path, value: object) -> None:
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8")
