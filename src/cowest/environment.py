"""Sets the environment before a heavy library loads: nothing phones home, no thread spins long."""

import codecs
import math
import os
import pwd
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "BENTOML_DO_NOT_TRACK": "True",
    "DVC_NO_ANALYTICS": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # CoWest shows progress of its own, and none where there is no terminal.
    "TQDM_DISABLE": "1",
    # libgomp's threads spin while they wait. On a shared machine this makes two threads up to 30
    # times slower.
    "OMP_WAIT_POLICY": "PASSIVE",
}


def settle() -> None:
    """Sets each variable that is not set already.

    Every way in calls this before anything else: the command line, components, the service. Some
    libraries read the variables once, when they are imported.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    cores = allowed_cores()
    if cores is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))
    _settle_user()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            _show_all(stream)


SPINS = "3000"
"""Turns of a loop that a thread waits in place before it sleeps."""


def spin_if_idle(root: Path = Path("/")) -> None:
    """Has threads wait in place for a moment where a core is free for each of them.

    Small models make products so short that a thread which sleeps after each costs a quarter of
    the time. On a busy machine a thread that does not sleep takes the core from the one that it
    waits for, so nothing is set there, nor where OMP_WAIT_POLICY or GOMP_SPINCOUNT say something
    else. `root` is where the files of the system lie.
    """
    if os.environ.get("OMP_WAIT_POLICY") != QUIET["OMP_WAIT_POLICY"]:
        return
    try:
        # The fourth field is "running/all": what runs at this moment, this process among it.
        running = int((root / "proc/loadavg").read_text().split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):
        return
    cores = len(os.sched_getaffinity(0))
    threads = os.environ.get("OMP_NUM_THREADS", "")
    ours = int(threads) if threads.isdecimal() else cores
    if running - 1 + ours <= cores:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def allowed_cores(root: Path = Path("/")) -> int | None:
    """Returns the cores that a container's limit allows, if it sees more; None if it does not.

    Libraries start a thread per core that they see. With more threads than the limit allows, all
    of them stand still for most of each period, and each waits for the slowest. `root` is where
    the files of the system lie.
    """
    quotas = []
    for folder in _groups(root):
        quotas += [_quota(folder / "cpu.max"), _quota(folder / "cpu.cfs_quota_us")]
    found = min((quota for quota in quotas if quota is not None), default=None)
    if found is None or found >= len(os.sched_getaffinity(0)):
        return None
    return max(math.ceil(found), 1)


def _groups(root: Path) -> Iterator[Path]:
    """Yields the folders that limit this process: of its control groups, and of those above."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds and "cpu" not in kinds.split(","):
            continue
        place = root / "sys/fs/cgroup" / ("cpu" if kinds else "")
        own = place / path.lstrip("/")
        # A container may not see its own path, and is the root of what it sees.
        for folder in (own, *own.parents):
            if folder.is_relative_to(place):
                yield folder


def _quota(path: Path) -> float | None:
    """Reads a limit in cores; None where there is none."""
    try:
        quota, *period = path.read_text().split()
        if not period:
            period = path.with_name("cpu.cfs_period_us").read_text().split()
        return int(quota) / int(period[0]) if int(quota) > 0 else None
    except (OSError, ValueError):
        # The quota of a group without one is the word max, or -1.
        return None


def _show_all(stream: TextIOWrapper) -> None:
    """Has a terminal that can't show a letter show its number.

    Python would end with a traceback, after a call was paid for or a turn was decided.
    """
    # UTF-8 has all letters, and in a C locale Python writes file names through it as they are.
    if stream.errors == "strict" or codecs.lookup(stream.encoding).name != "utf-8":
        stream.reconfigure(errors="backslashreplace")


def _settle_user() -> None:
    """Gives libraries and their processes a name and a home, where the user has none.

    In a container with `--user`, git ends at a home that it may not look into, and torch at a user
    without a name. A home that can be read stays, though it can't be written.
    """
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ.setdefault("LOGNAME", f"user-{os.getuid()}")
    home = os.path.expanduser("~")  # noqa: PTH111 - `Path.home` raises where there is none
    # The dot holds for folders alone.
    if not os.access(f"{home}/.", os.R_OK | os.X_OK):
        os.environ["HOME"] = str(_of_nobody())


def cache() -> Path:
    """Returns the folder, shared by all projects, of what can be made again.

    It is COWEST_CACHE, or cowest in the user's cache folder. A user without a home folder, or with
    one that can't be written, has it in the folder for temporary files.
    """
    place = os.environ.get("COWEST_CACHE")
    if place:
        return Path(place)
    users = os.environ.get("XDG_CACHE_HOME")
    with suppress(RuntimeError, OSError):
        # `home` raises a RuntimeError for a user without one, as in a container with `--user`.
        folder = (Path(users) if users else Path.home() / ".cache") / "cowest"
        if folder.is_dir() or _may_be_made(folder):
            return folder
    return _of_nobody()


def _may_be_made(folder: Path) -> bool:
    there = folder.parent
    while not there.exists() and there != there.parent:
        there = there.parent
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _of_nobody() -> Path:
    """The cache of a user without a home folder, which only this user can read or write."""
    folder = Path(tempfile.gettempdir()) / f"cowest-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.stat()
    # Somebody else may have made the folder, to have us take models from it.
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        return Path(tempfile.mkdtemp(prefix="cowest-"))
    return folder


def hush() -> None:
    """Silences the progress bars and notes of libraries, and warnings meant for developers."""
    import logging
    import warnings

    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for library in ("transformers", "trl", "peft", "torch", "accelerate"):
        logging.getLogger(library).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module=rf"{library}\b.*")
