"""Sets the environment before a heavy library loads: nothing phones home, no thread spins."""

import os
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


def cache() -> Path:
    """Returns the folder, shared by all projects, of what can be made again.

    It is COWEST_CACHE, or cowest in the user's cache folder.
    """
    place = os.environ.get("COWEST_CACHE")
    if place:
        return Path(place)
    users = os.environ.get("XDG_CACHE_HOME")
    return (Path(users) if users else Path.home() / ".cache") / "cowest"


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
