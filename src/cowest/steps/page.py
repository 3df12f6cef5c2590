"""The page of a turn whose steps left their files in many places."""

import tempfile
from pathlib import Path

from cowest import environment, report
from cowest.config import load, parse, section
from cowest.errors import CoWestError
from cowest.io import read_document
from cowest.ledger.claims import Spent, spent
from cowest.ledger.store import open_store
from cowest.lineage import Turn
from cowest.registry.mlflow import RegistryConfig
from cowest.registry.tracking import MlflowTracker
from cowest.stages.register import RegisterConfig

PLACES = {
    "params": "params.yaml",
    "turn": "turn.json",
    "start": "models/start",
    "champion": "models/champion",
    "policy": "models/policy",
    "challenger": "models/challenger",
    "quarantine": "data/quarantine.jsonl",
    "queries": "data/queries.jsonl",
    "corpus": "data/corpus.jsonl",
    "feedback": "data/feedback.jsonl",
    "raw_pairs": "data/pairs.raw.jsonl",
    "pairs": "data/pairs.jsonl",
    "trials": "data/trials.jsonl",
    "queries_found": "reports/queries.json",
    "corpus_found": "reports/corpus.json",
    "feedback_found": "reports/feedback.json",
    "pairs_found": "reports/pairs.json",
    "report": "reports/eval.json",
    "decision": "reports/decision.json",
}
"""The place that each file of a turn has in a project, by the name that the step gives it."""


def write(page: str, **files: str) -> None:
    """Writes the page, and adds it to the turn's run in the tracker.

    files: the place of each file of PLACES. Raises CoWestError.
    """
    environment.settle()
    turn = read_document(Path(files["turn"]), Turn)
    with tempfile.TemporaryDirectory(prefix="cowest-") as scratch:
        root = Path(scratch)
        for name, place in PLACES.items():
            link = root / place
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(files[name]).absolute())
        report.write(Path(page), root, ledger=open_store().ledger(turn.key), spent=_spent(turn.key))
    settings = section(load(Path(files["params"])), "register")
    keep(Path(page), turn.key, parse(RegisterConfig, settings, "params.yaml: register").registry)


def keep(page: Path, turn: str, registry: RegistryConfig) -> None:
    """Adds a turn's page and its pictures to the turn's run. Raises RegistryError."""
    from cowest.report import pictures

    tracker = MlflowTracker(registry.runs())
    with tempfile.TemporaryDirectory(prefix="cowest-") as folder:
        # A step's page has no name of its own, and a browser goes by the name.
        named = Path(folder) / "index.html"
        named.write_bytes(page.read_bytes())
        tracker.attach(turn, named)
    with tempfile.TemporaryDirectory(prefix="cowest-") as folder:
        if pictures.write(page, Path(folder)):
            tracker.attach(turn, Path(folder), "figures")


def _spent(turn: str) -> Spent | None:
    try:
        return spent(open_store(), turn)
    except CoWestError:
        return None
