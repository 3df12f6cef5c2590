"""What must be in the environment before a heavy library loads: nothing phones home, and threads do not spin."""

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
    "TQDM_DISABLE": "1",  # CoWest shows its own progress, and none where there is no terminal
    # libgomp's threads spin while they wait; on a machine that is shared this makes two threads up to 30 times slower.
    "OMP_WAIT_POLICY": "PASSIVE",
}


def settle() -> None:
    """Sets what is not set already. Called first thing by every way in: the command line, components, the service."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def cache() -> Path:
    """Where what can be made again is kept between projects: COWEST_CACHE, or cowest in the user's cache folder."""
    place = os.environ.get("COWEST_CACHE")
    return (
        Path(place)
        if place
        else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cowest"
    )


def hush() -> None:
    """Libraries show bars and notes of their own, and warn their own developers; CoWest shows its own."""
    import logging
    import warnings

    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for library in ("transformers", "trl", "peft", "torch", "accelerate"):
        logging.getLogger(library).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module=rf"{library}\b.*")
