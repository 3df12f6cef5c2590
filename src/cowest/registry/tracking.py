"""The tracker: one turn, written to MLflow once, for people to look up."""

import hashlib
import json
import posixpath
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cowest.batched import batched
from cowest.config import digest
from cowest.errors import RegistryError
from cowest.records import DataSet, EvalReport, Trial
from cowest.registry import traces
from cowest.registry.runs import Runs

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

COMPLETE = "complete"
"""The tag that is set last; its value is the digest of everything written."""
METRICS, PARAMS = 1000, 100
"""The most metrics and params that MLflow accepts in one request; the limit for tags is PARAMS."""
NAME_LENGTH, PARAM_LENGTH, TAG_LENGTH = 250, 6000, 8000
"""The longest names, and the longest values, that MLflow accepts, in characters."""
UNNAMEABLE = re.compile(r"[^\w. :/-]")
"""A character that MLflow does not allow in the name of a metric, a param or a tag."""
ABOUT = """\
A policy that drafts answers for a strong model, and the decisions of {name} on its versions, \
promoted and refused. The alias `champion` names the one that answers.

    import mlflow
    model = mlflow.pyfunc.load_model("models:/{name}@champion")
    model.predict([{{"question": "..."}}])

`cowest status` says who is champion and why, and each version's run has its report.
"""
"""Description of the registered model, whoever is its champion."""


class MlflowTracker:
    """Records turns as MLflow runs."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._client = runs.client

    def record(
        self,
        turn: str,
        *,
        params: dict[str, Any],
        metrics: dict[str, float],
        curves: list[dict[str, float]],
        tags: dict[str, str],
        data: dict[str, DataSet],
        files: list[Path],
    ) -> str:
        """Writes the whole turn into the run that has its key, and returns the run's id.

        params: nested settings, flattened to `a.b`. data: data sets by their role in the turn.
        curves: one dict per logged step, with `step` and any number of values.
        A run that holds the same already stays as it is. A run that was cut short is written again
        from the beginning. A turn that was judged again, against another champion, gets new points
        on its metrics. Raises RegistryError.
        """
        written = digest([params, metrics, curves, tags])
        with self._runs.reached():
            run = self._runs.of(turn)
            before = run.data.tags.get(COMPLETE)
            if before == written:
                return str(run.info.run_id)
            # MLflow keeps a point once per time: with the run's own time, the points of a run that
            # was cut short are written over and not added again.
            moment = run.info.start_time if before is None else int(time.time() * 1000)
            self._write(run.info.run_id, moment, params, metrics, curves, tags)
            inputs = [_input(name, one) for name, one in data.items()]
            self._client.log_inputs(run.info.run_id, inputs)
            for file in files:
                self._runs.keep(run, file)
            # Last of all: a run without this tag was cut short.
            self._client.set_tag(run.info.run_id, COMPLETE, written)
            self._client.set_terminated(run.info.run_id)
            return str(run.info.run_id)

    def settings(self, turn: str) -> dict[str, str] | None:
        """The settings of a turn by their paths, as they were recorded; None if none were.

        Raises RegistryError.
        """
        with self._runs.reached():
            run = self._runs.find(turn)
        return None if run is None else dict(run.data.params) or None

    def attach(self, turn: str, path: Path, folder: str | None = None) -> None:
        """Adds a file, or the files of a folder, to a turn, or replaces them.

        `folder` is the place in the run. Raises RegistryError.
        """
        with self._runs.reached():
            self._runs.keep(self._runs.of(turn), path, folder)

    def report(self, turn: str, content: str | None) -> EvalReport | None:
        """The evaluation that a turn's run keeps, if its digest is `content`; None if it is not.

        Raises RegistryError.
        """
        with self._runs.reached():
            run = self._runs.find(turn)
            found = None if run is None else self._runs.take(run, "eval.json")
        if found is None or hashlib.sha256(found).hexdigest() != content:
            return None
        return EvalReport.model_validate_json(found)

    def describe(self, version: int, text: str) -> None:
        """Gives a version, and the registered model, a description in Markdown.

        One that is there stays, since somebody may have written it. Says so on standard error where
        it can't be done: a description is a note, and the decision is taken.
        """
        try:
            with self._runs.reached():
                name = self._runs.name
                if not self._client.get_registered_model(name).description:
                    self._client.update_registered_model(name, ABOUT.format(name=name))
                if not self._client.get_model_version(name, str(version)).description:
                    self._client.update_model_version(name, str(version), text)
        except RegistryError as error:
            print(f"register: version {version} got no description ({error})", file=sys.stderr)

    def trace(self, turn: str, trials: Sequence[Trial]) -> None:
        """Adds traces of some rows of `evaluate` to a turn.

        Says so on standard error where that can't be done: a trace is a note, and stops nobody.
        """
        try:
            with self._runs.reached():
                traces.write(self._runs, self._runs.of(turn), trials)
        except (RegistryError, NotImplementedError) as error:
            print(
                f"register: no traces were kept ({error}); register.traces: null asks for none",
                file=sys.stderr,
            )

    def _write(
        self,
        run: str,
        moment: int,
        params: dict[str, Any],
        metrics: dict[str, float],
        curves: list[dict[str, float]],
        tags: dict[str, str],
    ) -> None:
        """Writes numbers and texts, in requests of the size that MLflow accepts.

        moment: time of all points, in milliseconds since 1970.
        """
        from mlflow.entities import Metric, Param, RunTag

        points = [Metric(name, value, moment, 0) for name, value in metrics.items()]
        for row in curves:
            step = int(row["step"])
            for name, value in row.items():
                if name != "step":
                    points.append(Metric(name, value, moment, step))
        for metrics_part in batched(points, METRICS):
            self._client.log_batch(run, metrics=metrics_part)
        for params_part in batched(recorded(params).items(), PARAMS):
            entries = [Param(name, value) for name, value in params_part]
            self._client.log_batch(run, params=entries)
        for tags_part in batched(tags.items(), PARAMS):
            labels = [RunTag(name, value[:TAG_LENGTH]) for name, value in tags_part]
            self._client.log_batch(run, tags=labels)


def _input(name: str, one: DataSet) -> "DatasetInput":
    """A data set in MLflow's form."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = {"uri": one.path}
    if one.rev:
        source["rev"] = one.rev
    profile = None if one.rows is None else json.dumps({"num_rows": one.rows})
    entity = Dataset(
        name=one.path,
        # MLflow accepts 36 characters of a digest; the run's tags have all of it.
        digest=one.digest[:36],
        source_type="local",
        source=json.dumps(source),
        profile=profile,
    )
    return DatasetInput(entity, [InputTag("mlflow.data.context", name), InputTag("kept", one.kept)])


def flat(value: Any, between: str) -> dict[str, Any]:
    """The leaves of a nested document by their paths; items of a list are numbered from 0."""
    found: dict[str, Any] = {}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in items:
        if isinstance(child, dict | list | tuple) and child:
            for path, leaf in flat(child, between).items():
                found[f"{key}{between}{path}"] = leaf
        else:
            found[str(key)] = child
    return found


def nameable(name: str) -> str:
    """The name in a form that MLflow allows; one that it allows stays as it is."""
    found = UNNAMEABLE.sub("_", name)
    # MLflow reads a name as a path, and takes each path in its shortest form alone.
    if posixpath.normpath(found) != found or found.startswith(("/", "..")) or found == ".":
        found = f"_{found.replace('/', '_')}"
    if len(found) > NAME_LENGTH:
        found = f"{found[: NAME_LENGTH - 9]}_{digest(name)[:8]}"
    return found


def recorded(settings: dict[str, Any]) -> dict[str, str]:
    """Settings in the form in which a run keeps them: texts by their paths.

    People choose some of the names, such as those of candidates among prompts.
    """
    found = flat(settings, ".").items()
    return {nameable(path): str(value)[:PARAM_LENGTH] for path, value in found}


def numbers(value: Any, between: str = "/") -> dict[str, float]:
    """The leaves that are numbers, for a tracker's metrics; true and false count as 1 and 0."""
    found: dict[str, float] = {}
    for path, leaf in flat(value, between).items():
        if isinstance(leaf, bool | int | float):
            found[path] = float(leaf)
    return found
