"""Registries and versions for tests: MLflow on a real SQLite file or PostgreSQL database, and
folders small enough to make by the dozen.
"""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from cowest import environment, evaluation, version
from cowest.config import load, parse, section
from cowest.gates import Rules
from cowest.prompts import Prompts, Template
from cowest.protocols import Serving
from cowest.records import EvalReport, Message, PreferencePair
from cowest.registry.mlflow import ALIAS, RegistryConfig
from tests import stores
from tests.factories import make_query, make_trial

PROMPTS = Prompts(refine=Template(user="{query} {draft}"), solo=Template())


@functools.cache
def migrated() -> Path:
    """A database with MLflow's tables, made once a process: they take seconds."""
    environment.settle()
    folder = Path(tempfile.mkdtemp(prefix="cowest-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    RegistryConfig(
        uri=f"sqlite:///{folder}/mlflow.db", name="any", artifacts=str(folder / "artifacts")
    ).open()
    return folder / "mlflow.db"


@functools.cache
def migrated_database() -> str:
    """The same on PostgreSQL, to be copied."""
    environment.settle()
    place = stores.server().database()
    RegistryConfig(uri=place, name="any").open()
    stores.server().sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = "
        f"'{place.rpartition('/')[2]}'"
    )
    return place


def empty_registry(folder: Path, kind: str = "sqlite") -> RegistryConfig:
    """A registry of its own, with nothing decided; its files are in the folder."""
    if kind == "postgres":
        return RegistryConfig(
            uri=stores.server().database(like=migrated_database()),
            name="handbook",
            artifacts=str(folder / "mlartifacts"),
        )
    shutil.copy(migrated(), folder / "mlflow.db")
    return registry_in(folder)


def registry_in(folder: Path) -> RegistryConfig:
    """The settings of the registry in a folder."""
    return RegistryConfig(
        uri=f"sqlite:///{folder}/mlflow.db", name="handbook", artifacts=str(folder / "mlartifacts")
    )


def alias(config: RegistryConfig) -> int:
    """The version that the alias `champion` names."""
    return int(config.runs().client.get_registered_model(config.name).aliases[ALIAS])


def make_version(
    folder: Path, weights: str = "weights", curves: str = "", base: str = "base@1"
) -> Path:
    """A version of the policy whose adapter is a word."""
    (folder / "adapter").mkdir(parents=True, exist_ok=True)
    (folder / "adapter" / "adapter_model.safetensors").write_text(weights)
    if curves:
        (folder / "curves.jsonl").write_text(curves)
    version.write(folder, base=base, prompts=PROMPTS, trained="t")
    return folder


def serving() -> Serving:
    """How a version is asked, where nobody asks it."""
    model = {"provider": "scripted", "rules": [{"match": "", "replies": ["x"]}]}
    asked = Message(role="user", content="Which one?")
    return Serving({"policy": model, "strong": model}, (asked,))


def make_report(
    folder: Path, params: Path, *, better: bool = True, **judges: str | None
) -> EvalReport:
    """A report on the versions in policy/, challenger/ and champion/ of a folder, as evaluate and
    compare would make it: after alignment all answers are right and before none, or the other way.
    `judges` are the names of the strong model and the scorer.
    """
    right = {"before": 0.0, "champion": 0.0, "after": 1.0}
    queries = []
    for number in range(12):
        rows = []
        for system, place in {
            "before": "policy",
            "champion": "champion",
            "after": "challenger",
        }.items():
            if not (folder / place).exists():
                continue
            found = version.read(folder / place)
            if found is not None:
                score = right[system] if better else 1 - right[system]
                rows.append(make_trial(number, system, score=score, version=found.digest, **judges))
        queries.append(rows)
    rules = parse(Rules, section(load(params), "compare"), "compare")
    return evaluation.compare(evaluation.gather(queries), rules)


def make_pair(number: int = 0) -> PreferencePair:
    """A pair of a training query."""
    query = make_query(number)
    said = query.prompt[0]
    return PreferencePair(
        id=query.id,
        query=query.id,
        split="train",
        prompt=query.prompt,
        chosen=(said,),
        rejected=(said,),
        margin=1.0,
        policy="policy",
        strong="strong",
        scorer="exact_match",
        samples=(0, 1),
    )
