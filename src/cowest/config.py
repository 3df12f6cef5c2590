"""Settings: light typed classes, read from params.yaml, digested after validation."""

import hashlib
import json
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cowest.errors import ConfigError


class Config(BaseModel):
    """Base of all settings: frozen, unknown keys refused, floats finite, fields documented by their docstrings."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


C = TypeVar("C", bound="Config")


class Sampling(Config):
    """How a model decodes."""

    temperature: float = Field(default=0.0, ge=0)
    """0 is greedy; then `n` must be 1."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Keep the smallest set of tokens that holds this much probability."""
    max_tokens: int = Field(default=256, ge=1)
    """Tokens of a completion at most."""
    stop: tuple[str, ...] = ()
    """Decoding ends before any of these texts."""
    n: int = Field(default=1, ge=1)
    """Completions of one prompt."""

    def model_post_init(self, _: Any) -> None:
        if self.temperature == 0 and self.n > 1:
            raise ValueError(
                f"n={self.n} at temperature 0 would be the same completion {self.n} times: raise one or lower the other"
            )


def digest(value: Any) -> str:
    """Hex SHA-256 of a value's canonical JSON; pydantic models are dumped first, so that only validated settings count."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return hashlib.sha256(_CANONICAL.encode(value).encode()).hexdigest()


def key(*texts: str) -> str:
    """`digest` of a list of texts, some times quicker: for the keys of millions of rows."""
    return hashlib.sha256(f"[{','.join(map(encode_basestring, texts))}]".encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"{type(value).__name__} has no digest")


_CANONICAL = json.JSONEncoder(
    sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_plain
)


def file_digest(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, or of a folder's names and bytes (hidden files and bytecode left out)."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    parts = {
        part.relative_to(path).as_posix(): file_digest(part)
        for part in sorted(path.rglob("*"))
        if part.is_file()
        and "__pycache__" not in part.parts
        and not any(p.startswith(".") for p in part.relative_to(path).parts)
    }
    return digest(parts)


def load(path: Path) -> dict[str, Any]:
    """params.yaml as a mapping of sections. YAML aliases of one anchor are one object."""
    import yaml

    try:
        params = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file: run in the project's folder, or name the file with --params"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(params, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, one a stage")
    return params


def section(params: dict[str, Any], name: str, where: str = "params.yaml") -> dict[str, Any]:
    """The settings of one stage: `validate@pairs` is `pairs` in `validate`."""
    found: Any = params
    for key in name.split("@"):
        if not isinstance(found, dict) or key not in found:
            raise ConfigError(f"{where} has no section {name.replace('@', '.')}")
        found = found[key]
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ConfigError(
            f"{where}: {name.replace('@', '.')} should be a mapping of settings, not {type(found).__name__}"
        )
    return found


def parse(kind: type[C], values: Any, where: str) -> C:
    """`values` as a `kind`; a ConfigError names every wrong setting by its path below `where`."""
    try:
        return kind.model_validate(_whole(values))
    except ValidationError as error:
        raise ConfigError(f"{where}: {complaints(error)}") from None


def _whole(values: Any) -> Any:
    """JSON has one kind of number, and KFP hands 4 over as 4.0: whole numbers are ints, wherever they came from."""
    if isinstance(values, dict):
        return {key: _whole(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_whole(value) for value in values]
    return int(values) if isinstance(values, float) and values.is_integer() else values


def complaints(error: ValidationError) -> str:
    """A validation error in one line: `path: what is wrong; path: ...`. Values are left out: they may be private."""
    said = []
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        place = ".".join(str(part) for part in item["loc"])
        message = (
            "unknown setting or field"
            if item["type"] == "extra_forbidden"
            else item["msg"].removeprefix("Value error, ")
        )
        said.append(f"{place}: {message}" if place else message)
    return "; ".join(said)
