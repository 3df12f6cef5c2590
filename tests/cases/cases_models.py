"""Cases of models: made by the published script, tried before a turn, and trained or asked."""

import os
import runpy
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from cowest import config, io, preflight, version
from cowest.config import Sampling
from cowest.errors import CoWestError
from cowest.models.hf import HFConfig
from cowest.protocols import Request
from cowest.records import Demonstration, Message
from cowest.stages import sft
from tests import tiny
from tests.cases.outcome import Outcome

END = "generation ends at what the template ends a turn with; or sft says so at once"
BEGINNING = "refused before training, naming chat_template"
BEFORE = "one ModelError in the pre-flight"
UNSHARED = "decoded without sharing"
TOWNS = ("Arlen", "Brome", "Corvey", "Dunmark", "Eskby", "Fallow", "Garrick", "Hollin")
PROMPTS: dict[str, Any] = {
    "draft": {"user": "{query}"},
    "refine": {"user": "{query} {draft}"},
    "solo": {"user": "{query}"},
}


def cases(folder: Path) -> Iterator[Outcome]:
    """Run each, in order."""
    made = runpy.run_path(str(folder / "models" / "make.py"))
    with tempfile.TemporaryDirectory() as scratch:
        at = Path(scratch)
        os.environ["COWEST_STORE"] = str(at / "calls.sqlite")

        def model(kind: str) -> Path:
            made[f"kind_{kind}"](at / kind)
            return at / kind

        yield learned("good", "learned and said", model("good"), at)
        yield learned("base_eos", END, model("base_eos"), at)
        for kind in ("r1", "think"):
            yield refused(kind, BEGINNING, "chat_template", model(kind), at, train)
        yield refused("nosystem", BEFORE, "system", model("nosystem"), at, tried)
        yield refused(
            "templates_nodefault", BEFORE, "default", model("templates_nodefault"), at, tried
        )
        yield refused("awq", BEFORE, "quantised", model("awq"), at, tried)
        yield asked("templates", "the default is taken", model("templates"))
        yield asked("lfm2", UNSHARED, model("lfm2"))


def learned(kind: str, right: str, model: Path, at: Path) -> Outcome:
    """Trains eight rows by heart, and counts those that are said as learned and end there."""
    rows = corpus()
    tried(model, at, None)
    adapter = train(model, at)
    with HFConfig(model=str(model)).open(adapter=adapter) as policy:
        requests = [Request(row.prompt, Sampling(max_tokens=24)) for row in rows]
        found = list(policy.generate(requests))
    as_learned = 0
    for row, completion in zip(rows, found, strict=True):
        as_learned += (completion.text, completion.finish) == (row.completion, "stop")
    said = f"{as_learned} of {len(rows)} rows are said as learned, and end"
    return Outcome(kind, right, said, as_learned == len(rows))


def refused(
    kind: str, right: str, names: str, model: Path, at: Path, run: Callable[[Path, Path], object]
) -> Outcome:
    """Expects one error from the pre-flight, and from what is run."""
    said = []
    for attempt in (tried, run):
        try:
            attempt(model, at)
        except CoWestError as error:
            said.append(f"{type(error).__name__}: {str(error).removeprefix(str(at))}")
    holds = len(said) == 2 and all(one.startswith("ModelError") and names in one for one in said)
    return Outcome(kind, right, said[0] if said else "nothing", holds)


def asked(kind: str, right: str, model: Path) -> Outcome:
    """Asks prompts of three lengths for two samples each."""
    texts = ("Where is the Comet pump made?", "What?", "Which country is it from, and why?")
    warm = Sampling(temperature=1.0, n=2, max_tokens=10)
    requests = []
    for text in texts:
        for sample in range(2):
            requests.append(Request((Message(role="user", content=text),), warm, sample))
    with HFConfig(model=str(model)).open() as policy:
        found = {completion.text for completion in policy.generate(requests)}
    said = f"{len(found)} different drafts of {len(requests)}"
    return Outcome(kind, right, said, None not in found and len(found) == len(requests))


def tried(model: Path, at: Path, system: str | None = "Be brief.") -> None:
    """Runs the pre-flight of a project with this policy, and with a system prompt."""
    project = Path(tempfile.mkdtemp(dir=at))
    tiny.copy_project(project)
    params = yaml.safe_load((project / "params.yaml").read_text())
    for section in params.values():
        if "policy" in section:
            section["policy"] = {"provider": "hf", "model": str(model)}
    params["turn"]["raw"] = str(project / params["turn"]["raw"])
    params["sft"]["prompts"] = {**PROMPTS, "draft": {"system": system, "user": "{query}"}}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    preflight.preflight(project / "params.yaml")


def train(model: Path, at: Path) -> Path:
    """Trains a policy on the corpus; returns its adapter."""
    work = Path(tempfile.mkdtemp(dir=at))
    io.write(work / "corpus.jsonl", corpus())
    version.write_none(work / "start")
    how = {"learning_rate": 0.02, "epochs": 60, "batch_size": 8, "warmup_steps": 0}
    values = {
        "policy": {"provider": "hf", "model": str(model)},
        "prompts": PROMPTS,
        "lora": {"r": 16, "alpha": 32},
        "training": {**how, "max_length": 128, "dtype": "float32"},
    }
    settings = config.parse(sft.SFTConfig, values, "cases")
    sft.main(work / "corpus.jsonl", work / "start", work / "policy", settings)
    return work / "policy" / "adapter"


def corpus() -> list[Demonstration]:
    """Eight towns, and what is made there."""
    rows = []
    for number, town in enumerate(TOWNS, 1):
        question = Message(role="user", content=f"Where is the {town} pump made?")
        rows.append(
            Demonstration(
                prompt=(question,),
                completion=f"It is made in {town}ia.",
                source=f"towns.jsonl:{number}",
            )
        )
    return rows
