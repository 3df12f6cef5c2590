"""The data, settings and code that a turn rests on.

Equal digests are the same turn, and a turn is decided once.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, ValidationError

import cowest
from cowest.config import Config, digest, file_digest, load, parse
from cowest.errors import ConfigError, InputError
from cowest.models import AnyProvider
from cowest.models.hf import HFConfig
from cowest.models.openai import OpenAIConfig
from cowest.models.scripted import ScriptedConfig, ScriptedModel
from cowest.models.vllm import MARK, VLLMConfig
from cowest.raw import snapshots
from cowest.records import Changes, DataSet, Decision, Record, Split
from cowest.scorers import AnyScorer
from cowest.scorers.judge import JudgeConfig

NOT_ROWS = (
    "cli.py", "commands/", "online/", "preflight.py", "rawdata.py", "forecast.py", "profiles.py",
    "reach.py", "steps/", "kubeflow/", "report/", "lineage.py", "registry/", "amend.py",
    "progress.py", "passwords.py", "raw/snapshots.py", "raw/listings.py", "raw/vcs.py",
    "raw/difference.py", "stages/pin.py", "stages/register.py",
)  # fmt: skip
"""Parts of the package that no row of a turn depends on: a change there makes no new turn.

The same list as in `.dvcignore`.
"""
NOT_SETTINGS = {
    "registry", "budget", "price", "batch", "allow_address", "on_version_change", "traces",
    "require_approval", "python",
}  # fmt: skip
"""Settings that change no row.

So a turn that reached its budget goes on when the budget is raised, and one that waits for batches
can go on without them.
"""
NAMED = {"candidates", "extra"}
"""Settings in which people give the names (of prompts, of an endpoint's fields), all of which
count."""
DATASET = "dataset/"
"""Tags of data sets begin with this."""


class TurnConfig(Config):
    """The raw data of a turn and their version."""

    raw: Path
    """The place where `prepare` reads the data, relative to params.yaml."""
    rev: str | None = None
    """The git revision whose version of the data the turn takes; it is fetched and laid out at
    `raw`. Without it the turn takes what lies at `raw`, which must be the committed version if DVC
    or git has one."""
    path: Path | None = None
    """The place of the data at that revision, if it is not `raw`. So an old version can be laid out
    beside the one that is worked on."""
    webhook_env: str | None = Field(default=None, pattern=r"^[A-Z_][A-Z0-9_]*$")
    """NAME of the environment variable with the address to which a run of the Kubeflow pipeline
    posts what became of it, as JSON. Null posts nothing. The address itself is often a secret."""

    def model_post_init(self, _: Any) -> None:
        if self.path is not None and self.rev is None:
            raise ValueError("path: needs a `rev`: it says where the data lie at that revision")


class Turn(Record):
    """The record in turn.json: what a turn rests on, pinned before it starts."""

    key: str
    """Digest of data, params and code: the turn's name in the registry and the tracker."""
    data: dict[str, str]
    """Digest of each raw file, by its path in the raw folder."""
    raw: DataSet | None = None
    """The raw data with the name and revision by which they can be found again."""
    models: dict[str, str]
    """Name by content of each local model, by its name in params.yaml. Other files under the same
    name are another turn."""
    params: str
    """Digest of the settings without NOT_SETTINGS."""
    code: str
    """Digest of the sources that rows depend on."""
    champion: int | None
    """The version that the turn starts from and is judged against; None if there is none."""
    champion_files: str | None = None
    """Digest of the folder of that version, as the registry has it."""
    champion_digest: str | None = None
    """Digest of what that version's answers follow from (`Version.digest`)."""
    since: Changes | None = None
    """The difference to what that version rests on; None if there is no champion."""


class Judging(Config):
    """The settings of `evaluate` that its rows name."""

    policy: AnyProvider | None = None
    """The base model that all adapters belong to."""
    strong: AnyProvider | None = None
    """The strong model."""
    scorer: AnyScorer | None = None
    """The scorer of all systems."""
    split: Split = "test"
    """The held-out queries, by default those that `evaluate` takes."""


class Names(NamedTuple):
    """The names of what `evaluate` names; None where the settings give no name, or several."""

    base: str | None
    strong: str | None
    scorer: str | None
    split: str | None


def turn_of(
    raw: Path, params: Path, champion: int | None = None, version: DataSet | None = None
) -> Turn:
    """Returns the turn that these data and settings make.

    version: the data set at `raw`, where somebody else verified and laid it out, as the first step
    of a pipeline does. Raises InputError for data that are not there, and ConfigError.
    """
    values = load(params)
    named = parse(TurnConfig, {"raw": raw} | (values.get("turn") or {}), f"{params}: turn")
    if version is None:
        version = snapshots.version_at(raw, named.rev, named.path or named.raw)
        if named.rev is None and "turn" in values:
            # The files may lie somewhere else; the project's name for them is kept.
            version = version.model_copy(update={"path": named.raw.as_posix()})
    data = data_digests(raw)
    models = local_models(values)
    settings = params_digest(values, str(params))
    code = code_digest()
    # The champion is no part of the key: if somebody promotes another version in between, the same
    # data are not learned twice. Nor are paths, so a pipeline elsewhere makes the same turn.
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


def is_another(turn: Turn, log: Iterable[Decision]) -> bool:
    """True if the log holds other files under the number of the champion that was pinned.

    So it is where the settings name another registry than the turn was pinned with.
    """
    files = turn.champion_files
    return any(one.version == turn.champion and one.digest != files for one in log)


def tags_of(data: dict[str, DataSet]) -> dict[str, str]:
    """Returns the tags of a decision and a run that name the data sets behind them.

    The data sets are named by what each is to the turn: raw, queries, corpus, pairs.
    """
    tags = {}
    for name, one in data.items():
        tags[f"{DATASET}{name}"] = one.model_dump_json(exclude_none=True)
    return tags


def data_of(tags: dict[str, str]) -> dict[str, DataSet]:
    """Returns the data sets that a decision's tags name.

    A decision from before data sets were recorded has none.
    """
    found = {}
    for tag, value in tags.items():
        if tag.startswith(DATASET):
            try:
                found[tag.removeprefix(DATASET)] = DataSet.model_validate_json(value)
            except ValidationError:
                # Somebody changed the tag by hand. A tag is a note, so it stops nobody.
                continue
    return found


def local_models(params: dict[str, Any]) -> dict[str, str]:
    """Returns the name by content of each model that stages load from this machine.

    Raises ModelError for a model that is not there.
    """
    return {base.model: base.base_name(base.folder()) for base in _bases(params)}


def names_of(params: dict[str, Any], pinned: Turn) -> Names:
    """Returns the names that rows of this turn have for what `evaluate` names.

    Local models are named by the files that were pinned, which need not be here. Raises
    ConfigError.
    """
    asked = params.get("evaluate") or {}
    known = {name: asked[name] for name in Judging.model_fields if name in asked}
    judging = parse(Judging, known, "params.yaml: evaluate")
    policy: Any = judging.policy
    if isinstance(policy, OpenAIConfig):
        policy = policy.adapters_of
    base = None
    if isinstance(policy, VLLMConfig):
        base = _pinned_name(policy.base(), params, pinned)
    elif isinstance(policy, HFConfig):
        base = _pinned_name(policy, params, pinned)
    strong = _name(judging.strong, params, pinned)
    scorer = _scorer(judging.scorer, params, pinned)
    return Names(base, strong, scorer, judging.split if asked else None)


def _name(provider: AnyProvider | None, params: dict[str, Any], pinned: Turn) -> str | None:
    """The name of a model without an adapter and without an egress filter."""
    if isinstance(provider, HFConfig):
        return _pinned_name(provider, params, pinned)
    if isinstance(provider, VLLMConfig):
        base = _pinned_name(provider.base(), params, pinned)
        return None if base is None else base + MARK
    if isinstance(provider, ScriptedConfig):
        return ScriptedModel(provider).name
    return None if provider is None else provider.name


def _scorer(scorer: AnyScorer | None, params: dict[str, Any], pinned: Turn) -> str | None:
    """The name of a scorer; its judge has no egress filter."""
    if scorer is None:
        return None
    if isinstance(scorer, JudgeConfig):
        model = _name(scorer.model, params, pinned)
        return None if model is None else scorer.name(model)
    with scorer.open() as opened:
        return opened.name


def _pinned_name(base: HFConfig, params: dict[str, Any], pinned: Turn) -> str | None:
    """The name by content of a local model; None if another section names the same files in
    another number format or with another template, since one of the two was pinned.
    """
    forms = {(one.dtype, one.chat_template) for one in _bases(params) if one.model == base.model}
    return pinned.models.get(base.model) if len(forms) == 1 else None


def _bases(params: dict[str, Any]) -> Iterator[HFConfig]:
    """Yields each model that stages load from this machine, as `provider: hf` has it."""
    # An anchor of `models` counts where a stage uses it, and what is served makes no rows.
    waiting = [section for name, section in params.items() if name not in ("models", "serve")]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict) and value.get("provider") == "hf":
            yield parse(HFConfig, value, "params.yaml")
        elif isinstance(value, dict) and value.get("provider") == "vllm":
            yield parse(VLLMConfig, value, "params.yaml").base()
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def data_digests(raw: Path) -> dict[str, str]:
    """Returns the digest of each file of a folder by name, or of the one file as `raw`.

    Hidden files are left out. Raises InputError if there is no file, and for a link to a folder.
    """
    if raw.is_file():
        return {"raw": file_digest(raw)}
    if not raw.is_dir():
        raise InputError(
            f"{raw}: no such file or folder: params.yaml names the raw data in turn.raw"
        )
    digests = {}
    for part in sorted(raw.rglob("*")):
        name = part.relative_to(raw)
        if snapshots.hidden(name):
            continue
        if part.is_symlink() and part.is_dir():
            raise InputError(
                f"{part} is a link to a folder, of whose files no turn would know the version: "
                "put the files themselves there"
            )
        if part.is_file():
            digests[name.as_posix()] = file_digest(part)
    if not digests:
        raise InputError(f"{raw} has no files: params.yaml names the raw data in turn.raw")
    return digests


def settings_of(params: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings that rows depend on.

    Left out are NOT_SETTINGS at any depth but in NAMED, `serve` (what is served makes no rows),
    `turn` (the data count, and not their place), and `models` (an anchor counts where a stage uses
    it).
    """
    left_out = {*NOT_SETTINGS, "models", "serve", "turn"}
    return {name: of_rows(section) for name, section in params.items() if name not in left_out}


def of_rows(settings: Any) -> Any:
    """Returns the settings that rows depend on: without NOT_SETTINGS, at any depth but in NAMED."""
    if isinstance(settings, dict):
        found = {}
        for name, value in settings.items():
            if name in NAMED:
                found[name] = value
            elif name not in NOT_SETTINGS:
                found[name] = of_rows(value)
        return found
    if isinstance(settings, list):
        return [of_rows(value) for value in settings]
    return settings


def params_digest(params: dict[str, Any], where: str = "params.yaml") -> str:
    """Returns the digest of the settings.

    Raises ConfigError for a value that YAML can hold and a setting can't.
    """
    try:
        return digest(settings_of(params))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{where} holds something that is no setting: {error}; "
            "is there a date without quotes, or a .nan?"
        ) from None


def code_digest(package: Path | None = None) -> str:
    """Returns the digest of the package's files by their path in it, without NOT_ROWS."""
    if package is None:
        package = Path(cowest.__file__).parent
    digests = {}
    for part in sorted(package.rglob("*")):
        name = part.relative_to(package)
        if not part.is_file() or part.suffix == ".pyc" or snapshots.hidden(name):
            continue
        if not name.as_posix().startswith(NOT_ROWS):
            digests[name.as_posix()] = file_digest(part)
    return digest(digests)
