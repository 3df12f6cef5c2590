"""Settings: light typed classes, read from params.yaml, digested after validation."""

import difflib
import hashlib
import json
import os
from collections.abc import Collection, Iterable
from functools import lru_cache
from json.encoder import encode_basestring
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from cowest.errors import ConfigError, InputError


class Config(BaseModel):
    """Base of all settings: frozen, unknown keys refused, floats finite.

    The docstring of a field is its help text.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


C = TypeVar("C", bound="Config")


class Sampling(Config):
    """Settings of decoding."""

    temperature: float = Field(default=0.0, ge=0)
    """Randomness of sampling. 0 decodes greedily, and then `n` must be 1."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sample only from the smallest set of tokens that holds this much probability; 1 is all."""
    max_tokens: int = Field(default=256, ge=1)
    """Token limit of one completion. Raise it where completions end in mid-sentence."""
    stop: tuple[str, ...] = ()
    """Decoding stops before any of these texts."""
    n: int = Field(default=1, ge=1)
    """Completions per prompt; more than 1 needs a temperature above 0."""
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    """Number of the draw. Equal settings draw the same completions of a prompt again; another seed
    draws others. An endpoint is sent `seed` where it is set, plus the number of the sample."""

    @model_serializer(mode="wrap")
    def _as_before_seeds(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves an unset seed out, so that settings without one keep the digest they had."""
        found: dict[str, Any] = fields(self)
        if found.get("seed", 0) is None:
            del found["seed"]
        return found

    def model_post_init(self, _: Any) -> None:
        if self.temperature == 0 and self.n > 1:
            raise ValueError(
                f"n={self.n} at temperature 0 would be the same completion {self.n} times: "
                "raise one or lower the other"
            )


def _one_each(sampling: Sampling) -> Sampling:
    if sampling.n != 1:
        raise ValueError("n must be 1: a draft has one refinement")
    return sampling


Refining = Annotated[Sampling, AfterValidator(_one_each)]
"""Decoding of the strong model, one refinement per draft."""


class MessageLike(Protocol):
    """A message of a conversation, as far as digests need it."""

    @property
    def role(self) -> str: ...

    @property
    def content(self) -> str: ...


def digest(value: Any) -> str:
    """Hex SHA-256 of the value's canonical JSON.

    A pydantic model is dumped first, so that settings count as they were validated. Raises
    TypeError for a value that JSON can't hold, and ValueError for NaN and infinity.
    """
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return _sha256(_CANONICAL.encode(value))


def _plain(value: Any) -> Any:
    """A model or path inside a value, as JSON can hold it."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"{type(value).__name__} has no digest")


_CANONICAL = json.JSONEncoder(
    sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_plain
)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# Every row that is read or made, and every call, needs one of the three digests below, and shots
# make messages long. So their canonical JSON is written by hand, which is several times faster
# than the encoder. Each must equal `digest` of the value that its docstring names: data sets, call
# stores and registries hold them. tests/unit/test_config.py compares the two ways.


def key(*texts: str) -> str:
    """The digest of a list of texts: `digest([text, ...])`."""
    return _sha256(_list(map(encode_basestring, texts)))


def query_id(prompt: Iterable[MessageLike], targets: Iterable[str], choices: Iterable[str]) -> str:
    """The id of a query: 20 digits of `digest([[{role, content}, ...], targets, choices])`."""
    messages = _list(
        [
            f'{{"content":{encode_basestring(message.content)},"role":"{message.role}"}}'
            for message in prompt
        ]
    )
    right = _list(map(encode_basestring, targets))
    options = _list(map(encode_basestring, choices))
    return _sha256(f"[{messages},{right},{options}]")[:20]


def call_key(model: str, messages: Iterable[MessageLike], sampling: Sampling, sample: int) -> str:
    """The key of a call: `digest([model, [[role, content], ...], sampling without n, sample])`."""
    said = _list(
        [f'["{message.role}",{encode_basestring(message.content)}]' for message in messages]
    )
    return _sha256(f"[{encode_basestring(model)},{said},{_sampling(sampling)},{sample}]")


@lru_cache(maxsize=64)
def _sampling(sampling: Sampling) -> str:
    """The canonical JSON of how a call decodes: `n` says how many calls there are, not which."""
    return _CANONICAL.encode(sampling.model_dump(mode="json", exclude={"n"}))


def _list(items: Iterable[str]) -> str:
    """A JSON list of items that are JSON already."""
    return f"[{','.join(items)}]"


def file_digest(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, or of a folder's names and bytes.

    Hidden files and bytecode of a folder are left out. Raises InputError for a name that is not
    UTF-8, of which there is no canonical JSON.
    """
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    parts = {}
    for part in sorted(path.rglob("*")):
        name = part.relative_to(path)
        hidden = any(step.startswith(".") for step in name.parts)
        if part.is_file() and "__pycache__" not in part.parts and not hidden:
            parts[name.as_posix()] = file_digest(part)
    try:
        return digest(parts)
    except UnicodeEncodeError:
        bad = [ascii(name) for name in parts if name.encode(errors="ignore").decode() != name]
        raise InputError(
            f"{path}: {', '.join(bad[:5])}: no name in UTF-8, as a version needs: rename it"
        ) from None


def read_yaml(text: str, where: str) -> Any:
    """Reads YAML that a person wrote.

    Raises yaml.YAMLError, and ConfigError where a mapping has a key twice: YAML's reader would drop
    the first one's value without a word.
    """
    import yaml

    class Reader(yaml.SafeLoader):
        # Looked at as it is written: what `<<` takes over may be overridden.
        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            lines: dict[tuple[str, Any], int] = {}
            for key, _ in node.value:
                if isinstance(key, yaml.MappingNode | yaml.SequenceNode) or key.value == "<<":
                    continue
                name, line = (key.tag, key.value), key.start_mark.line + 1
                if name in lines:
                    raise ConfigError(
                        f"{where}: {key.value!r} is written twice, in lines {lines[name]} and "
                        f"{line}, and one of the two would be lost: make them one"
                    )
                lines[name] = line
            return node

        def construct_object(self, node: Any, deep: bool = False) -> Any:
            try:
                return super().construct_object(node, deep)
            except ValueError as error:
                # A date such as 2026-31-12 looks like one, and is none.
                raise yaml.constructor.ConstructorError(
                    None, None, str(error), node.start_mark
                ) from None

    return yaml.load(text, Reader)  # noqa: S506 (a safe one)


def load(path: Path) -> dict[str, Any]:
    """Reads params.yaml as a mapping of sections. Raises ConfigError.

    A section that a YAML alias repeats is one object in both places.
    """
    import yaml

    try:
        params = read_yaml(path.read_text(encoding="utf-8"), str(path))
    except (FileNotFoundError, IsADirectoryError):
        raise _no_file(path) from None
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        before, byte = error.object[: error.start], error.object[error.start]
        line = before.count(b"\n") + 1
        raise ConfigError(
            f"{path}:{line}: not UTF-8 (byte 0x{byte:02x}): save the file as UTF-8"
        ) from None
    except (yaml.YAMLError, RecursionError) as error:
        # The text was read before, so the parser has no name for it: the path is said already.
        said = " ".join(str(error).replace('in "<unicode string>", ', "at ").split())
        raise ConfigError(f"{path} is not YAML: {said}") from None
    if not isinstance(params, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, one per stage")
    return params


def enter(params: Path) -> Path:
    """Makes the folder of a settings file the working folder, and returns the file's path there.

    A relative path in the settings is relative to their file, wherever one stands. Raises
    ConfigError.
    """
    if not params.is_file():
        raise _no_file(params)
    os.chdir(params.absolute().parent)
    return Path(params.name)


def _no_file(path: Path) -> ConfigError:
    what = "is a folder, not a file" if path.is_dir() else "no such file"
    return ConfigError(
        f"{path}: {what}: run in the project's folder, or name the file with --params"
    )


def section(params: dict[str, Any], name: str, where: str = "params.yaml") -> dict[str, Any]:
    """The settings of one stage; those of `validate@pairs` are `pairs` in the section `validate`.

    Raises ConfigError where the section is missing or is no mapping; an empty one has no settings.
    """
    shown = name.replace("@", ".")
    found: Any = params
    for part in name.split("@"):
        if not isinstance(found, dict) or part not in found:
            known = found if isinstance(found, dict) else ()
            near = difflib.get_close_matches(part, map(str, known), n=1)
            hint = f": is {near[0]!r} meant to be it?" if near else ""
            raise ConfigError(f"{where} has no section {shown}{hint}")
        found = found[part]
    if found is None:
        return {}
    if not isinstance(found, dict):
        kind = type(found).__name__
        raise ConfigError(f"{where}: {shown} should be a mapping of settings, not {kind}")
    return found


def parse(kind: type[C], values: Any, where: str) -> C:
    """Validates `values` as a `kind`.

    Raises a ConfigError that names every wrong setting by its path below `where`.
    """
    try:
        return kind.model_validate(_whole(values))
    except ValidationError as error:
        raise ConfigError(f"{where}: {complaints(error, kind)}") from None


def _whole(values: Any) -> Any:
    """Makes floats without a fraction ints, at any depth."""
    if isinstance(values, dict):
        return {key: _whole(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_whole(value) for value in values]
    # JSON has one kind of number, and KFP hands 4 over as 4.0. Settings from there and from
    # params.yaml must have one digest.
    if isinstance(values, float) and values.is_integer():
        return int(values)
    return values


def complaints(error: ValidationError, kind: type[BaseModel] | None = None) -> str:
    """A validation error in one line: `path: what is wrong; path: ...`.

    With the `kind` that was to be validated, an unknown name is told with the nearest one there,
    and a text of another form with what its setting is.
    """
    found = []
    # The input is left out: it holds values, which may be private.
    for item in error.errors(include_url=False, include_input=False):
        place = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        context = item.get("ctx", {})
        if item["type"] == "extra_forbidden":
            message = "unknown setting or field" + _meant(kind, item["loc"])
        elif item["type"] == "string_pattern_mismatch":
            message = _described(kind, item["loc"]) or message
        elif item["type"] == "union_tag_invalid":
            chosen = context["discriminator"].strip("'")
            message = f"{chosen} {context['tag']!r} is none of {context['expected_tags']}"
        elif item["type"] == "union_tag_not_found":
            message = f"{context['discriminator']} is missing"
        found.append(f"{place}: {message}" if place else message)
    return "; ".join(found)


def _meant(kind: type[BaseModel] | None, place: tuple[int | str, ...]) -> str:
    """The known name that is nearest to an unknown one, as a question; or nothing."""
    known: set[str] = set().union(*(model.model_fields for model in _around(kind, place)))
    near = difflib.get_close_matches(str(place[-1]), sorted(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _described(kind: type[BaseModel] | None, place: tuple[int | str, ...]) -> str:
    """The first sentence of a setting's help, for a text that is not of its form; or nothing."""
    for model in _around(kind, place):
        field = model.model_fields.get(str(place[-1]))
        if field is not None and field.description:
            sentence = " ".join(field.description.split()).partition(". ")[0]
            return f"not of the form that it should be: {sentence.removesuffix('.')}"
    return ""


def _around(
    kind: type[BaseModel] | None, place: tuple[int | str, ...]
) -> Collection[type[BaseModel]]:
    """The models that the last part of a place may be a field of."""
    models = set() if kind is None else {kind}
    for part in place[:-1]:
        inner: set[type[BaseModel]] = set()
        for model in models:
            if part in model.model_fields:
                inner |= _models(model.model_fields[str(part)].annotation)
        # A part that is no field is a place in a list, or the choice among several kinds.
        models = inner or models
    return models


def _models(annotation: Any) -> set[type[BaseModel]]:
    """The models that an annotation speaks of, at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    found: set[type[BaseModel]] = set()
    for part in get_args(annotation):
        found |= _models(part)
    return found
