"""Changes one setting in params.yaml and no other byte: comments, anchors and layout stay.

So do its line ends, its mode, and a link by which it is named.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cowest.config import load, read_yaml
from cowest.errors import ConfigError
from cowest.io import write_text
from cowest.passwords import without_password


def amend(path: Path, assignment: str) -> str | None:
    """Applies `dpo.beta=0.2` and returns what changed in words, or None if the value was the same.

    The value is read as YAML. A setting that the file leaves to its default is added to its
    section. Raises ConfigError.
    """
    key, equals, text = assignment.partition("=")
    names = key.split(".")
    # A registry's address may hold a password, the one before it too.
    given = f"--set {without_password(assignment)}"
    if not equals or not all(names):
        raise ConfigError(f"{given}: write it as section.setting=value")
    value, params = _value(given, text), load(path)
    missing = object()
    old = _get(params, names, missing)
    if old == value and type(old) is type(value):
        return None
    # As bytes, since Python would make one kind of line ends of all.
    source = path.read_bytes().decode("utf-8")
    new = _edited(source, names, _inline(value, text), given)
    # The edit is one of text, so the result is read again before anything is written.
    if _get(_parsed(new), names, missing) != value:
        raise ConfigError(f"{given}: the value does not fit there; edit {path} itself")
    write_text(path.resolve(), new)
    said = f"{path}: {key} is {without_password(_inline(value, text))}"
    return said if old is missing else f"{said} (was {without_password(str(old))})"


def _value(given: str, text: str) -> Any:
    import yaml

    try:
        return read_yaml(text, given)
    except (yaml.YAMLError, RecursionError):
        raise ConfigError(f"{given}: the value is not YAML; quote it") from None


def _parsed(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None


def _inline(value: Any, text: str) -> str:
    """The value as YAML on one line; one plain word or number stays as it was typed."""
    import yaml

    plain = text.strip() and not set("#:,[]{}\n") & set(text)
    if plain and not isinstance(value, dict | list):
        return text.strip()
    dumped: str = yaml.safe_dump(value, default_flow_style=True, width=10**9, allow_unicode=True)
    # YAML ends a document that is a bare scalar with dots.
    return dumped.removesuffix("...\n").strip()


def _get(params: Any, names: list[str], missing: object) -> Any:
    for name in names:
        if not isinstance(params, dict) or name not in params:
            return missing
        params = params[name]
    return params


def _edited(source: str, names: list[str], value: str, said: str) -> str:
    """The source with this value in the setting's place."""
    import yaml

    root: Any = yaml.compose(source, Loader=yaml.SafeLoader)
    node = root
    for depth, name in enumerate(names):
        parent, path = node, ".".join(names[: depth + 1])
        if not isinstance(parent, yaml.MappingNode):
            raise ConfigError(f"{said}: {'.'.join(names[:depth])} is no section of settings")
        key, node = _child(parent, name)
        if key is None:
            if depth < len(names) - 1:
                raise ConfigError(f"{said}: there is no section {path}")
            return _added(source, parent, f"{name}: {value}")
        # The value of an alias stands where its anchor is, before the key. A change there would
        # change every setting that shares it.
        if node.start_mark.index < key.start_mark.index:
            home = next(_places(root, node.start_mark.index))
            raise ConfigError(
                f"{said}: {path} is the same as {home}: set it there, for all who share it"
            )
    start, end = node.start_mark.index, node.end_mark.index
    # `{n: 4}` on one line may be replaced by another such value or by null, which leaves it out;
    # a section in a block may not: its comments would go with it.
    leaves_out = _parsed(value) is None
    if leaves_out and node.flow_style and source[start] == "&":
        raise ConfigError(
            f"{said}: {'.'.join(names)} has an anchor, by which others may share it: "
            "take its lines out of the file"
        )
    in_one_piece = isinstance(node, yaml.ScalarNode) or (
        node.flow_style and (leaves_out or value.startswith(("{", "[")))
    )
    if not in_one_piece:
        what_to_do = (
            "take its lines out of the file" if leaves_out else "set what is in it, one by one"
        )
        raise ConfigError(f"{said}: {'.'.join(names)} is a whole section: {what_to_do}")
    # A setting that others refer to keeps its anchor: `&seed 7` becomes `&seed 8`.
    anchor = source[start:end].split()[0] + " " if source[start:end].startswith("&") else ""
    # An empty setting has its place right behind the colon.
    gap = " " if start > 0 and source[start - 1] == ":" else ""
    return source[:start] + gap + anchor + value + source[end:]


def _child(section: Any, name: str) -> tuple[Any, Any]:
    """The key and value of a setting in a section; None and None if it has none of this name."""
    for key, value in section.value:
        if key.value == name:
            return key, value
    return None, None


def _added(source: str, section: Any, line: str) -> str:
    """The source with a line before the section's first setting."""
    if not section.value:
        start = section.start_mark.index + source[section.start_mark.index :].index("{") + 1
        return source[:start] + line + source[start:]
    first = section.value[0][0].start_mark
    line_end = "\r\n" if "\r\n" in source else "\n"
    between = ", " if section.flow_style else line_end + " " * first.column
    return source[: first.index] + line + between + source[first.index :]


def _places(node: Any, index: int, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Yields the path of each setting, and item of a list, whose value begins at this character."""
    import yaml

    if node.start_mark.index == index and path:
        yield ".".join(path)
    elif isinstance(node, yaml.MappingNode):
        for key, child in node.value:
            # An alias leads back to its anchor: only what stands behind its key is followed.
            if child.start_mark.index > key.start_mark.index:
                yield from _places(child, index, (*path, str(key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for number, child in enumerate(node.value):
            if child.start_mark.index >= node.start_mark.index:
                yield from _places(child, index, (*path, str(number)))
