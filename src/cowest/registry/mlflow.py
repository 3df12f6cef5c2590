"""The registry: MLflow's model versions, read as a log of decisions.

Every decision, promoted or refused, is one model version that is created together with its tags: MLflow's only atomic
step. Who is champion is told by folding that log; the alias `champion` is its shadow, set afterwards and mended whenever
it is found to differ. (MLflow's aliases know no compare-and-set: two turns could overwrite each other.)
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from cowest import version as versions
from cowest.config import Config, file_digest
from cowest.errors import RegistryError
from cowest.io import replacing_folder
from cowest.protocols import Decision, Registry
from cowest.registry.log import champion_of, fold, moved, settled
from cowest.registry.runs import Runs

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

ALIAS = "champion"
OURS = frozenset({"turn", "promote", "against", "reason", "digest"})
"""The tags that make a model version a decision. `promote` is yes, no, or late: judged against a champion that had gone."""
ATTEMPTS = 5
FILES = "version"
"""Where in the turn's run a version's folder lies."""


class RegistryConfig(Config):
    """Where versions and decisions are kept."""

    uri: str = Field(default="sqlite:///mlflow.db", pattern=r"^[a-z][a-z0-9+]*://")
    """MLflow's store: a file beside the project, the address of a server, or a PostgreSQL database (its password in PGPASSWORD)."""
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_. -]*$")
    """The registered model's name, and the experiment's."""
    artifacts: str = "mlartifacts"
    """Where the files go, for a store that is a file or a database: a folder, or s3://bucket/path; a server has its own place."""

    def runs(self) -> Runs:
        """The store's runs. Raises RegistryError."""
        return Runs(self.uri, self.name, self.artifacts)

    def begun(self) -> bool:
        """Whether there is anything in it: a file that is not there yet is not made by looking."""
        return (
            not self.uri.startswith("sqlite:///")
            or Path(self.uri.removeprefix("sqlite:///")).exists()
        )

    def open(self) -> Registry:
        """The registry. Raises RegistryError when it can't be reached."""
        return MlflowRegistry(self.runs())


class MlflowRegistry:
    """protocols.Registry over MLflow."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._client = runs.client

    def log(self) -> list[Decision]:
        """All decisions, oldest first; versions that somebody registered by hand are none."""
        found: list[ModelVersion] = []
        with self._runs.reached():
            token: str | None = None
            while True:
                page = self._client.search_model_versions(
                    f"name='{self._runs.name}'", page_token=token
                )
                found += page
                token = page.token
                if not token:
                    break
        return fold(self._wish(version) for version in found if version.tags.keys() >= OURS)

    def champion(self) -> int | None:
        """The version that the log makes champion; mends the alias."""
        log = self.log()
        self._cast_shadow(log)
        return champion_of(log)

    def fetch(self, version: int, folder: Path) -> None:
        """Lays a version's files out in a new folder, whole or not at all. Raises RegistryError."""
        decision = next((decision for decision in self.log() if decision.version == version), None)
        if decision is None:
            raise RegistryError(
                f"the registry at {self._runs.place} has no version {version} of {self._runs.name!r}"
            )
        from mlflow.artifacts import download_artifacts

        with replacing_folder(folder) as temporary:
            with self._runs.reached():
                source = self._client.get_model_version_download_uri(self._runs.name, str(version))
                download = Path(
                    download_artifacts(
                        artifact_uri=source,
                        dst_path=str(temporary / ".download"),
                        tracking_uri=self._runs.uri,
                    )
                )
            for part in download.iterdir():
                part.replace(temporary / part.name)
            download.rmdir()
            if download != temporary / ".download":
                (temporary / ".download").rmdir()
            if file_digest(temporary) != decision.digest:
                raise RegistryError(
                    f"the files of version {version} in the registry at {self._runs.place} are not those that were registered"
                )
            versions.expect(temporary)

    def decide(
        self,
        folder: Path,
        *,
        turn: str,
        promote: bool,
        against: int | None,
        reason: str,
        tags: dict[str, str],
    ) -> Decision:
        """Adds a version with its decision to the log, in one step; moves the alias if it counts.

        A turn that was decided before answers with its decision; one that came too late is decided again once it was
        judged against another champion. Raises ModelError for a folder that is no version, RegistryError.
        """
        assert OURS.isdisjoint(tags), tags
        versions.expect(folder)
        if (before := self._decided(turn, against)) is not None:
            return before
        run = self.upload(folder, turn)
        for attempt in range(ATTEMPTS):
            champion = self.champion()
            wish, why = "yes" if promote else "no", reason
            if promote and champion != against:
                wish, why = "late", moved(against, champion)
            try:
                self.append(
                    run,
                    tags
                    | {
                        "turn": turn,
                        "promote": wish,
                        "against": str(against),
                        "reason": why,
                        "digest": file_digest(folder),
                    },
                )
            except RegistryError:
                # A busy database may be free in a moment; and the version may be there all the same, its answer lost.
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(0.2 * 2**attempt)
            if (made := self._decided(turn, against)) is not None:
                return made
        raise RegistryError(
            f"the registry at {self._runs.place} took version after version and shows none of them"
        )

    def _decided(self, turn: str, against: int | None) -> Decision | None:
        log = self.log()
        self._cast_shadow(log)
        return settled(log, turn) or next(
            (one for one in log if (one.turn, one.against) == (turn, against)), None
        )

    def upload(self, folder: Path, turn: str) -> "Run":
        """Puts a version's files into the turn's run, where they change nothing yet."""
        with self._runs.reached():
            run = self._runs.of(turn)
            self._client.log_artifacts(run.info.run_id, str(folder), _place(file_digest(folder)))
        return run

    def append(self, run: "Run", tags: dict[str, str]) -> None:
        """Adds one line to the log: the atomic step."""
        with self._runs.reached():
            self._register_name()
            source = f"{run.info.artifact_uri}/{_place(tags['digest'])}"
            self._client.create_model_version(
                self._runs.name, source, run.info.run_id, tags=tags, await_creation_for=0
            )

    def _register_name(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self._runs.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _cast_shadow(self, log: Sequence[Decision]) -> None:
        """Makes the alias say what the log says. Read again after it was set: another process may have set it meanwhile."""
        for attempt in range(ATTEMPTS):
            champion = champion_of(log)
            if not log or self._alias() == champion:
                return
            try:
                with self._runs.reached():
                    if champion is None:
                        self._client.delete_registered_model_alias(self._runs.name, ALIAS)
                    else:
                        self._client.set_registered_model_alias(
                            self._runs.name, ALIAS, str(champion)
                        )
            except RegistryError:
                # Two who set it first at once: one of them breaks the database's rule of one alias, and finds it set.
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(0.1 * 2**attempt)
            log = self.log()

    def _alias(self) -> int | None:
        with self._runs.reached():
            found = self._client.get_registered_model(self._runs.name).aliases.get(ALIAS)
        return None if found is None else int(found)

    def _wish(self, version: "ModelVersion") -> Decision:
        tags = dict(version.tags)
        against = tags["against"]
        if tags["promote"] not in ("yes", "no", "late") or not (
            against == "None" or against.isdecimal()
        ):
            raise RegistryError(
                f"version {version.version} of {self._runs.name!r} at {self._runs.place} is no decision: its tags were changed by hand"
            )
        return Decision(
            version=int(version.version),
            turn=tags["turn"],
            promoted=tags["promote"] == "yes",
            against=None if against == "None" else int(against),
            reason=tags["reason"],
            digest=tags["digest"],
            tags={key: value for key, value in tags.items() if key not in OURS or key == "promote"},
        )


def _place(content: str) -> str:
    """Where a version's files lie in its run: by their content, so that whoever decides the same turn beside us overwrites nothing."""
    return f"{FILES}/{content[:16]}"
