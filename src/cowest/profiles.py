"""Profiles say what each step gets on a cluster: image, resources, secrets, retries.

A profile is a YAML file. It holds no secret, only the names of the cluster's own.
"""

import math
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, Field, field_validator, model_validator

from cowest.config import Config, load, parse
from cowest.errors import ConfigError
from cowest.passwords import passwords

VARIABLE = re.compile(r"\$\{([A-Z_][A-Z0-9_]*)\}")
"""An environment variable in the name of an image, replaced when the profile is read."""
COMMIT = re.compile(r"(?:[\w.]+-)?[0-9a-f]{7,40}")
"""A tag that names a commit, perhaps with a version before it."""
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
SECRET = re.compile(
    r"^(?!.*_(file|path|dir)$).*(secret|token(?!s|iz)|passw(or)?d|passphrase|credential"
    r"|connection_?string|(api|account|private)_?key|access_?key(?!_id)|_(key|pwd|pass|pat|sas)$)",
    re.IGNORECASE,
)
"""A name of a variable that holds a secret; not TOKENIZERS_PARALLELISM, or what names a file."""
PLAIN = re.compile(
    r"|0|1|true|false|yes|no|on|off|arn:\S+|/\S*\.\w+|(?-i:(/[a-z0-9._-]+)+/?)", re.IGNORECASE
)
"""A value that is none, whatever its name says: a switch, a name in AWS, or the path of a file that
holds it. A path without capitals needs no ending; a key in base64 may begin with a slash too."""
SPAN = {"s": 1, "m": 60, "h": 3600}
MOST_SHARDS = 1000
"""Largest number of parts into which the queries of a turn are cut."""


def _fixed(image: str) -> str:
    """Raises ValueError for an image name that may mean another image tomorrow."""
    name, _, content = image.partition("@")
    if content:
        if not DIGEST.fullmatch(content):
            raise ValueError(f"{image}: a digest is sha256: and 64 hexadecimal digits")
        return image
    # A colon before the last slash is the port of a registry.
    _, colon, tag = name.rpartition("/")[2].partition(":")
    if not colon or not COMMIT.fullmatch(tag):
        raise ValueError(
            f"{image}: name an image by digest (NAME@sha256:...) or by the commit it was built "
            "from (NAME:0123abc), so that a run tomorrow is the run of today"
        )
    return image


def expect_fixed(image: str, where: str) -> None:
    """Raises ConfigError, which begins with `where`, for an image without a digest or a commit."""
    try:
        _fixed(image)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def _like(pattern: str, said: str) -> AfterValidator:
    """Checks a text by a pattern. The error message is `said`; it does not show the pattern."""
    form = re.compile(pattern)

    def check(text: str) -> str:
        if not form.fullmatch(text):
            raise ValueError(f"{text!r}: {said}")
        return text

    return AfterValidator(check)


Image = Annotated[str, AfterValidator(_fixed)]
Amount = Annotated[
    str, _like(r"\d+(\.\d+)?(m|[kMGTPE]i?)?", "an amount is written as 500m, 2 or 16Gi")
]
"""An amount as Kubernetes writes it."""
Duration = Annotated[str, _like(r"[1-9]\d*[smh]", "a length of time is written as 30s, 90m or 12h")]
Name = Annotated[
    str,
    _like(
        r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?",
        "a name has small letters, digits, dots and dashes, and ends with a letter or a digit",
    ),
]
"""A name as Kubernetes takes it."""
Variable = Annotated[
    str,
    _like(r"[A-Za-z_][A-Za-z0-9_]*", "a variable has letters, digits and underscores"),
]
Mounted = Annotated[str, _like(r"/[^:]*", "a path in a container begins with / and has no colon")]
"""An absolute path in a container."""
StepName = Literal[
    "preflight", "pin", "prepare", "validate", "sft", "split", "draft", "refine", "score",
    "collect_feedback", "pair", "dpo", "next_round", "evaluate", "collect_trials", "compare",
    "register", "page", "summary",
]  # fmt: skip
"""The steps of the pipeline, by the names of their components."""


class Accelerator(Config):
    """Devices of one kind, such as GPUs."""

    type: str = "nvidia.com/gpu"
    """The resource's name on the cluster's nodes."""
    count: int = Field(ge=1)
    """Number of these devices for each such step."""


class Toleration(Config):
    """A node taint that a step tolerates."""

    key: str | None = None
    """The taint's key; null tolerates all, which needs the operator Exists."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """`Equal` tolerates the taint with the same `value`, `Exists` with any value."""
    value: str | None = None
    """The taint's value; leave it null with the operator Exists."""
    effect: Literal["NoExecute", "NoSchedule", "PreferNoSchedule"] | None = None
    """The taint's effect; null for every effect."""
    seconds: int | None = Field(default=None, ge=0)
    """Time (in seconds) that a running step may stay on a node that gets this taint with the effect
    NoExecute; null for ever."""


class Volume(Config):
    """A volume that is made for a step and deleted with it."""

    mount: Mounted
    """The path at which the step finds it."""
    size: Amount
    """Size of the volume, such as 20Gi."""
    storage_class: str | None = None
    """A StorageClass of the cluster; null for its default."""


class Claim(Config):
    """A volume that exists already, such as one that holds base models."""

    mount: Mounted
    """The path at which the step finds it."""
    sub_path: str = ""
    """Folder of the volume that is mounted; empty mounts the whole volume."""


class Retry(Config):
    """Retries of a step that failed. Answers that it got are kept: no retry asks for them again."""

    times: int = Field(ge=0, le=20)
    """Number of retries; 0 for none."""
    wait: Duration = "30s"
    """Time before the first retry, such as 30s."""
    factor: int = Field(default=2, ge=1)
    """Factor by which each wait is longer than the one before: a whole number, as Argo reads it."""
    within: Duration | None = None
    """Time after the start of the first try, such as 72h, at which a retry that runs is ended, with
    the time that tries wait for a node; null for none. `times` and `timeout` bound the tries."""

    def longest(self, timeout: str) -> int:
        """Returns the seconds that all tries and the waits between them may take."""
        longest, wait = seconds(timeout), seconds(self.wait)
        for _ in range(self.times):
            longest += wait + seconds(timeout)
            wait *= self.factor
        return longest


class Step(Config):
    """Settings of a step. A setting that is left out is taken from `every`."""

    image: Image | None = None
    """The step's image, by digest or commit. Name one for a step that needs another image than the
    rest, such as training on GPUs."""
    cpu: Amount | None = None
    """CPUs reserved for the step, such as 2 or 500m."""
    cpu_limit: Amount | None = None
    """CPUs above which the step is throttled; null for no limit."""
    memory: Amount | None = None
    """Memory reserved for the step, such as 16Gi."""
    memory_limit: Amount | None = None
    """Memory above which the step is killed; null for no limit."""
    accelerator: Accelerator | None = None
    """GPUs, or other devices, that the step has for itself."""
    nproc: int | None = Field(default=None, ge=1)
    """Processes that train together, one per device. Only `sft` and `dpo` take it."""
    node_selector: dict[str, str] = Field(default={})
    """Labels that a node must have for the step to run there."""
    tolerations: tuple[Toleration, ...] = ()
    """Node taints that the step tolerates, such as those of GPU nodes."""
    volumes: dict[Name, Volume] = Field(default={})
    """Volumes made for the step, by name."""
    claims: dict[Name, Claim] = Field(default={})
    """Volumes that exist already, by the name of their PersistentVolumeClaim."""
    shm: Amount | None = None
    """Shared memory (/dev/shm). The default of most clusters, 64 MiB, is too little for data
    loaders and for several GPUs."""
    env: dict[Variable, str] = Field(default={})
    """Environment variables. Secrets belong under `secrets`."""
    secrets: dict[Name, dict[str, Variable]] = Field(default={})
    """Environment variables from Secrets of the cluster: {NAME: {key: VARIABLE}}."""
    config_maps: dict[Name, dict[str, Variable]] = Field(default={})
    """Environment variables from ConfigMaps of the cluster: {NAME: {key: VARIABLE}}."""
    retry: Retry | None = None
    """Retries when the step fails; null for none."""
    timeout: Duration | None = None
    """Time limit of one try, such as 12h; null for none."""

    @field_validator("env")
    @classmethod
    def _is_no_secret(cls, env: dict[str, str]) -> dict[str, str]:
        for name, value in env.items():
            named = SECRET.match(name) and not PLAIN.fullmatch(value)
            if named or passwords(value):
                has = "holds a password" if passwords(value) else "looks like a secret"
                raise ValueError(
                    f"{name} {has}, and many can read a compiled pipeline: put it "
                    "into a Secret of the cluster, and name that Secret under `secrets`"
                )
        return env

    def over(self, every: "Step") -> "Step":
        """Returns this step, with missing settings taken from `every`; mappings are merged."""
        found: dict[str, Any] = {}
        for name in type(self).model_fields:
            mine, common = getattr(self, name), getattr(every, name)
            if isinstance(common, dict):
                found[name] = {**common, **mine}
            else:
                found[name] = mine if name in self.model_fields_set else common
        return Step.model_construct(**found)


class Profile(Config):
    """A profile: settings for all steps, and for single ones."""

    image: Image | None = None
    """The image of every step, by digest or commit; `${COWEST_IMAGE}` takes it from the environment
    when the pipeline is compiled. null takes the components' own image (COWEST_IMAGE)."""
    pull_secrets: tuple[Name, ...] = ()
    """Secrets of the cluster with which images are pulled, by name."""
    shards: int = Field(default=1, ge=1, le=MOST_SHARDS)
    """Number of parts that the queries are cut into. Each part is drafted, refined and scored by
    steps of its own. A run may be given another number."""
    parallel: int | None = Field(default=None, ge=1)
    """Number of shards that run at once; null for all of them."""
    every: Step = Step()
    """Settings of all steps."""
    steps: dict[StepName, Step] = Field(default={})
    """Settings of single steps, by name. They replace those of `every`."""

    @model_validator(mode="after")
    def _retries_have_their_time(self) -> Self:
        for name in get_args(StepName):
            step = self.step(name)
            if step.retry is None or step.retry.within is None or step.timeout is None:
                continue
            longest = step.retry.longest(step.timeout)
            if step.retry.times and seconds(step.retry.within) < longest:
                raise ValueError(
                    f"the step {name}: retry.within is {step.retry.within}, at which a retry that "
                    f"runs is ended, and {step.retry.times + 1} tries of {step.timeout} with their "
                    f"waits take up to {math.ceil(longest / 3600)}h: write that or more, or leave "
                    "`within` out"
                )
        return self

    @field_validator("steps")
    @classmethod
    def _only_trainings_have_processes(cls, steps: dict[str, Step]) -> dict[str, Step]:
        for name, step in steps.items():
            if step.nproc is not None and name not in ("sft", "dpo"):
                raise ValueError(f"{name}.nproc: only sft and dpo train: leave it out here")
        return steps

    def step(self, name: str) -> Step:
        """Returns the settings of a step, with missing settings taken from `every`."""
        for key, step in self.steps.items():
            if key == name:
                return step.over(self.every)
        return self.every


def read(path: Path) -> Profile:
    """Reads a profile. Raises ConfigError that names every wrong setting.

    `${NAME}` in the name of an image is replaced by that environment variable.
    """
    return parse(Profile, _filled(load(path), str(path)), str(path))


def seconds(span: str) -> int:
    """Returns a length of time such as `90m` in seconds."""
    return int(span[:-1]) * SPAN[span[-1]]


def _filled(value: Any, where: str, name: str = "") -> Any:
    """Returns a value of the file, with variables in image names replaced."""
    if isinstance(value, dict):
        return {key: _filled(child, f"{where}: {key}", str(key)) for key, child in value.items()}
    if name != "image" or not isinstance(value, str):
        return value

    def variable(found: "re.Match[str]") -> str:
        known = os.environ.get(found[1])
        if not known:
            raise ConfigError(
                f"{where} takes the image from {found[1]}, which is not set: "
                f"export {found[1]}=NAME:COMMIT or NAME@sha256:..."
            )
        return known

    filled = VARIABLE.sub(variable, value)
    if filled != value:
        names = " and ".join(VARIABLE.findall(value))
        expect_fixed(filled, f"{where} takes the image from {names}")
    return filled
