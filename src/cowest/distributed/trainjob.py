"""Trains a stage as a TrainJob of Kubeflow Trainer, which the step makes, watches and removes.

The pods of a TrainJob see none of the step's files. So the step sends what the stage reads to a
store (`parcels`), the pods fetch it and send back what it writes (`sent`, `cowest.rank`).

torchrun is the launcher: it alone reads the variables that Kubeflow Trainer sets. `rank` fails if
there are fewer or more processes than were asked for.
"""

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml
from pydantic import Field

from cowest.config import Config, digest, parse, read_yaml
from cowest.distributed import sent
from cowest.distributed.parcels import Parcels
from cowest.distributed.task import Task
from cowest.errors import ConfigError, CoWestError
from cowest.profiles import Image

LABELS = {"app.kubernetes.io/name": "cowest", "app.kubernetes.io/managed-by": "cowest"}
"""Labels of every TrainJob of ours, by Kubernetes' recommended names."""
OF_RUN = "app.kubernetes.io/instance"
"""The label that holds the run of the pipeline that a TrainJob belongs to: COWEST_RUN, or else
the key of its turn."""
LONGEST = 63
"""Characters that a label may have; a turn's key has 64."""
PAUSE = 5.0
"""Seconds between two looks at a TrainJob."""
SILENCE = 300.0
"""Seconds that the cluster's API may be out of reach, for instance while it is upgraded."""
GRACE = 120.0
"""Seconds beyond its time limit that the cluster has to end a TrainJob, before the step does."""
LAST = 20
"""Number of last lines of a failed node's log that are shown."""


class TrainJobConfig(Config):
    """Nodes and processes that train a stage on a cluster. COWEST_TRAINJOB holds it, as YAML."""

    store: str
    """Address that the step and all nodes reach: s3://bucket/path, gs://bucket/path, or
    file:///path on a volume that all of them mount."""
    nodes: int = Field(default=2, ge=1)
    """Number of nodes, one pod on each."""
    processes: int = Field(default=1, ge=1)
    """Processes per node: one per GPU."""
    runtime: str = "cowest"
    """Name of the ClusterTrainingRuntime (infra/trainer/runtime.yaml), or of a TrainingRuntime."""
    image: Image | None = None
    """Image of the nodes, by digest or commit, with the same CoWest as the step; null takes the
    runtime's."""
    namespace: str | None = None
    """Namespace of the TrainJob; null takes the step's own."""
    hours: float = Field(default=24.0, gt=0)
    """Hours after which the training is ended. The time that it waits for nodes counts."""


def asked() -> TrainJobConfig | None:
    """Returns what COWEST_TRAINJOB asks for; None where it is unset. Raises ConfigError."""
    text = os.environ.get("COWEST_TRAINJOB", "")
    if not text:
        return None
    try:
        values = read_yaml(text, "COWEST_TRAINJOB")
    except yaml.YAMLError:
        raise ConfigError(
            "COWEST_TRAINJOB is not YAML: write {store: s3://bucket/path, nodes: 2, processes: 8}"
        ) from None
    return parse(TrainJobConfig, values, "COWEST_TRAINJOB")


def train(task: Task, config: TrainJobConfig) -> None:
    """Runs a stage as a TrainJob, and writes its outputs.

    If an earlier attempt has trained, its result is fetched; if it still trains, this waits for it.
    Raises the stage's error, and CoWestError if the job fails, is removed, or takes longer than
    `config.hours`. The TrainJob is removed however it ends, unless its state can't be read: it may
    train well then, and the next attempt or the last step of the run finds it.
    """
    store = Parcels(config.store)
    where = config.model_dump(include={"nodes", "processes", "runtime", "image"})
    key = sent.send(task, store, where)
    if sent.collect(store, key, task.outputs):
        print(
            f"{task.stage}: an earlier attempt trained this: fetching its result", file=sys.stderr
        )
        return
    name = f"cowest-{task.stage}-{digest([key, _run()])[:12]}"
    client = _client(config)
    with _ended_politely():
        state = _earlier(client, name)
        is_known = True
        try:
            if state is None:
                _make(client, name, key, task.stage, store, config)
            else:
                print(
                    f"{task.stage}: waiting for the TrainJob {name} of an earlier attempt",
                    file=sys.stderr,
                )
            _watch(client, name, key, store, config)
        except _UnknownStateError:
            # A cluster that can't be asked is no reason to remove what trains there.
            is_known = False
            raise
        finally:
            if is_known:
                _remove_or_say(client, name)
    if not sent.collect(store, key, task.outputs):
        raise CoWestError(
            f"{task.stage}: the TrainJob {name} completed, but sent nothing back to "
            f"{config.store}/tasks/{key}: check that the runtime {config.runtime} keeps the "
            "command that the TrainJob gives, `python -m cowest.rank`"
        )


def remove_of(run: str) -> tuple[list[str], list[str]]:
    """Removes the TrainJobs of a run of the pipeline, or of a turn.

    Returns the names of those that are gone, and a sentence for each that is not. If
    COWEST_TRAINJOB is unset there are none, and nothing is asked. Raises CoWestError.
    """
    config = asked()
    if config is None:
        return [], []
    client = _client(config)
    selector = f"{OF_RUN}={run[:LONGEST]},app.kubernetes.io/managed-by=cowest"
    with _refusals("could not list the TrainJobs of this run"):
        found = client.backend.custom_api.list_namespaced_custom_object(
            "trainer.kubeflow.org",
            "v1alpha1",
            client.backend.namespace,
            "trainjobs",
            label_selector=selector,
        )
    gone, left = [], []
    for job in found["items"]:
        name = job["metadata"]["name"]
        failure = _remove(client, name)
        if failure is None:
            gone.append(name)
        else:
            left.append(failure)
    return gone, left


def _run() -> str:
    """Returns the pipeline run that this step belongs to, or else its turn, or else nothing."""
    found = os.environ.get("COWEST_RUN") or os.environ.get("COWEST_TURN", "")
    return found[:LONGEST]


def _client(config: TrainJobConfig) -> Any:
    """Returns a client of the cluster that this step runs in, or that KUBECONFIG names."""
    try:
        from kubeflow.common.types import KubernetesBackendConfig
        from kubeflow.trainer import TrainerClient
        from kubernetes.config import ConfigException
    except ImportError as error:
        raise ConfigError(
            f"COWEST_TRAINJOB needs {error.name}: install CoWest's extra `trainjob` "
            "(README, Install)"
        ) from None
    where = KubernetesBackendConfig(
        namespace=config.namespace, config_file=os.environ.get("KUBECONFIG")
    )
    try:
        return TrainerClient(where)
    except ConfigException as error:
        raise ConfigError(
            f"COWEST_TRAINJOB is set, and no cluster is known here ({error}): run the step in the "
            "cluster, or name a file in KUBECONFIG"
        ) from None


def _make(
    client: Any, name: str, key: str, stage: str, store: Parcels, config: TrainJobConfig
) -> None:
    """Makes the TrainJob."""
    from kubeflow.trainer import CustomTrainerContainer
    from kubeflow.trainer.options import (
        ActiveDeadlineSeconds,
        Labels,
        Name,
        TrainerArgs,
        TrainerCommand,
    )

    labels = {**LABELS, "app.kubernetes.io/component": stage}
    if _run():
        labels[OF_RUN] = _run()
    every = config.nodes * config.processes
    torchrun = ["python", "-m", "torch.distributed.run"]
    torchrun += ["--nproc-per-node", str(config.processes)]
    place = f"{store.address}/tasks/{key}"
    options = [
        Name(name),
        Labels(labels),
        ActiveDeadlineSeconds(max(1, round(config.hours * 3600))),
        TrainerCommand([*torchrun, "-m", "cowest.rank"]),
        TrainerArgs([place, "--processes", str(every)]),
    ]
    trainer = CustomTrainerContainer(image=config.image or "", num_nodes=config.nodes)
    sent.forget_error(store, key)
    unknown = (
        f"the cluster has no training runtime {config.runtime!r}: "
        "kubectl apply -f infra/trainer/runtime.yaml, or name another one as `runtime`"
    )
    with _refusals(f"{stage}: could not make the TrainJob", unknown):
        client.train(runtime=config.runtime, trainer=trainer, options=options)
    print(
        f"{stage}: TrainJob {name} in {client.backend.namespace}: {config.nodes} nodes, "
        f"{config.processes} processes on each",
        file=sys.stderr,
    )


def _earlier(client: Any, name: str) -> str | None:
    """Returns the state of an earlier attempt's TrainJob; None where there is none, or it failed
    and was removed."""
    state = _state(client, name)
    if state == "Failed":
        _remove_or_say(client, name)
        state = _state(client, name)
    return state


def _state(client: Any, name: str) -> str | None:
    """Returns the state of a TrainJob: Created, Running, Complete or Failed; None without one.

    Waits for a cluster whose API is out of reach, for SILENCE at most. Raises _UnknownStateError.
    """
    until = time.monotonic() + SILENCE
    is_said = False
    while True:
        try:
            with _refusals(f"could not read the state of the TrainJob {name}"):
                return str(client.get_job(name).status)
        except _GoneError:
            return None
        except CoWestError as error:
            # An API server may be replaced while a training goes on for hours. One that refuses
            # this step goes on refusing it.
            if isinstance(error, _RefusedError) or time.monotonic() > until:
                raise _UnknownStateError(
                    f"{error}; if it trains, it goes on, and the step waits for it when run again"
                ) from None
            if not is_said:
                print(f"{error}: trying again for {SILENCE:g} s", file=sys.stderr)
            is_said = True
        time.sleep(PAUSE)


def _watch(client: Any, name: str, key: str, store: Parcels, config: TrainJobConfig) -> None:
    """Waits until a TrainJob is complete. Raises CoWestError, or the error that it sent."""
    started = time.monotonic()
    before = ""
    while True:
        state = _state(client, name)
        if state is None:
            raise CoWestError(
                f"somebody removed the TrainJob {name} while it trained: run the step again"
            )
        if state != before:
            print(f"TrainJob {name}: {state}", file=sys.stderr)
        before = state
        if state == "Complete":
            return
        if state == "Failed":
            why = _condition(client, name)
            # The cluster ended its nodes then, and what they say of it is no cause.
            if why.get("reason") == "DeadlineExceeded":
                raise _too_long(name, config, "was ended by the cluster")
            raise sent.error(store, key) or _failure(client, name, why)
        if time.monotonic() - started > config.hours * 3600 + GRACE:
            raise _too_long(name, config, f"is {state}")
        time.sleep(PAUSE)


def _too_long(name: str, config: TrainJobConfig, state: str) -> CoWestError:
    return CoWestError(
        f"the TrainJob {name} has not ended in {config.hours:g} hours and {state}: check that the "
        "cluster has nodes for it, or give COWEST_TRAINJOB more `hours`"
    )


def _condition(client: Any, name: str) -> dict[str, str]:
    """Returns the condition in which Kubeflow Trainer says why a TrainJob failed; empty where it
    can't be read."""
    try:
        with _refusals(f"could not read the conditions of the TrainJob {name}"):
            job = client.backend.custom_api.get_namespaced_custom_object(
                "trainer.kubeflow.org", "v1alpha1", client.backend.namespace, "trainjobs", name
            )
    except CoWestError:
        return {}
    for condition in job.get("status", {}).get("conditions", ()):
        if (condition["type"], condition["status"]) == ("Failed", "True"):
            found: dict[str, str] = condition
            return found
    return {}


def _failure(client: Any, name: str, why: dict[str, str]) -> CoWestError:
    """Returns the error for a failed TrainJob, with the end of its first node's log."""
    try:
        last = deque(client.get_job_logs(name), maxlen=LAST)
    except (RuntimeError, TimeoutError):
        last = deque(["(its log can't be read)"])
    lines = "".join(f"\n  {line}" for line in last or ["(there is none)"])
    said = ": ".join(filter(None, (why.get("reason"), why.get("message"))))
    return CoWestError(
        f"the TrainJob {name} failed{f' ({said})' if said else ''}; "
        f"the end of its first node's log:{lines}"
    )


def _remove_or_say(client: Any, name: str) -> None:
    """Removes a TrainJob; prints a failure."""
    failure = _remove(client, name)
    if failure is not None:
        print(failure, file=sys.stderr)


def _remove(client: Any, name: str) -> str | None:
    """Removes a TrainJob with its pods, and waits until it is gone.

    Returns a sentence if it is still there; None if it is gone.
    """
    until = time.monotonic() + GRACE
    why = "it is still being deleted"
    while True:
        try:
            with _refusals(""):
                client.delete_job(name)
        except _GoneError:
            return None
        except _RefusedError as error:
            why = str(error)
            break
        except CoWestError as error:
            why = str(error)
        if time.monotonic() > until:
            break
        time.sleep(min(PAUSE, 1.0))
    return (
        f"could not remove the TrainJob {name}: {why}; remove it by hand: "
        f"kubectl delete trainjob {name} -n {client.backend.namespace}"
    )


class _GoneError(CoWestError):
    """There is no such TrainJob."""


class _RefusedError(CoWestError):
    """The account of this step lacks a right, or is not known."""


class _UnknownStateError(CoWestError):
    """Nobody can say how a TrainJob is."""


@contextmanager
def _refusals(what: str, unknown: str = "there is none") -> Iterator[None]:
    """Turns the SDK's errors into CoWestErrors with the cluster's message."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (RuntimeError, TimeoutError, ApiException, HTTPError) as error:
        cause = error
        while cause.__cause__ is not None and not isinstance(cause, ApiException):
            cause = cause.__cause__
        if isinstance(cause, ApiException):
            if cause.status == 404:
                raise _GoneError(f"{what}: {unknown}") from None
            said = f"{cause.status} {cause.reason} {cause.body or ''}"
        else:
            said = str(cause)
        said = " ".join(said.split())[:500]
        said = f"{what}: {said}" if what else said
        if isinstance(cause, ApiException) and cause.status in (401, 403):
            # A quota and an admission webhook refuse with 403 as well, and need no rights.
            if cause.status == 401 or " cannot " in said:
                said += "; give this step's account the rights in infra/trainer/rbac.yaml"
            raise _RefusedError(said) from None
        raise CoWestError(said) from None


@contextmanager
def _ended_politely() -> Iterator[None]:
    """Makes SIGTERM an interruption, so that a step that is stopped removes its TrainJob."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
