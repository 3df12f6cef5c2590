"""The tracker: one turn, written once to MLflow from files, for people to look it up."""

import json
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cowest.config import digest
from cowest.records import DataSet
from cowest.registry.runs import Runs

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

T = TypeVar("T")
COMPLETE = "complete"
"""The tag that is set last: the digest of what was written."""
METRICS, PARAMS = 1000, 100
"""MLflow takes no more of these in one request (and as many tags as params)."""
PARAM_LENGTH, TAG_LENGTH = 6000, 8000


class MlflowTracker:
    """protocols.Tracker over MLflow."""

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
        """Writes the whole turn once, found again by its key; answers with the run's id. Raises RegistryError.

        params: nested settings, flattened to `a.b`. data: what went in, by what it is to the turn. curves: one dict a logged
        step, its `step` and any number of values.
        What was written before is left as it is; a turn that was cut short is written again over its beginning, and one
        that was judged again (against another champion) gets new points on its metrics.
        """
        written = digest([params, metrics, curves, tags])
        with self._runs.reached():
            run = self._runs.of(turn)
            before = run.data.tags.get(COMPLETE)
            if before == written:
                return str(run.info.run_id)
            moment = run.info.start_time if before is None else int(time.time() * 1000)
            self._write(run.info.run_id, moment, params, metrics, curves, tags)
            self._client.log_inputs(
                run.info.run_id, [_input(name, one) for name, one in data.items()]
            )
            for file in files:
                self._client.log_artifact(run.info.run_id, str(file))
            self._client.set_tag(run.info.run_id, COMPLETE, written)
            self._client.set_terminated(run.info.run_id)
            return str(run.info.run_id)

    def attach(self, turn: str, file: Path) -> None:
        """Adds a page to a turn, or writes it again. Raises RegistryError."""
        with self._runs.reached():
            self._client.log_artifact(self._runs.of(turn).info.run_id, str(file))

    def _write(
        self,
        run: str,
        moment: int,
        params: dict[str, Any],
        metrics: dict[str, float],
        curves: list[dict[str, float]],
        tags: dict[str, str],
    ) -> None:
        """`moment`, in milliseconds, is the run's own: what is written a second time is then the same point, not another."""
        from mlflow.entities import Metric, Param, RunTag

        points = [Metric(name, value, moment, 0) for name, value in metrics.items()]
        for row in curves:
            points += [
                Metric(name, value, moment, int(row["step"]))
                for name, value in row.items()
                if name != "step"
            ]
        settings = [
            Param(name, str(value)[:PARAM_LENGTH]) for name, value in flat(params, ".").items()
        ]
        for metrics_part in _parts(points, METRICS):
            self._client.log_batch(run, metrics=metrics_part)
        for params_part in _parts(settings, PARAMS):
            self._client.log_batch(run, params=params_part)
        for tags_part in _parts(
            [RunTag(name, value[:TAG_LENGTH]) for name, value in tags.items()], PARAMS
        ):
            self._client.log_batch(run, tags=tags_part)


def _input(name: str, one: DataSet) -> "DatasetInput":
    """A data set as MLflow shows it; it takes 36 characters of a digest, the tags have it whole."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"uri": one.path, "rev": one.rev} if one.rev else {"uri": one.path})
    profile = json.dumps({"num_rows": one.rows}) if one.rows is not None else None
    entity = Dataset(
        name=one.path, digest=one.digest[:36], source_type="local", source=source, profile=profile
    )
    return DatasetInput(entity, [InputTag("mlflow.data.context", name), InputTag("kept", one.kept)])


def flat(value: Any, between: str) -> dict[str, Any]:
    """The leaves of a nested document by their paths; lists count from 0."""
    found: dict[str, Any] = {}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in items:
        if isinstance(child, dict | list | tuple) and child:
            found |= {f"{key}{between}{path}": leaf for path, leaf in flat(child, between).items()}
        else:
            found[str(key)] = child
    return found


def numbers(value: Any, between: str = "/") -> dict[str, float]:
    """The leaves that are numbers, for a tracker's metrics; true and false count as 1 and 0."""
    return {
        path: float(leaf)
        for path, leaf in flat(value, between).items()
        if isinstance(leaf, bool | int | float)
    }


def _parts(items: Sequence[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part
