"""Makes a bento of a packed project, and an image of the bento, by BentoML."""

import contextlib
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from cowest import __version__
from cowest.errors import CoWestError
from cowest.online import packed
from cowest.online.live import ServeConfig
from cowest.raw import vcs
from cowest_serving.service import bentoml  # which has turned its telemetry off

NAMES = "org.opencontainers.image"
CARRIED = ("params.yaml", "terms/", "models/", "version/")
"""Files and folders of the packed folder that go into the bento."""


def build(serve: Mapping[str, Any], bake: bool, number: int | None) -> tuple[str, ServeConfig]:
    """Puts a bento into BentoML's store, and returns its tag and the settings in it.

    serve: the settings of the project that is the working folder. Raises CoWestError.
    """
    with tempfile.TemporaryDirectory(prefix="cowest.") as temporary:
        folder = Path(temporary) / "bento"
        config = packed.pack(serve, folder, bake, number)
        for name in ("Dockerfile", "requirements.txt"):
            source = resources.files("cowest_serving").joinpath(name)
            (folder / name).write_bytes(source.read_bytes())
        (wheel,) = (path.relative_to(folder) for path in folder.glob("wheels/*"))
        try:
            made = _built(folder, str(wheel))
        except bentoml.exceptions.BentoMLException as error:
            raise CoWestError(f"bentoml build: {error}") from None
    return str(made.tag), config


def docker() -> str:
    """Returns the command of a Docker engine that answers. Raises CoWestError if there is none."""
    found = shutil.which("docker")
    if found is None:
        raise CoWestError(
            "--image needs the command `docker`, and there is none: install a Docker engine, or "
            "leave --image out, which makes the bento alone"
        )
    asked = [found, "version", "--format", "{{.Server.Version}}"]
    engine = subprocess.run(asked, capture_output=True, text=True, check=False)  # noqa: S603
    if engine.returncode:
        raise CoWestError(
            f"--image needs a Docker engine, and none answers ({engine.stderr.strip()}): start it, "
            "or leave --image out, which makes the bento alone"
        )
    return found


def containerize(docker: str, tag: str, image: str, arguments: Sequence[str]) -> None:
    """Makes the image of a bento with Docker, which is this command.

    arguments: NAME=VALUE of the Dockerfile's ARG lines, or the NAME of a variable of the
    environment. Raises CoWestError.
    """
    # The builder that every engine has, where the other's plugin is missing, as in Debian's.
    asked = [docker, "buildx", "version"]
    plugin = subprocess.run(asked, capture_output=True, check=False)  # noqa: S603
    if plugin.returncode:
        os.environ.setdefault("DOCKER_BUILDKIT", "0")
    # The engine's own words: what is done, and why it failed.
    log = logging.getLogger("bentoml._internal.container")
    log.addHandler(logging.StreamHandler())
    log.setLevel(logging.INFO)
    labels = {"title": image, "version": __version__, "licenses": "Apache-2.0"}
    repository = vcs.top(Path.cwd())
    # A repository without a commit has no revision.
    if repository is not None and not (head := vcs.ask(repository, "rev-parse", "HEAD")).returncode:
        labels["revision"] = head.stdout.strip()
        # As infra/images/build.sh says it of the other images.
        if vcs.git(repository, "status", "--porcelain"):
            labels["revision"] += "-changed"
    # BentoML (1.4.36 to 1.4.39) finds a bento's Dockerfile below the working folder alone, and lays
    # it out among temporary files: https://github.com/bentoml/BentoML/issues/5566
    with contextlib.chdir(tempfile.gettempdir()):
        said = bentoml.container.build(
            tag,
            backend="docker",
            image_tag=(image,),
            build_arg=_in_environment(arguments),
            label=tuple(f"{NAMES}.{name}={value}" for name, value in labels.items()),
        )
    if said is None:
        raise CoWestError(f"bentoml containerize: {image} could not be made: see its log above")


def _in_environment(arguments: Sequence[str]) -> tuple[str, ...]:
    """Puts the values into the environment, from which Docker takes them by their names.

    An index's address may hold a password. On Docker's command line, every user of this machine
    could read it, and BentoML shows that line where the build fails.
    """
    names = []
    for argument in arguments:
        name, given, value = argument.partition("=")
        if given:
            os.environ[name] = value
        names.append(name)
    return tuple(names)


def _built(folder: Path, wheel: str) -> bentoml.Bento:
    """BentoML's part, which takes files of the working folder alone."""
    # It warns that a Dockerfile of one's own makes the bento one of its first form.
    logging.getLogger("bentoml.build").setLevel(logging.ERROR)
    with contextlib.chdir(folder):
        return bentoml.build(
            "cowest_serving.service:CoWest",
            name="cowest",
            description="A small policy drafts, a strong model refines.",
            labels={"cowest": __version__},
            include=list(CARRIED),
            docker={"dockerfile_template": "Dockerfile"},
            python={
                "requirements_txt": "requirements.txt",
                "wheels": [wheel],
                "lock_packages": False,
            },
            build_ctx=str(folder),
        )
