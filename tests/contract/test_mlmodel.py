"""A version as MLflow's own users take it: loaded, asked, served, and fetched as it always was."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from mlflow.tracing.client import TracingClient

from cowest import __version__, io, version
from cowest.config import file_digest
from cowest.protocols import Serving
from cowest.records import Message
from cowest.registry import acts, mlmodel
from cowest.registry.mlflow import RegistryConfig
from cowest.registry.tracking import MlflowTracker
from cowest.report.shown import filter_of, sample
from cowest.stages import register
from tests import stores, tiny
from tests.deciders import registry_of
from tests.factories import make_trial
from tests.registries import PROMPTS, empty_registry, make_version
from tests.servers import free_port

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_store")]

STRONG = {"provider": "scripted", "rules": [{"match": "", "replies": ["refined"]}]}
ASKED = (Message(role="user", content="Which country makes the Phoenix fan?"),)


def settings() -> dict[str, Any]:
    policy = {"provider": "hf", "model": str(tiny.model())}
    return {"policy": policy, "strong": STRONG, "drafting": {"max_tokens": 8}}


@contextmanager
def tracking(uri: str) -> Iterator[None]:
    """MLflow's own idea of where the registry is, as its users set it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version with an adapter that really lies on the tiny model."""
    import peft
    import transformers

    folder = tmp_path_factory.mktemp("trained")
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny.model())
    lora = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    peft.get_peft_model(model, lora).save_pretrained(folder / "adapter")
    version.write(folder, base="tiny@1", prompts=PROMPTS, trained="t")
    return folder


def decide(config: RegistryConfig, folder: Path, turn: str = "aa", **more: Any) -> int:
    registry = config.open()
    made = registry.decide(
        folder,
        turn=turn,
        promote=True,
        against=registry.champion(),
        reason="better",
        tags={},
        **more,
    )
    return made.version


@pytest.mark.parametrize("kind", stores.KINDS)
def test_the_champion_loads_and_answers(kind: str, trained: Path, tmp_path: Path) -> None:
    config = empty_registry(tmp_path, kind)
    decide(config, trained, serving=Serving(settings(), ASKED))
    place = f"models:/{config.name}@champion"
    with tracking(config.runs().uri):
        model = mlflow.pyfunc.load_model(place)
        one, two = model.predict([{"question": "one"}, {"question": "two"}]).to_dict("records")
        assert (one["answer"], one["failed"]) == (two["answer"], two["failed"]) == ("refined", None)
        assert one["draft"] and two["draft"] and one["draft"] != two["draft"]
        (again,) = model.predict([{"messages": [{"role": "user", "content": "one"}]}]).to_dict(
            "records"
        )
        assert again == one
        with pytest.raises(Exception, match="row 0 asks nothing"):
            model.predict([{"question": " "}])
        assert model.input_example.to_dict("records") == [{"question": ASKED[0].content}]
        assert {one.name for one in model.metadata.get_input_schema()} == {"question", "messages"}
        # One who loads it may say what refines, where the strong model is another one there.
        broken = {"provider": "scripted", "rules": [{"match": "", "failed": "no"}]}
        other = mlflow.pyfunc.load_model(place, model_config={"strong": broken})
        (failed,) = other.predict([{"question": "one"}]).to_dict("records")
        assert failed == {"answer": None, "draft": one["draft"], "failed": "refine: no"}
    # Loading wrote beside MLmodel, and the version is what it was.
    assert list((tmp_path / "mlartifacts").rglob("registered_model_meta"))
    config.open().fetch(1, tmp_path / "fetched")
    assert file_digest(tmp_path / "fetched") == file_digest(trained)


def test_the_artifact_holds_no_code_no_pickle_and_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "canary-key")
    config = empty_registry(tmp_path)
    strong = {"provider": "openai", "model": "big", "key_env": "SOME_KEY", "batch": {}}
    policy = {"provider": "scripted", "rules": [{"match": ""}]}
    params = {
        "serve": {
            **settings(),
            "policy": policy,
            "strong": strong,
            "registry": {"uri": "postgresql://me:canary-word@db/mlflow", "name": "handbook"},
        }
    }
    answering = mlmodel.settings_of(params)
    assert answering is not None
    decide(config, make_version(tmp_path / "a", "a"), serving=Serving(answering, ASKED))
    (place,) = {path.parent for path in (tmp_path / "mlartifacts").rglob("MLmodel")}
    files = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    (wheel,) = {name for name in files if name.endswith(".whl")}
    assert files - {wheel} == {
        "MLmodel",
        "conda.yaml",
        "python_env.yaml",
        "requirements.txt",
        "input_example.json",
        "serving_input_example.json",
        "version/version.json",
        "version/adapter/adapter_model.safetensors",
    }
    assert not [
        path for path in place.rglob("*") if path.is_file() and b"canary" in path.read_bytes()
    ]
    found = yaml.safe_load((place / "MLmodel").read_text())["flavors"]["python_function"]
    assert found["loader_module"] == "cowest.online.pyfunc"
    assert found["config"]["strong"] == {
        "provider": "openai",
        "model": "big",
        "key_env": "SOME_KEY",
    }
    assert set(found["config"]) == {"policy", "strong", "drafting"}
    needed = (place / "requirements.txt").read_text().splitlines()
    assert needed[0] == f"mlflow=={mlflow.__version__}"
    assert wheel in needed and len(needed) == len(set(needed))
    # Where all of it is installed but CoWest itself, the wheel is found beside the file.
    pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--no-deps"]
    done = subprocess.run(
        [*pip, "-r", "requirements.txt"], cwd=place, capture_output=True, text=True, check=False
    )
    assert f"Would install cowest-{__version__}" in done.stdout, done.stderr
    assert any(line.startswith("phonenumbers==") for line in needed), "what an endpoint needs"
    assert not any(line.startswith("torch") for line in needed), "no local model answers here"


def test_a_checkout_in_the_path_makes_a_whole_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib.metadata import distribution

    from cowest.registry import wheel

    installed = distribution("cowest")
    egg = tmp_path / "cowest.egg-info"
    egg.mkdir()
    (egg / "PKG-INFO").write_text(installed.read_text("METADATA") or "")
    (egg / "top_level.txt").write_text(installed.read_text("top_level.txt") or "")
    monkeypatch.syspath_prepend(tmp_path)
    assert distribution("cowest").read_text("PKG-INFO"), "found by its egg-info"
    path = wheel.write(tmp_path / "wheels")
    assert path is not None
    with zipfile.ZipFile(path) as archive:
        said = archive.read(f"{wheel.STEM}.dist-info/METADATA").decode()
    assert said.startswith("Metadata-Version:") and "Name: cowest" in said


def test_the_wheel_is_this_cowest(tmp_path: Path) -> None:
    from cowest.registry import wheel

    path = wheel.write(tmp_path / "wheels")
    assert path is not None
    first = path.read_bytes()
    assert wheel.write(tmp_path / "wheels") == path and path.read_bytes() == first
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target"]
    subprocess.run([*install, str(target), str(path)], check=True, capture_output=True)
    source = Path(version.__file__).parent
    for name in ("collaboration.py", "report/style.css", "commands/scaffold/params.yaml.template"):
        assert (target / "cowest" / name).read_bytes() == (source / name).read_bytes()
    assert (target / "cowest_serving" / "service.py").is_file()
    assert not list(target.rglob("*.egg-info"))
    with zipfile.ZipFile(path) as archive:
        assert not [name for name in archive.namelist() if "__pycache__" in name]


def test_versions_of_before_are_fetched_as_they_are(tmp_path: Path) -> None:
    config = empty_registry(tmp_path)
    one, two = make_version(tmp_path / "a", "a"), make_version(tmp_path / "b", "b")
    assert decide(config, one, "aa") == 1
    assert decide(config, two, "bb", serving=Serving(settings(), ASKED)) == 2
    for number, folder in ((1, one), (2, two)):
        config.open().fetch(number, tmp_path / "fetched")
        assert file_digest(tmp_path / "fetched") == file_digest(folder)
    # The same version, laid down bare by an older CoWest and decided again by this one.
    (bare,) = {
        path.parent
        for path in (tmp_path / "mlartifacts").rglob("version.json")
        if not (path.parent.parent / "MLmodel").exists()
    }
    shutil.copytree(one, bare / "version")
    (bare / "MLmodel").write_text("flavors: {}\n")
    config.open().fetch(1, tmp_path / "fetched")
    assert file_digest(tmp_path / "fetched") == file_digest(one)


def test_a_version_that_was_rolled_back_to_is_a_model_with_a_description(
    trained: Path, tmp_path: Path
) -> None:
    config = empty_registry(tmp_path)
    decide(config, trained, "aa", serving=Serving(settings(), ASKED))
    decide(config, make_version(tmp_path / "b", "b"), "bb", serving=Serving(settings(), ASKED))
    registry = config.open()
    made = registry.enter(acts.rollback(registry.log(), None, "wrong answers"))
    assert (made.version, registry.champion()) == (3, 3)
    registry.fetch(3, tmp_path / "fetched")
    assert file_digest(tmp_path / "fetched") == file_digest(trained)
    said = config.runs().client.get_model_version(config.name, "3").description
    assert said == "**Rollback** to version 1: wrong answers"
    with tracking(config.runs().uri):
        model = mlflow.pyfunc.load_model(f"models:/{config.name}@champion")
        assert model.predict([{"question": "one"}])["answer"].to_list() == ["refined"]


def test_settings_of_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    hf = {"provider": "hf", "model": "base"}
    hub = {"provider": "hf", "model": "org/name"}
    mask = {"provider": "openai", "model": "big", "egress": {"terms_file": "terms.txt"}}
    found = mlmodel.settings_of({"evaluate": {"policy": hf, "strong": mask, "split": "test"}})
    assert found == {
        "policy": {"provider": "hf", "model": str(tmp_path / "base")},
        "strong": {**mask, "egress": {"terms_file": str(tmp_path / "terms.txt")}},
    }
    found = mlmodel.settings_of({"serve": {"policy": hub, "strong": hub}, "evaluate": {}})
    assert found == {"policy": hub, "strong": hub}
    server = {"provider": "openai", "model": "base", "adapters_of": hf}
    found = mlmodel.settings_of({"serve": {"policy": server, "strong": hub}})
    assert found is not None
    assert found["policy"] == {**server, "adapters_of": {**hf, "model": str(tmp_path / "base")}}
    assert mlmodel.settings_of({"compare": {}}) is None


def test_mlflow_serves_it_over_http(trained: Path, tmp_path: Path) -> None:
    config = empty_registry(tmp_path)
    decide(config, trained, serving=Serving(settings(), ASKED))
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    command += ["-m", f"models:/{config.name}@champion", "-p", str(port), "-w", "1"]
    url = f"http://127.0.0.1:{port}"
    with served(command, tmp_path, f"{url}/ping", MLFLOW_TRACKING_URI=config.runs().uri):
        body = {"dataframe_records": [{"question": "Which country makes the Phoenix fan?"}]}
        request = urllib.request.Request(
            f"{url}/invocations", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            (row,) = json.load(response)["predictions"]
    assert row["answer"] == "refined" and row["draft"] and row["failed"] is None


def wait_for(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(600):
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(log.read_text())


def trials(folder: Path, texts: list[str]) -> Path:
    rows = [
        make_trial(number, system, prompt=(Message(role="user", content=text),))
        for number, text in enumerate(texts)
        for system in ("before", "after")
    ]
    io.write(folder / "trials.jsonl", rows)
    return folder / "trials.jsonl"


def test_a_sample_is_masked_as_requests_are(tmp_path: Path) -> None:
    texts = ["Write to ann@example.com?", "Which one?", "Why?"]
    found = trials(tmp_path, texts)
    for on_found, expected in {
        "allow": set(texts),
        "mask": {"Write to [EMAIL_1]?", "Which one?", "Why?"},
        "refuse": {"Which one?", "Why?"},
    }.items():
        strong = {"provider": "openai", "model": "big", "egress": {"on_found": on_found}}
        rows = sample(found, 5, filter_of({"evaluate": {"strong": strong}}))
        assert {row.prompt[0].content for row in rows} == expected
        assert {row.system for row in rows} == {"after"}
    # A complaint may quote what was asked.
    lost = {"failed": "refine: 400: ann@example.com", "refinement": None, "score": None}
    io.write(tmp_path / "lost.jsonl", [make_trial(1, "after", **lost)])
    mask = {"provider": "openai", "model": "big", "egress": {"on_found": "mask"}}
    (row,) = sample(tmp_path / "lost.jsonl", 1, filter_of({"evaluate": {"strong": mask}}))
    assert row.failed == "refine: 400: [EMAIL_1]"
    assert len(sample(found, 2, filter_of({}))) == 2
    assert sample(found, 2, filter_of({})) == sample(found, 2, filter_of({}))


def test_no_held_out_question_is_shown_where_traces_are_off(tmp_path: Path) -> None:
    found = trials(tmp_path, ["Which one?"])
    registry = RegistryConfig(name="handbook")
    on = register.RegisterConfig(registry=registry)
    assert [row.prompt[0].content for row in register.rows_to_show(found, {}, on)] == ["Which one?"]
    off = on.model_copy(update={"traces": None})
    shown = register.rows_to_show(found, {}, off)
    answering = register.answering_of({"serve": settings()}, "params.yaml")
    serving = register.serving_of(answering, shown)
    assert list(shown) == [] and serving is not None and serving.example == register.EXAMPLE


@pytest.mark.parametrize("kind", [*stores.KINDS, "server"])
def test_traces_of_a_sample(kind: str, tmp_path: Path) -> None:
    with registry_of(kind, tmp_path) as config:
        rows = sample(trials(tmp_path, ["Which one?", "Why?"]), 5, filter_of({}))
        tracker = MlflowTracker(config.runs())
        for _ in range(2):
            tracker.trace("aa", rows)
        runs = config.runs()
        run = runs.of("aa")
        client = TracingClient(runs.uri)
        found = client.search_traces(locations=[run.info.experiment_id], run_id=run.info.run_id)
        assert len(found) == 2, "a second time adds none"
        by_question = {one.data.spans[0].inputs["messages"][0]["content"]: one for one in found}
        spans = by_question["Why?"].data.spans
        assert [span.name for span in spans] == ["draft and refine", "draft", "refine", "solo"]
        assert spans[0].outputs == {"answer": "Italy"}
        assert spans[2].inputs["draft"] == "It is built in Milan."
        assert spans[0].attributes["score"] == 1.0
        assert found[0].info.tags["score alone"] == "0.000"
        assert run.info.run_name.startswith("turn aa of 20")


@contextmanager
def served(command: list[str], folder: Path, url: str, **surroundings: str) -> Iterator[None]:
    """A server that answers at `url`, in a process group that ends with the block."""
    log = folder / "log"
    environment = tiny.surroundings(**surroundings)
    with log.open("w") as said:
        server = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=said, stderr=said, process_group=0
        )
    try:
        wait_for(url, server, log)
        yield
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
