"""The registry: MLflow's model versions, read as a log of decisions.

Every decision, promoted or refused, is one model version that is created together with its tags:
MLflow's only atomic step. The champion is found by folding that log. The alias `champion` follows
the log: it is set afterwards, and mended whenever it is found to differ. It can't be the truth,
since MLflow's aliases have no compare-and-set, and two turns could overwrite each other.
"""

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from cowest import version as versions
from cowest.config import Config, file_digest
from cowest.errors import RegistryError
from cowest.io import replacing_folder
from cowest.protocols import Entry, Registry, Serving
from cowest.records import Decision
from cowest.registry import look, mlmodel
from cowest.registry.acts import told
from cowest.registry.log import champion_of, fold, settled
from cowest.registry.runs import SQLITE, Runs, are_missing, folder_of

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

ALIAS = "champion"
OURS = frozenset({"turn", "promote", "against", "reason", "digest"})
"""The tags that make a model version a decision."""
GIVEN: dict[str, Literal["promoted", "refused", "late"]] = {
    "yes": "promoted",
    "no": "refused",
    "late": "late",
}
"""The verdict that a version was given when it was registered, by its tag `promote`. The log may
find a promotion late all the same (`registry.log.fold`)."""
NOTED: dict[str, Literal["waiting", "noted"]] = {
    "waiting": "waiting",
    "hold": "noted",
    "release": "noted",
}
"""The verdict by the tag `kind`, of what is registered with `promote: no` and is no refusal."""
ATTEMPTS = 5
DESCRIPTION = 5000
"""Characters of a description that MLflow keeps."""
FILES = "version"
"""Folder of a turn's run that holds the folders of its versions."""


class RegistryConfig(Config):
    """The place where versions and decisions are kept."""

    uri: str = Field(default="sqlite:///mlflow.db", pattern=r"^[a-z][a-z0-9+]*://")
    """MLflow's store: a file, as sqlite:///mlflow.db (a relative path is relative to params.yaml),
    the address of a server, or a PostgreSQL database (put its password in PGPASSWORD)."""
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_. -]*$")
    """Name of the registered model and of the experiment: letters, digits, blanks, `.`, `_` and
    `-`, of which the first is a letter or digit."""
    artifacts: str = "mlartifacts"
    """Folder (relative to params.yaml) or s3://bucket/path for the files, if the store is a file or
    a database. A server has its own place for them, and this setting changes nothing."""

    def runs(self) -> Runs:
        """The store's runs. Raises RegistryError."""
        return Runs(self.uri, self.name, self.artifacts)

    def begun(self) -> bool:
        """False if the store is a file that does not exist yet; `open` would make it."""
        if not self.uri.startswith(SQLITE):
            return True
        return Path(self.uri.removeprefix(SQLITE)).exists()

    def ready(self) -> None:
        """Raises RegistryError if a turn could not find its champion, or not keep its decision.

        Makes nothing. A registry in a file is read without MLflow, whose import takes seconds.
        """
        if not self.begun():
            return
        if self.uri.startswith(SQLITE):
            look.ready(Path(self.uri.removeprefix(SQLITE)), self.name, self.artifacts)
        else:
            self.runs().ready()

    def open(self) -> Registry:
        """The registry. Raises RegistryError if it can't be reached."""
        return MlflowRegistry(self.runs())


@dataclass(frozen=True, slots=True)
class Files:
    """The place of a version's files."""

    source: str
    """Address, as MLflow's tables hold it."""
    run: str
    """Id of the run that they belong to."""
    digest: str


class MlflowRegistry:
    """protocols.Registry over MLflow."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._client = runs.client
        self.place = runs.place
        self._unmended = False
        """True once it was said that the alias could not be mended."""

    def log(self) -> list[Decision]:
        """All decisions, oldest first. Versions that somebody registered by hand are left out."""
        with self._runs.reached():
            found = list(self._versions())
        return fold(self._given(one) for one in found if one.tags.keys() >= OURS)

    def _versions(self) -> "Iterator[ModelVersion]":
        named = f"name='{self._runs.name}'"
        token: str | None = None
        while True:
            page = self._client.search_model_versions(named, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def champion(self) -> int | None:
        """The version that the log makes champion; mends the alias, or says that it can't."""
        log = self.log()
        try:
            self._mend_alias(log)
        except RegistryError as error:
            # Who only serves may have no right to write, and needs none.
            if not self._unmended:
                print(
                    f"registry: the alias `{ALIAS}` was not mended ({error}); the champion is "
                    "found without it",
                    file=sys.stderr,
                )
            self._unmended = True
        return champion_of(log)

    def fetch(self, version: int, folder: Path) -> None:
        """Lays a version's files out in a new folder, whole or not at all. Raises RegistryError."""
        digests = {decision.version: decision.digest for decision in self.log()}
        if version not in digests:
            raise RegistryError(
                f"the registry at {self._runs.place} has no version {version} of "
                f"{self._runs.name!r}"
            )
        with replacing_folder(folder) as temporary:
            self._download(version, temporary)
            if file_digest(temporary) != digests[version]:
                raise RegistryError(
                    f"the files of version {version} in the registry at {self._runs.place} are "
                    "not those that were registered"
                )
            versions.expect(temporary)

    def _download(self, version: int, folder: Path) -> None:
        """Puts the files of a version into a folder that is there."""
        from mlflow.artifacts import download_artifacts

        target = folder / ".download"
        with self._runs.reached():
            kept = self._client.get_model_version_download_uri(self._runs.name, str(version))
            source = self._runs.files(kept)
            there = folder_of(source)
            if there is not None and not there.is_dir():
                what = f"the files of version {version} of {self._runs.name!r}"
                raise RegistryError(are_missing(what, there))
            if mlmodel.MLMODEL in self._names(source):
                source = f"{source.rstrip('/')}/{mlmodel.INSIDE}"
            found = download_artifacts(
                artifact_uri=source, dst_path=str(target), tracking_uri=self._runs.uri
            )
        # MLflow makes a folder with the source's name in `target`, or fills `target` itself: that
        # depends on where the files are kept.
        download = Path(found)
        for part in download.iterdir():
            part.replace(folder / part.name)
        download.rmdir()
        if download != target:
            target.rmdir()

    def _names(self, source: str) -> set[str]:
        """The names of the files and folders directly below an address."""
        from mlflow.artifacts import list_artifacts

        listed = list_artifacts(artifact_uri=source, tracking_uri=self._runs.uri)
        return {one.path.rpartition("/")[2] for one in listed}

    def decide(
        self,
        folder: Path,
        *,
        turn: str,
        promote: bool,
        against: int | None,
        reason: str,
        tags: dict[str, str],
        serving: Serving | None = None,
        waits: bool = False,
    ) -> Decision:
        """Adds a version with its decision to the log, in one step; moves the alias if it counts.

        While promotions are held, and where it `waits` for approval, a version that is to be
        promoted is left waiting. What was rolled back is refused. A turn that was decided before
        answers with its decision; one whose decision was late is decided again once it was judged
        against another champion. With `serving`, the version is an MLflow model too. Raises
        RegistryError, and ModelError if the folder is no version.
        """
        kept = versions.expect(folder)
        before = self._decided(turn, against)
        if before is not None:
            return before
        # The files go first: a version in the log whose files are missing could not be served.
        files = self.upload(folder, turn, serving)
        entry = Entry(
            turn=turn,
            against=against,
            promote=promote,
            reason=reason,
            waits=waits,
            contents=(files.digest, kept.digest),
            tags=tags | {"answers": kept.digest},
        )
        return self._add(entry, files)

    def enter(self, entry: Entry) -> Decision:
        """Adds a person's act to the log, in one step, with the files of the version it is `of`.

        Done before, it answers with what was done. Nothing is uploaded again. Raises RegistryError
        if the files of a version that it promotes are not there, or not those that were registered.
        """
        before = self._decided(entry.turn, entry.against)
        if before is not None:
            return before
        if entry.of is None:
            return self._add(entry, self._no_files(entry.turn))
        if entry.promote:
            with tempfile.TemporaryDirectory(prefix="cowest-") as scratch:
                self.fetch(entry.of, Path(scratch) / "version")
        with self._runs.reached():
            found = self._client.get_model_version(self._runs.name, str(entry.of))
        return self._add(entry, Files(found.source, found.run_id, found.tags["digest"]))

    def _no_files(self, turn: str) -> Files:
        """The files of an act before the first champion: they say that there is no version."""
        with tempfile.TemporaryDirectory(prefix="cowest-") as scratch:
            folder = Path(scratch) / "version"
            versions.write_none(folder)
            return self.upload(folder, turn)

    def _add(self, entry: Entry, files: Files) -> Decision:
        """Adds a line to the log, and looks whether it is there and what it counts."""
        assert OURS.isdisjoint(entry.tags), entry.tags
        tags = entry.tags | {
            "turn": entry.turn,
            "against": str(entry.against),
            "digest": files.digest,
        }
        for attempt in range(ATTEMPTS):
            log = self.log()
            self._mend_alias(log)
            outcome = told(entry, log)
            try:
                self.append(files, tags | outcome)
            except RegistryError:
                # A busy database may be free in a moment. And the version may be there all the
                # same, if only MLflow's answer was lost: so we look before we try again.
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(0.2 * 2**attempt)
            made = self._decided(entry.turn, entry.against)
            if made is not None:
                return made
        raise RegistryError(
            f"the registry at {self._runs.place} took version after version and shows none of them"
        )

    def _decided(self, turn: str, against: int | None) -> Decision | None:
        """The decision on a turn, or the late one that was judged against the same champion."""
        log = self.log()
        self._mend_alias(log)
        decision = settled(log, turn)
        if decision is not None:
            return decision
        for one in log:
            if (one.turn, one.against) == (turn, against):
                return one
        return None

    def upload(self, folder: Path, turn: str, serving: Serving | None = None) -> Files:
        """Puts a version's files into the turn's run, where no reader of the log sees them yet.

        With `serving`, they lie in a folder of their own beside `MLmodel`.
        """
        content = file_digest(folder)
        place = _place(content)
        with self._runs.reached(), tempfile.TemporaryDirectory(prefix="cowest.") as around:
            run = self._runs.of(turn)
            files = Files(f"{run.info.artifact_uri}/{place}", run.info.run_id, content)
            if serving is None:
                self._runs.keep(run, folder, place)
                return files
            self._runs.keep(run, folder, f"{place}/{mlmodel.INSIDE}")
            # Last, since with MLmodel there the version is looked for in the folder beside it.
            mlmodel.write(Path(around), serving)
            self._runs.keep(run, Path(around), place)
        return files

    def append(self, files: Files, tags: dict[str, str]) -> None:
        """Adds one line to the log: the atomic step."""
        with self._runs.reached():
            self._register_name()
            self._client.create_model_version(
                self._runs.name,
                files.source,
                files.run,
                tags=tags,
                description=_act_in_words(tags),
                await_creation_for=0,
            )

    def _register_name(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self._runs.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _mend_alias(self, log: Sequence[Decision]) -> None:
        """Sets the alias to the champion of the log, if it is another."""
        # The log is read again after the alias was set, since another process may have decided
        # and set the alias meanwhile: the last to set it must be the last to look.
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
                # If two processes set the first alias at once, one of them breaks the database's
                # rule that an alias is unique, and finds the alias set when it looks again.
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(0.1 * 2**attempt)
            log = self.log()

    def _alias(self) -> int | None:
        with self._runs.reached():
            found = self._client.get_registered_model(self._runs.name).aliases.get(ALIAS)
        return None if found is None else int(found)

    def _given(self, version: "ModelVersion") -> Decision:
        """The decision with the verdict that the version was given when it was registered."""
        tags = dict(version.tags)
        against = tags["against"]
        whole = against == "None" or against.isdecimal()
        if tags["promote"] not in GIVEN or not whole:
            raise RegistryError(
                f"version {version.version} of {self._runs.name!r} at {self._runs.place} is no "
                "decision: its tags were changed by hand"
            )
        # `promote` stays among the tags that `cowest status --json` shows: it says what was asked
        # for when the version was registered, where the verdict says what became of it.
        shown = tags.keys() - (OURS - {"promote"})
        return Decision(
            version=int(version.version),
            turn=tags["turn"],
            verdict=NOTED.get(tags.get("kind", ""), GIVEN[tags["promote"]]),
            against=None if against == "None" else int(against),
            reason=tags["reason"],
            digest=tags["digest"],
            at=version.creation_timestamp / 1000,
            tags={name: value for name, value in tags.items() if name in shown},
        )


def _act_in_words(tags: dict[str, str]) -> str | None:
    """The description of a person's act on MLflow's pages; None for a turn, which has a longer one
    once it is decided.
    """
    kind = tags.get("kind")
    if kind not in ("rollback", "approval", "hold", "release"):
        return None
    of = f" of version {tags['of']}" if kind == "approval" else ""
    if kind == "rollback":
        of = f" to version {tags['of']}"
    return f"**{kind.capitalize()}**{of}: {tags['reason']}"[:DESCRIPTION]


def _place(content: str) -> str:
    """Folder of a version's files in the turn's run, named by the digest of the content.

    So two processes that decide the same turn at once do not overwrite each other's files.
    """
    return f"{FILES}/{content[:16]}"
