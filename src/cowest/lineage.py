"""What a turn rests on: its data, settings and code. Equal digests are the same turn, which is decided once."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

import cowest
from cowest.config import Config, digest, file_digest, load, parse
from cowest.errors import ConfigError, InputError
from cowest.models.hf import HFConfig
from cowest.raw import snapshots
from cowest.records import DataSet, Record

NOT_ROWS = (
    "cli.py", "commands/", "online/", "preflight.py", "forecast.py", "report/", "lineage.py",
    "registry/", "amend.py", "progress.py", "raw/snapshots.py", "raw/vcs.py", "raw/difference.py",
    "stages/pin.py", "stages/register.py",
)  # fmt: skip
"""Parts of the package that no row of a turn depends on: a change there is no new turn."""


NOT_SETTINGS = {"registry", "budget", "price", "batch", "allow_address", "on_version_change"}
"""Settings that change no row: a turn that ran into its budget goes on when that is raised, one that waits for batches without them."""


DATASET = "dataset/"
"""Tags of data sets begin so."""


class TurnConfig(Config):
    """The raw data of a turn, and which version of them."""

    raw: Path
    """Where `prepare` reads them."""
    rev: str | None = None
    """The git revision whose version of them the turn takes: fetched, and laid out at `raw`. Left out: what lies there, which must be
    the version that is committed, where DVC or git has one."""
    path: Path | None = None
    """Where they lie at that revision, if not at `raw`: so that an old version is laid out beside the one worked on."""

    def model_post_init(self, _: Any) -> None:
        if self.path is not None and self.rev is None:
            raise ValueError("path: needs a `rev`: it says where the data lie at that revision")


class Turn(Record):
    """turn.json: what a turn rests on, pinned before it starts."""

    key: str
    """Digest of data, params and code: the turn's name in the registry and the tracker."""
    data: dict[str, str]
    """Digest of each raw file, by its path in the raw folder."""
    raw: DataSet | None = None
    """The raw data under the name and revision by which they are found again."""
    models: dict[str, str]
    """Name of each local model by content, by what params.yaml calls it: other files under the same name are another turn."""
    params: str
    """Digest of the settings, NOT_SETTINGS left out."""
    code: str
    """Digest of the sources that rows depend on."""
    champion: int | None
    """The version it starts from and is judged against; None where there is none."""


def turn_of(raw: Path, params: Path, champion: int | None = None) -> Turn:
    """The turn that these data and settings make. Raises InputError for data that are not there, ConfigError.

    The key leaves the champion out: the same data are not learned twice because somebody promoted something between.
    Paths of this machine have no part in it: a pipeline elsewhere makes the same turn.
    """
    values = load(params)
    named = parse(TurnConfig, {"raw": raw} | (values.get("turn") or {}), f"{params}: turn")
    version = snapshots.version_at(raw, named.rev, named.path or named.raw)
    data, models, settings, code = (
        data_digests(raw),
        local_models(values),
        params_digest(values, str(params)),
        code_digest(),
    )
    if named.rev is None and "turn" in values:
        version = version.model_copy(
            update={"path": named.raw.as_posix()}
        )  # its name in the project, wherever a step has the files
    key = digest([data, sorted(models.values()), settings, code])
    return Turn(
        key=key,
        data=data,
        raw=version,
        models=models,
        params=settings,
        code=code,
        champion=champion,
    )


def tags_of(data: dict[str, DataSet]) -> dict[str, str]:
    """How a decision and a run name the data sets that they rest on, by what each is to the turn: raw, queries, corpus, pairs."""
    return {
        f"{DATASET}{name}": one.model_dump_json(exclude_none=True) for name, one in data.items()
    }


def data_of(tags: dict[str, str]) -> dict[str, DataSet]:
    """The data sets that a decision's tags name; none for one from before they were kept."""
    found = {}
    for tag, value in tags.items():
        if tag.startswith(DATASET):
            try:
                found[tag.removeprefix(DATASET)] = DataSet.model_validate_json(value)
            except ValidationError:  # changed by hand
                continue
    return found


def local_models(params: dict[str, Any]) -> dict[str, str]:
    """Names by content of the models that stages load from this machine. Raises ModelError for one that is not there."""
    found = {}
    waiting: list[Any] = [
        section for name, section in params.items() if name not in ("models", "serve")
    ]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict) and value.get("provider") == "hf":
            model = parse(HFConfig, value, "params.yaml")
            found[model.model] = model.base_name(model.folder())
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return found


def data_digests(raw: Path) -> dict[str, str]:
    """Digest of each file of a folder, hidden ones left out; a single file is `raw`."""
    if raw.is_file():
        return {"raw": file_digest(raw)}
    if not raw.is_dir():
        raise InputError(
            f"{raw}: no such file or folder: params.yaml names the raw data in turn.raw"
        )
    names = sorted(
        part for part in raw.rglob("*") if part.is_file() and not _hidden(part.relative_to(raw))
    )
    if not names:
        raise InputError(f"{raw} has no files: params.yaml names the raw data in turn.raw")
    return {part.relative_to(raw).as_posix(): file_digest(part) for part in names}


def settings_of(params: dict[str, Any]) -> dict[str, Any]:
    """The settings that rows depend on: not NOT_SETTINGS, however deep (where a decision is kept, what calls may cost), not what
    is served (`serve`), not where the data are (`turn`: what they are counts), nor the anchors of `models`, which count where used."""
    return {
        name: _without(section)
        for name, section in params.items()
        if name not in {*NOT_SETTINGS, "models", "serve", "turn"}
    }


def _without(settings: Any) -> Any:
    if isinstance(settings, dict):
        return {
            name: _without(value) for name, value in settings.items() if name not in NOT_SETTINGS
        }
    return [_without(value) for value in settings] if isinstance(settings, list) else settings


def params_digest(params: dict[str, Any], where: str = "params.yaml") -> str:
    """Digest of the settings. Raises ConfigError for what YAML has and settings have not."""
    try:
        return digest(settings_of(params))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{where} holds something that is no setting: {error}; is there a date without quotes, or a .nan?"
        ) from None


def code_digest(package: Path | None = None) -> str:
    """Digest of the package's files, by their path in it, NOT_ROWS left out."""
    package = Path(cowest.__file__).parent if package is None else package
    names = (
        (part, part.relative_to(package)) for part in sorted(package.rglob("*")) if part.is_file()
    )
    return digest(
        {
            name.as_posix(): file_digest(part)
            for part, name in names
            if not _hidden(name)
            and part.suffix != ".pyc"
            and not name.as_posix().startswith(NOT_ROWS)
        }
    )


def _hidden(name: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in name.parts)
