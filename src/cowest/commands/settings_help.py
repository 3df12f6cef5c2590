"""The settings of a section of params.yaml in words, for `--help`."""

import json
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from cowest.config import Config


def settings(kind: type[Config], section: str) -> str:
    """One line per setting of a section, with its meaning and its default.

    A kind of settings that stands in several places, such as an endpoint, is told at the first.
    """
    lines = _Told().of(kind, "", None)
    return "\n".join([f"settings (`{section}` in params.yaml):", *lines])


class _Told:
    """The lines of one help, and what they have told so far."""

    def __init__(self) -> None:
        self._places: dict[tuple[type[Config], str], tuple[str, str]] = {}
        """The path at which a kind with these defaults was told, and that path with its tag."""

    def of(
        self, kind: type[Config], path: str, whole: Config | None, tag: str | None = None
    ) -> Iterator[str]:
        """Yields the lines of a section, but for its `tag`, which was told.

        `whole` is what holds if all of the section is left out.
        """
        for name, field in kind.model_fields.items():
            if name == tag:
                continue
            place = f"{path}.{name}" if path else name
            default = _default(field)
            if whole is not None:
                default = getattr(whole, name)
            yield from self._field(place, field, default, path)

    def _field(self, place: str, field: FieldInfo, default: Any, section: str) -> Iterator[str]:
        members = list(_members(field.annotation, place))
        remark = _remark(field, default, section)
        places = [self._places.get(_key(kind, default), ("", "")) for _, kind in members]
        paths = {path for path, _ in places}
        if len(paths) == 1 and "" not in paths:
            told = places[0][1] if len(members) == 1 else places[0][0]
            yield _line(place, field, [*remark, f"its settings: as {told}"])
            return
        yield _line(place, field, remark)
        # Several kinds are told one after the other, each under the setting that chooses it.
        for path, kind in members:
            tag, shown = None, path
            if len(members) > 1:
                tag, value = _tag(kind)
                shown = f"{path} ({tag}: {value})"
            told_path, told = self._places.setdefault(_key(kind, default), (path, shown))
            whole = default if isinstance(default, kind) else None
            if told_path != path:
                yield f"  {shown}: as {told}"
                continue
            if tag is not None:
                chosen = " (the default)" if whole is not None else ""
                yield f"  {shown}: {_summary(kind)}{chosen}"
            yield from self.of(kind, path, whole, tag)


def _members(annotation: Any, path: str) -> Iterator[tuple[str, type[Config]]]:
    """The kinds of settings in an annotation, each with the path of its settings."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield path, annotation
        return
    beyond = {tuple: "[]", list: "[]", dict: ".NAME"}.get(get_origin(annotation), "")
    for part in get_args(annotation):
        yield from _members(part, f"{path}{beyond}")


def _key(kind: type[Config], default: Any) -> tuple[type[Config], str]:
    """A kind of settings with those defaults that are not the kind's own."""
    if not isinstance(default, kind):
        return kind, "{}"
    own = {name: value for name, value in default if value != _default(kind.model_fields[name])}
    return kind, _yaml(own)


def _line(place: str, field: FieldInfo, remark: list[str]) -> str:
    """The line of a setting: its path, its docstring, and in brackets its values and default."""
    words = " ".join((field.description or "").split())
    choices = _choices(field.annotation)
    if len(choices) > 1:
        remark = [f"one of {', '.join(choices)}", *remark]
    elif choices and not words:
        words = f"{choices[0]}."
    said = f" ({'; '.join(remark)})" if remark else ""
    return f"  {place}: {words}{said}"


def _remark(field: FieldInfo, default: Any, section: str) -> list[str]:
    """The default in words, and that of a section which is given without this setting."""
    own = _default(field)
    if isinstance(default, Config):
        # Its settings have their own lines, and defaults.
        return []
    if default == own:
        return [_said(field, own)]
    without = _said(field, own).removeprefix("default ")
    return [f"default {_yaml(default)}", f"{without} where `{section}` is given without it"]


def _said(field: FieldInfo, default: Any) -> str:
    return "required" if field.is_required() else f"default {_yaml(default)}"


def _default(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True)


def _yaml(value: Any) -> str:
    """A default as one may write it in params.yaml."""
    return json.dumps(to_jsonable_python(value, exclude_none=True), ensure_ascii=False)


def _choices(annotation: Any) -> list[str]:
    """The values that a setting may have, if they are named."""
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    parts = get_args(annotation)
    found = [choice for choice in map(_choices, parts) if choice]
    if len(found) == 1 and type(None) in parts:
        return [*found[0], "null"]
    return []


def _tag(kind: type[Config]) -> tuple[str, str]:
    """The setting that chooses one of several kinds, and its value."""
    for name, field in kind.model_fields.items():
        choices = _choices(field.annotation)
        if len(choices) == 1:
            return name, choices[0]
    raise AssertionError(f"{kind.__name__} stands beside others, and no setting chooses it")


def _summary(kind: type[Config]) -> str:
    return " ".join((kind.__doc__ or "").partition("\n\n")[0].split())
