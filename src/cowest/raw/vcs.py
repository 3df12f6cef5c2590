"""git and DVC, asked by their command lines; what they complain of is said in one line, without keys or passwords."""

import configparser
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cowest.errors import InputError

SECRET = re.compile(
    r"secret|token|password|passwd|key|credential|connection_string|sas", re.IGNORECASE
)
"""Names of variables and settings whose values are never shown."""
TOO_SHORT = 6
"""Characters: a value so short is no secret, and stands in many words."""


def top(folder: Path) -> Path | None:
    """The top of the git repository around a folder, or around where it would be; None where there is none, or no git."""
    there = next(part for part in (folder.resolve(), *folder.resolve().parents) if part.is_dir())
    if shutil.which("git") is None:
        return None
    asked = ask(there, "rev-parse", "--show-toplevel")
    return Path(asked.stdout.strip()) if asked.returncode == 0 else None


def git(folder: Path, *arguments: str) -> str:
    """What git answers in this repository. Raises InputError with its own words."""
    asked = ask(folder, *arguments)
    if asked.returncode:
        raise InputError(
            f"git {arguments[0]}: {(asked.stderr.strip().splitlines() or ['it failed'])[-1]}"
        )
    return asked.stdout.strip("\n")


def ask(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """git's answer, good or bad. Raises InputError where there is no git."""
    command = shutil.which("git")
    if command is None:
        raise InputError("git is not installed: apt-get install git")
    return _run([command, "--literal-pathspecs", "-C", str(folder), *arguments], Path())


def commit_of(repository: Path, rev: str) -> str:
    """The commit that a revision names. Raises InputError."""
    asked = ask(
        repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev}^{{commit}}"
    )
    if asked.returncode == 0:
        return asked.stdout.strip()
    shallow = ask(repository, "rev-parse", "--is-shallow-repository").stdout.strip() == "true"
    hint = (
        "it is a shallow clone: `git fetch --unshallow`"
        if shallow
        else "see `git log`, or `git fetch` it"
    )
    raise InputError(f"{rev!r} is no revision of the git repository {repository}: {hint}")


def text_at(repository: Path, commit: str, file: Path) -> str | None:
    """A file's text at a commit; None where the commit has no such file."""
    asked = ask(
        repository, "cat-file", "blob", f"{commit}:{file.relative_to(repository).as_posix()}"
    )
    return asked.stdout if asked.returncode == 0 else None


def dvc_root(folder: Path) -> Path | None:
    """The DVC project around a folder."""
    return next(
        (
            part
            for part in (folder.resolve(), *folder.resolve().parents)
            if (part / ".dvc").is_dir()
        ),
        None,
    )


def dvc(root: Path, *arguments: str, what: str) -> str:
    """What DVC answers in this project. Raises InputError: `what` was wanted, and DVC's own words without its secrets."""
    asked = ask_dvc(root, *arguments)
    if asked.returncode == 0:
        return asked.stdout
    said = [
        line
        for line in asked.stderr.splitlines()
        if line.strip() and not line.startswith("Having any troubles")
    ]
    errors = (
        [line.removeprefix("ERROR: ") for line in said if line.startswith("ERROR: ")]
        or said[-1:]
        or ["it failed"]
    )
    raise InputError(
        f"{what}: dvc {arguments[0]}: {hide('; '.join(errors)[:600], root)}{_hint(asked.stderr)}"
    )


def ask_dvc(
    root: Path, *arguments: str, given: str | None = None
) -> "subprocess.CompletedProcess[str]":
    """DVC's answer, good or bad; `given` is what it reads. Raises InputError where DVC is not installed."""
    asked = _run([sys.executable, "-m", "dvc", *arguments], root, given)
    if "No module named dvc" in asked.stderr:
        raise InputError("DVC is not installed: pip install 'cowest[dvc]'")
    return asked


def _run(
    command: Sequence[str], folder: Path, given: str | None = None
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(  # noqa: S603
        command,
        cwd=folder,
        env=os.environ | {"DVC_NO_ANALYTICS": "1", "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"},
        input=given or "",
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )


HINTS = {
    "dvc_s3|requires dvc-s3|is supported, but requires": "pip install 'cowest[s3]' for a remote in S3",
    "Could not connect|ConnectTimeout|Connection refused|Name or service|Temporary failure": (
        "is the remote's server up, and its address right?"
    ),
    "Forbidden|InvalidAccessKeyId|SignatureDoesNotMatch|Access Denied|AccessDenied|authentication|credentials": (
        "are the remote's credentials set, and right? (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, or `dvc remote modify --local`)"
    ),
    "no remote|No remote": "`dvc remote add -d NAME PLACE` says where the data are",
    "failed to fetch|failed to download|cache files do not exist": "is it pushed? `dvc push` where it was made",
}


def _hint(said: str) -> str:
    return next((f"; {hint}" for words, hint in HINTS.items() if re.search(words, said)), "")


def hide(text: str, root: Path | None = None) -> str:
    """The text without passwords in addresses, and without the values of secrets in the environment and in DVC's own settings."""
    text = re.sub(r"(\w+://)[^/\s@]+@", r"\1...@", text)
    for value in {value for name, value in os.environ.items() if SECRET.search(name)} | (
        _settings(root) if root else set()
    ):
        if len(value) >= TOO_SHORT:
            text = text.replace(value, "...")
    return text


def _settings(root: Path) -> set[str]:
    """Values of secret settings in DVC's files."""
    found = set()
    for name in ("config", "config.local"):
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read(root / ".dvc" / name, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue
        found |= {
            value
            for section in parser.sections()
            for key, value in parser.items(section)
            if SECRET.search(key)
        }
    return found


def dvc_cache(root: Path) -> Path:
    """Where DVC keeps the files of this project's versions."""
    asked = ask_dvc(root, "cache", "dir")
    return root / (asked.stdout.strip() or ".dvc/cache")


def left_out(folder: Path, names: Sequence[str]) -> set[str]:
    """Those of a folder's files, named from it, that `.dvcignore` keeps out of its versions."""
    root = dvc_root(folder)
    if root is None or not names:
        return set()
    inside = folder.parent.resolve().joinpath(folder.name).relative_to(root).as_posix()
    asked = ask_dvc(
        root, "check-ignore", "--stdin", given="".join(f"{inside}/{name}\n" for name in names)
    )
    return {line.removeprefix(f"{inside}/") for line in asked.stdout.splitlines()} & set(names)
