"""Packs a folder for a container that serves: settings, CoWest, and models and a version if asked.

params.yaml     the section `serve` alone, with paths that hold in the container
wheels/         CoWest as it runs here, whether it came from an index or from a checkout
terms/          files that the egress filter reads
models/         local models (baked)
version/        the version that answers (baked)
"""

import shutil
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from cowest.config import parse
from cowest.errors import ConfigError
from cowest.io import write_text
from cowest.models import AnyProvider
from cowest.models.hf import HFConfig
from cowest.models.openai import OpenAIConfig
from cowest.online import live
from cowest.online.live import ServeConfig
from cowest.passwords import passwords
from cowest.registry import wheel
from cowest.registry.runs import SQLITE

DATA = "/data"
"""The container's one persistent folder: the log of answers, and the call store."""
ROLES = ("policy", "strong")
READABLE = (
    "serve.{}.terms_file is a part of the image, and everybody who has the image can read it: give "
    "the image to nobody who is not to see these terms"
)


def pack(
    given: Mapping[str, Any], folder: Path, bake: bool = False, number: int | None = None
) -> ServeConfig:
    """Fills a new folder from the settings `serve`, and returns them as they hold in the container.

    With `bake`, the champion, or the version `number`, goes in together with the local models.
    Without it, the container asks the registry for the champion and finds the models where it runs.
    The working folder is the project's. Raises ConfigError, ModelError and RegistryError.
    """
    config = parse(ServeConfig, given, "serve")
    settings: dict[str, Any] = deepcopy(dict(given))
    _expect_no_password(config)
    folder.mkdir(parents=True)
    if wheel.write(folder / "wheels") is None:
        raise ConfigError(
            "CoWest is found by PYTHONPATH here and is not installed, so no container can carry "
            "it: install it first (pip install .)"
        )
    for role in ROLES:
        provider = getattr(config, role)
        if isinstance(provider, OpenAIConfig) and provider.egress.terms_file is not None:
            _carry_terms(provider.egress.terms_file, settings[role]["egress"], role, folder)
        if bake and isinstance(provider, HFConfig):
            _carry_model(provider, settings[role], folder)
        if bake and isinstance(provider, OpenAIConfig) and provider.adapters_of is not None:
            # It is loaded by the server alone, but an adapter's base is known by its files.
            _carry_model(provider.adapters_of, settings[role]["adapters_of"], folder)
    if bake:
        number = live.fetch(config, folder / "version", number)
        settings["baked"] = {"number": number, "folder": "version"}
        # Its address is of no use there.
        settings["registry"] = {"name": config.registry.name}
    log = settings["log"] = settings.get("log") or {}
    if not config.log.folder.is_absolute():
        log["folder"] = f"{DATA}/log"
    if config.log.detection.terms_file is not None:
        _carry_terms(config.log.detection.terms_file, log["detection"], "log", folder)
    write_text(folder / "params.yaml", yaml.safe_dump({"serve": settings}, sort_keys=False))
    for path in folder.rglob("*"):
        # Weights are often written for their owner alone, and a container runs as somebody else.
        path.chmod(0o755 if path.is_dir() else 0o644)
    return parse(ServeConfig, settings, "serve")


def lacking(config: ServeConfig) -> list[str]:
    """Returns what the container needs beside its image, one sentence each."""
    found = []
    if not config.keys:
        found.append(
            "serve.keys has no key, and the image does not start without one: `cowest key --name "
            "NAME` makes one"
        )
    if config.baked is None and config.registry.uri.startswith(SQLITE):
        found.append(
            f"the registry {config.registry.uri} is a file of this machine: put the champion "
            "into the image (--bake), name a server in serve.registry.uri, or mount the project"
        )
    for role in ROLES:
        found += _lacking_for(role, getattr(config, role), config.baked is not None)
    if config.log.detection.terms_file is not None:
        found.append(READABLE.format("log.detection"))
    return found


def _lacking_for(role: str, provider: AnyProvider, is_baked: bool) -> list[str]:
    """Returns what one model needs beside the image."""
    found = []
    local = provider
    if isinstance(provider, OpenAIConfig):
        local = provider.adapters_of or provider
        if provider.egress.terms_file is not None:
            found.append(READABLE.format(f"{role}.egress"))
    if isinstance(local, HFConfig) and not is_baked:
        found.append(
            f"the {role} model {local.model} stays outside: put it into the image (--bake) or "
            "mount it where serve names it"
        )
    if isinstance(provider, OpenAIConfig) and provider.adapters_of is not None:
        found.append(
            f"the server of the {role} model ({provider.base_url}) reads the adapter itself: give "
            "both one folder under the same path, name it to the container with -e TMPDIR=PATH, "
            "and let both run as one user"
        )
    elif isinstance(local, HFConfig) and local.device != "cpu":
        found.append(
            f"the {role} model runs on {local.device}, and the image has torch's CPU build: build "
            "it with --build-arg TORCH_FIND_LINKS= , which takes PyPI's, and start the container "
            "with its GPU (docker run --gpus all)"
        )
    return found


def _expect_no_password(config: ServeConfig) -> None:
    """Raises ConfigError if every copy of the image would hold a secret."""
    if passwords(config.registry.uri):
        raise ConfigError(
            "serve.registry.uri holds a password, and everybody with the image could read it: "
            "leave it out and give the container PGPASSWORD, or MLFLOW_TRACKING_PASSWORD for a "
            "server"
        )


def _carry_terms(terms: Path, settings: dict[str, Any], name: str, folder: Path) -> None:
    """Copies the egress filter's file of own terms, without which the filter would not start."""
    kept = Path("terms") / f"{name}{terms.suffix}"
    (folder / "terms").mkdir(exist_ok=True)
    try:
        shutil.copyfile(terms, folder / kept)
    except OSError as error:
        raise ConfigError(f"serve: terms_file {terms} can't be read: {error.strerror}") from None
    settings["terms_file"] = kept.as_posix()


def _carry_model(provider: HFConfig, settings: dict[str, Any], folder: Path) -> None:
    """Copies a local model. Its last name stays, since that is a part of its identity."""
    found = provider.folder()
    name = provider.base_name(found)
    # Two models may have one name; equal ones are copied once.
    kept = Path("models") / name.rpartition("@")[2] / Path(provider.model).name
    if not (folder / kept).exists():
        shutil.copytree(found, folder / kept)
    settings["model"] = kept.as_posix()
