"""Changes one setting in params.yaml, and not another byte of it: comments, anchors and layout stay."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cowest.config import load
from cowest.errors import ConfigError
from cowest.io import write_text


def amend(path: Path, assignment: str) -> str | None:
    """Applies `dpo.beta=0.2`; says what changed, or None where it was so already. Raises ConfigError.

    The value is read as YAML. A setting that the file leaves to its default is added to its section.
    """
    key, equals, text = assignment.partition("=")
    names = key.split(".")
    if not equals or not all(names):
        raise ConfigError(f"--set {assignment}: write it as section.setting=value")
    value, params = _value(assignment, text), load(path)
    missing = object()
    old = _get(params, names, missing)
    if old == value and type(old) is type(value):
        return None
    source = path.read_text(encoding="utf-8")
    new = _edited(source, names, _inline(value, text), f"--set {assignment}")
    if _get(_parsed(new), names, missing) != value:
        raise ConfigError(f"--set {assignment}: the value does not fit there; edit {path} itself")
    write_text(path, new)
    return f"{path}: {key} is {_inline(value, text)}" + ("" if old is missing else f" (was {old})")


def _value(assignment: str, text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {assignment}: the value is not YAML; quote it") from None


def _parsed(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None


def _inline(value: Any, text: str) -> str:
    """The value on one line, as it was typed where it is one plain word or number."""
    import yaml

    if (
        not isinstance(value, dict | list)
        and text.strip()
        and not any(mark in text for mark in "#:,[]{}\n")
    ):
        return text.strip()
    return (
        yaml.safe_dump(value, default_flow_style=True, width=10**9, allow_unicode=True)
        .removesuffix("...\n")
        .strip()
    )


def _get(params: Any, names: list[str], missing: object) -> Any:
    for name in names:
        if not isinstance(params, dict) or name not in params:
            return missing
        params = params[name]
    return params


def _edited(source: str, names: list[str], value: str, said: str) -> str:
    import yaml

    node: Any = yaml.compose(source, Loader=yaml.SafeLoader)
    for depth, name in enumerate(names):
        parent = node
        if not isinstance(parent, yaml.MappingNode):
            raise ConfigError(f"{said}: {'.'.join(names[:depth])} is no section of settings")
        found = next(((key, child) for key, child in parent.value if key.value == name), None)
        if found is None:
            if depth < len(names) - 1:
                raise ConfigError(f"{said}: there is no section {'.'.join(names[: depth + 1])}")
            return _added(source, parent, f"{name}: {value}")
        key, node = found
        if node.start_mark.index < key.start_mark.index:
            home = next(
                _places(yaml.compose(source, Loader=yaml.SafeLoader), node.start_mark.index)
            )
            raise ConfigError(
                f"{said}: {'.'.join(names[: depth + 1])} is the same as {home}: set it there, for all who share it"
            )
    start, end = node.start_mark.index, node.end_mark.index
    if isinstance(node, yaml.CollectionNode) and not (
        node.flow_style and value.startswith(("{", "["))
    ):
        raise ConfigError(
            f"{said}: {'.'.join(names)} is a whole section: set what is in it, one by one"
        )
    anchor = source[start:end].split()[0] + " " if source[start:end].startswith("&") else ""
    gap = " " if start > 0 and source[start - 1] == ":" else ""
    return source[:start] + gap + anchor + value + source[end:]


def _added(source: str, section: Any, line: str) -> str:
    """Before the section's first setting."""
    if not section.value:
        start = section.start_mark.index + source[section.start_mark.index :].index("{") + 1
        return source[:start] + line + source[start:]
    first = section.value[0][0].start_mark
    between = ", " if section.flow_style else "\n" + " " * first.column
    return source[: first.index] + line + between + source[first.index :]


def _places(node: Any, index: int, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Where in the document a value stands that starts at this character."""
    import yaml

    if node.start_mark.index == index and path:
        yield ".".join(path)
    elif isinstance(node, yaml.MappingNode):
        for key, child in node.value:
            if child.start_mark.index > key.start_mark.index:
                yield from _places(child, index, (*path, str(key.value)))
