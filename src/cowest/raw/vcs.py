"""git and DVC, called by their command lines; their complaints are shown without secrets."""

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cowest.errors import InputError

SECRET = re.compile(
    r"secret|token|password|passwd|key|credential|connection_string|sas", re.IGNORECASE
)
"""Names of variables and settings whose values are never shown."""
NO_REPOSITORY = r"not a git repository \(or any|must be run in a work tree"
"""git's complaint where there is no repository, or one without a work tree (`clone --bare`)."""
OTHERS = r"(?:dubious ownership in repository at|unsafe repository \()\s*'(.+?)'"
"""git's complaint about a repository of another user; the group is its place."""
OF_ANOTHER = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
"""Variables that git sets for its hooks: they name a repository, whatever folder is asked."""
NOT_READ = "Could not read from remote repository."
"""End of git's complaint about the program that speaks to the other side, which came before it."""
TOO_SHORT = 6
"""Characters: a shorter value is no secret, and is part of many words."""


def top(folder: Path) -> Path | None:
    """The top of the git repository around a folder, which need not exist yet.

    None if there is no repository, or no git. Raises InputError for a repository that git does not
    read, since nobody could tell then whether the data are committed.
    """
    there = folder.resolve()
    while not there.is_dir():
        there = there.parent
    if shutil.which("git") is None:
        return None
    asked = ask(there, "rev-parse", "--show-toplevel")
    if asked.returncode == 0:
        return Path(asked.stdout.removesuffix("\n"))
    said = asked.stderr.strip()
    if not said or re.search(NO_REPOSITORY, said):
        return None
    others = re.search(OTHERS, said)
    if others:
        place = others[1]
        raise InputError(
            f"git does not read the repository {place}, since it belongs to another user, so "
            "whether the data are committed can't be told: `git config --global --add "
            f"safe.directory {shlex.quote(place)}` says that you trust it (or give it to the "
            "user that runs this: chown)"
        )
    raise InputError(
        f"git does not read the repository around {there}, so whether the data are committed can't "
        f"be told: {_cause(said)}"
    )


def git(folder: Path, *arguments: str) -> str:
    """Runs git in a repository and returns what it prints. Raises InputError in git's words."""
    asked = ask(folder, *arguments)
    if asked.returncode:
        raise InputError(f"git {arguments[0]}: {_cause(asked.stderr)}")
    return asked.stdout.strip("\n")


def _cause(complaint: str) -> str:
    """The line in which git says why it failed, or all lines, without advice on git's options."""
    advice = ("hint:", "Cloning into")
    lines = [line.strip() for line in complaint.splitlines() if not line.startswith(advice)]
    causes = [line for line in lines if line.startswith(("fatal:", "error:"))]
    if causes and not causes[-1].endswith(NOT_READ):
        return causes[-1]
    if causes:
        lines = lines[: lines.index(causes[-1]) + 1]
    return " ".join(filter(None, lines))[-300:] or "it failed"


def ask(
    folder: Path,
    *arguments: str,
    given: str | None = None,
    environment: dict[str, str] | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Runs git with `given` as its input and returns how it ended.

    Raises InputError if there is no git.
    """
    command = shutil.which("git")
    if command is None:
        raise InputError("git is not installed: apt-get install git")
    # Without the flag a file named `q*.jsonl` would stand for all that match it.
    command_line = [command, "--literal-pathspecs", "-C", str(folder), *arguments]
    return _run(command_line, Path(), given, environment)


def commit_of(repository: Path, rev: str) -> str:
    """Returns the commit that a revision names. Raises InputError."""
    found = _commit_of(repository, rev)
    if found is not None:
        return found
    hint = "see `git log`, or `git fetch` it"
    if ask(repository, "rev-parse", "--is-shallow-repository").stdout.strip() == "true":
        hint = "it is a shallow clone: `git fetch --unshallow`"
    raise InputError(f"{rev!r} is no revision of the git repository {repository}: {hint}")


def _commit_of(repository: Path, rev: str) -> str | None:
    # A revision comes from a settings file: one that begins with a dash must not become an option.
    asked = ask(
        repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev}^{{commit}}"
    )
    return asked.stdout.strip() if asked.returncode == 0 else None


def clone(address: str, rev: str | None, to: Path) -> str:
    """Clones a repository and checks a revision out; returns the commit.

    Without a revision it is what the repository has checked out. Raises InputError, without the
    secrets that an address may hold.
    """
    # The repository is somebody else's: it gets no links, and no protocol that runs a command.
    asked = _run(
        [
            "git", "-c", "core.symlinks=false", "-c", "protocol.allow=never",
            "-c", "protocol.https.allow=always", "-c", "protocol.ssh.allow=always",
            "-c", "protocol.http.allow=always", "-c", "protocol.file.allow=always",
            "clone", "--quiet", "--no-checkout", "--", address, str(to),
        ],
        Path(),
    )  # fmt: skip
    if asked.returncode:
        raise InputError(f"git clone: {hide(_cause(asked.stderr))}")
    commit = _commit_of(to, rev or "HEAD")
    if commit is None and rev is not None:
        # A clone has the branches of the other side under the name of the remote.
        commit = _commit_of(to, f"origin/{rev}")
    if commit is None:
        lacking = "has no commit" if rev is None else f"has no revision {rev!r}"
        raise InputError(f"{hide(address)} {lacking}: is it pushed there?")
    git(to, "-c", "core.symlinks=false", "checkout", "--quiet", "--detach", commit)
    return commit


def text_at(repository: Path, commit: str, file: Path) -> str | None:
    """Returns a file's text at a commit, or None if the commit does not have the file."""
    name = file.relative_to(repository).as_posix()
    asked = ask(repository, "cat-file", "blob", f"{commit}:{name}")
    return printable(asked.stdout) if asked.returncode == 0 else None


def is_committed(repository: Path, file: Path) -> bool:
    """True if git has the file, and no change to it waits for a commit."""
    # `status` alone says nothing of a file that is ignored, nor of new ones where git's settings
    # hide them.
    if not git(repository, "ls-files", "--", str(file)):
        return False
    return not git(repository, "status", "--porcelain", "--", str(file))


def is_ignored(repository: Path, file: Path) -> bool:
    """True if git does not have the file, and would not add it."""
    # `check-ignore` takes no names that are literal.
    options = ("--others", "--ignored", "--exclude-standard")
    return bool(git(repository, "ls-files", *options, "--", str(file)))


def check_out(repository: Path, commit: str, inside: Path, to: Path, what: str) -> None:
    """Writes what a commit has at the path `inside` a repository, as a checkout would.

    The files come into the empty folder `to`, by their paths in the repository; its index and work
    tree stay as they are. Raises InputError, which begins with `what`.
    """
    names = []
    listed = git(repository, "ls-tree", "-r", "-z", commit, "--", str(inside))
    for entry in listed.removesuffix("\0").split("\0"):
        kind, _, name = entry.partition("\t")
        # A commit may hold links to anywhere, and of a submodule it has a name alone.
        if not kind.startswith("100"):
            raise InputError(
                f"{what}: {name!r} is a link or no ordinary file: "
                "a version has the files themselves, and nothing was written"
            )
        names.append(name)
    # Not by `git archive`: attributes (export-ignore, export-subst) leave files out of it, or
    # change them.
    with tempfile.TemporaryDirectory(prefix="cowest-") as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        asked = ask(repository, "read-tree", "--no-sparse-checkout", commit, environment=index)
        if asked.returncode == 0:
            asked = ask(
                repository, f"--work-tree={to.resolve()}", "checkout-index", "-z", "--stdin",
                given="\0".join(names), environment=index,
            )  # fmt: skip
    missing = [name for name in names if not (to / name).is_file()]
    if asked.returncode or missing:
        raise InputError(
            f"{what}: git did not write {printable(', '.join(missing[:5])) or 'all files'}: "
            f"{' '.join(asked.stderr.split())[-300:] or 'it does not say why'}"
        )


def dvc_root(folder: Path) -> Path | None:
    """The top of the DVC project around a folder."""
    for part in (folder.resolve(), *folder.resolve().parents):
        if (part / ".dvc").is_dir():
            return part
    return None


def dvc(root: Path, *arguments: str, what: str) -> str:
    """Runs DVC in a project and returns what it prints.

    Raises InputError that begins with `what` and ends with DVC's own words, without secrets.
    """
    asked = ask_dvc(root, *arguments)
    if asked.returncode == 0:
        return asked.stdout
    lines = []
    for line in asked.stderr.splitlines():
        if line.strip() and not line.startswith("Having any troubles"):
            lines.append(line)
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    errors = errors or lines[-1:] or ["it failed"]
    words = hide("; ".join(errors)[:600], root)
    raise InputError(f"{what}: dvc {arguments[0]}: {words}{_hint(asked.stderr)}")


def ask_dvc(
    root: Path, *arguments: str, given: str | None = None
) -> "subprocess.CompletedProcess[str]":
    """Runs DVC with `given` as its input and returns how it ended.

    Raises InputError if DVC is not installed.
    """
    asked = _run([sys.executable, "-m", "dvc", *arguments], root, given)
    if "No module named dvc" in asked.stderr:
        raise InputError("DVC is not installed: install CoWest's extra `dvc` (README, Install)")
    return asked


def _run(
    command: Sequence[str],
    folder: Path,
    given: str | None = None,
    environment: dict[str, str] | None = None,
) -> "subprocess.CompletedProcess[str]":
    # Neither may ask for a password on the terminal, nor speak another language than HINTS do.
    ours = {"DVC_NO_ANALYTICS": "1", "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}
    inherited = {name: value for name, value in os.environ.items() if name not in OF_ANOTHER}
    done = subprocess.run(  # noqa: S603
        command,
        cwd=folder,
        env=inherited | ours | (environment or {}),
        input=os.fsencode(given or ""),
        capture_output=True,
        check=False,
    )
    # Names of files may be any bytes, and are given as `Path` has them; complaints are for people.
    said = os.fsdecode(done.stdout)
    complaint = done.stderr.decode("utf-8", errors="replace")
    return subprocess.CompletedProcess(command, done.returncode, said, complaint)


def printable(said: str) -> str:
    """Reads what git printed as UTF-8, and replaces what is not: a name or a text is any bytes."""
    return os.fsencode(said).decode("utf-8", errors="replace")


HINTS = {
    "dvc_s3|requires dvc-s3|is supported, but requires": (
        "for a remote in S3, install CoWest's extra `s3` (README, Install)"
    ),
    "Could not connect|ConnectTimeout|Connection refused|Name or service|Temporary failure": (
        "is the remote's server up, and its address right?"
    ),
    "Forbidden|InvalidAccessKeyId|SignatureDoesNotMatch|Access Denied|AccessDenied|authentication"
    "|credentials": (
        "are the remote's credentials set, and right? "
        "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, or `dvc remote modify --local`)"
    ),
    "no remote|No remote": "`dvc remote add -d NAME PLACE` says where the data are",
    "failed to fetch|failed to download|cache files do not exist": (
        "is it pushed? `dvc push` where it was made"
    ),
}
"""Advice, by a pattern of the complaint of DVC that it answers."""


def _hint(complaint: str) -> str:
    for words, hint in HINTS.items():
        if re.search(words, complaint):
            return f"; {hint}"
    return ""


def hide(text: str, root: Path | None = None) -> str:
    """Removes passwords from the addresses in a text, and all values that are secret.

    Secret are the values of the environment and of DVC's settings in `root` whose names say so.
    """
    text = re.sub(r"(\w+://)[^/\s@]+@", r"\1...@", text)
    secrets = {value for name, value in os.environ.items() if SECRET.search(name)}
    if root is not None:
        secrets |= _secret_settings(root)
    for value in secrets:
        if len(value) >= TOO_SHORT:
            text = text.replace(value, "...")
    return text


def _secret_settings(root: Path) -> set[str]:
    """Values of secret settings in DVC's files."""
    found = set()
    for name in ("config", "config.local"):
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read(root / ".dvc" / name, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue
        for section in parser.sections():
            for key, value in parser.items(section):
                if SECRET.search(key):
                    found.add(value)
    return found


def dvc_cache(root: Path) -> Path:
    """The folder of DVC's cache that holds files by their MD5."""
    asked = ask_dvc(root, "cache", "dir")
    return root / (asked.stdout.strip() or ".dvc/cache") / "files" / "md5"


def fetch(root: Path, md5: str, what: str) -> None:
    """Has DVC fetch a version from a remote into its cache. Raises InputError about `what`."""
    # DVC fetches only what a pointer in the work tree names, and that may be another version.
    # So a pointer of our own stands there for a moment.
    own = root / f"cowest-{os.getpid()}-{md5[:12]}.dvc"
    out = f"{{md5: {md5}, hash: md5, path: {own.stem}}}"
    try:
        own.write_text(f"outs:\n- {out}\n", encoding="utf-8")
        dvc(root, "fetch", own.name, what=what)
    finally:
        own.unlink(missing_ok=True)


def left_out(folder: Path, names: Sequence[str]) -> set[str]:
    """Returns the files of a folder, named from it, that `.dvcignore` keeps out of its versions."""
    root = dvc_root(folder)
    if root is None or not names:
        return set()
    inside = (folder.parent.resolve() / folder.name).relative_to(root).as_posix()
    given = "".join(f"{inside}/{name}\n" for name in names)
    asked = ask_dvc(root, "check-ignore", "--stdin", given=given)
    ignored = {line.removeprefix(f"{inside}/") for line in asked.stdout.splitlines()}
    return ignored & set(names)
