"""A stage has one name and one set of edges, wherever it stands: its module, params.yaml, dvc.yaml,
components/, the pipeline.

What is missing for a new stage is what fails here.
"""

import functools
import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler

from cowest import cli
from cowest.config import Config, load, parse, section
from cowest.errors import ConfigError, InputError
from cowest.ports import In, Out, Port, config_of, connect, ports_of, takes_shard
from cowest.stages import STAGES, main_of
from cowest_components import IMAGE
from tests import lines
from tests.lines import AROUND, ROOT

OUTSIDE = {"raw", "params"}
"""Ports that no stage writes: what a person gives."""
MORE = {
    "validate": {"stage"},
    "sft": {"run_id"},
    "dpo": {"run_id"},
    "draft": {"shard"},
    "score": {"shard"},
    "evaluate": {"shard"},
}
"""Parameters of a component beside `config`: validate stands in four places, some are shards, and
what trains may start something on the cluster.
score tells its shard to whoever joins the parts."""
SAYS = {"compare": {"Output"}}
"""Parameters that a component gives: the gate's outcome."""
TOLD = {"pin": {"version"}}
"""Artifacts of a component beside the ports that dvc.yaml or `cowest turn` gives: pin is told what
another step has laid out. All others are told the turn."""
BESIDE = {
    "preflight", "split", "next_round", "collect_feedback", "collect_trials", "page", "summary",
}  # fmt: skip
"""Components that are no stage: what a run on a cluster has around and between them."""
JOINS = {
    ("collect_feedback", "feedback"): "parts",
    ("collect_trials", "trials"): "trial_parts",
    ("collect_trials", "agreement"): "agreement_parts",
    ("collect_trials", "probe"): "probe_parts",
}
"""Of the components that join shards: each output with the input that it is made of."""


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_a_module_with_config_and_main(stage: str) -> None:
    place = f"src/cowest/stages/{module_of(stage)}.py"
    assert (ROOT / place).exists(), f"{place} is missing: stage {stage} has no module"
    main = main_of(stage)
    assert issubclass(config_of(main), Config), f"{place}: main has no `config: ...Config`"
    directions = {port.direction for port in ports_of(main)}
    assert directions == {"in", "out"}, f"{place}: main needs at least one In and one Out"


@pytest.mark.parametrize("stage", STAGES)
def test_params_yaml_has_its_section(stage: str) -> None:
    parse(
        config_of(main_of(stage)),
        section(load(ROOT / "params.yaml"), stage),
        f"params.yaml: {stage}",
    )


@pytest.mark.parametrize("stage", STAGES)
def test_the_command_line_takes_its_ports_as_flags(
    stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([stage, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: cowest {stage} ")
    flags = set(re.findall(r"^  --([\w-]+)", said, re.MULTILINE))
    assert flags == {port.name for port in lines.ports(stage)} | {"params"} | (
        {"shard"} if takes_shard(main_of(stage)) else set()
    )


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage not in AROUND])
def test_dvc_yaml_has_its_entry(stage: str) -> None:
    entry = lines.entries().get(stage)
    assert entry is not None, f"dvc.yaml has no stage {stage}"
    command = entry["cmd"].split()
    assert command[:2] == ["cowest", stage], (
        f"dvc.yaml: {stage}: cmd must begin with `cowest {stage}`"
    )
    flags = lines.flags(entry["cmd"])
    path = dict(flags)
    ports = given(stage, path)
    assert [name for name, _ in flags] == [port.name for port in ports], (
        f"dvc.yaml: {stage}: cmd must give exactly the ports of main, in their order; only those "
        "that are None by default may be left out"
    )
    inputs = {path[port.name] for port in ports if port.direction == "in"}
    outputs = {path[port.name] for port in ports if port.direction == "out"}
    assert names(entry["deps"]) == inputs | {"src/cowest"}, (
        f"dvc.yaml: {stage}: deps must be the paths of its In ports, and src/cowest"
    )
    written = names(entry.get("outs", [])) | names(entry.get("metrics", []))
    assert written == outputs, (
        f"dvc.yaml: {stage}: outs (or metrics) must be the paths of its Out ports"
    )
    assert entry.get("params") == [stage.replace("@", ".")], (
        f"dvc.yaml: {stage}: params must name its section alone"
    )


def test_dvc_yaml_has_nothing_else() -> None:
    more = lines.entries().keys() - set(STAGES) | lines.entries().keys() & set(AROUND)
    assert not more, (
        f"dvc.yaml: {more}: no stages, or stages whose effect is outside, which `cowest turn` runs"
    )


def test_every_port_is_written_once_and_read_where_it_is_said() -> None:
    paths = lines.paths()
    assert list(paths) == list(STAGES)
    for stage in STAGES:
        assert list(paths[stage]) == [port.name for port in given(stage, paths[stage])], (
            f"{stage}: the paths given are not those of its ports"
        )
    written = [
        paths[stage][port.name]
        for stage in STAGES
        for port in given(stage, paths[stage])
        if port.direction == "out"
    ]
    assert len(written) == len(set(written)), "two ports write one path"
    read = {
        (stage, port.name)
        for stage in STAGES
        for port in given(stage, paths[stage])
        if port.direction == "in"
    }
    read = {
        (stage, port)
        for stage, port in read
        if port not in OUTSIDE and paths[stage][port] != lines.RAW
    }
    orphans = read - {(stage, port) for *_, stage, port in lines.edges()}
    assert not orphans, f"no stage writes what these read: {orphans}"


@pytest.mark.parametrize("stage", STAGES)
def test_components_has_its_component(stage: str) -> None:
    name = module_of(stage)
    place = f"components/{name}.py"
    assert (ROOT / place).exists(), f"{place} is missing: stage {stage} has no component"
    made = getattr(importlib.import_module(f"cowest_components.{name}"), name, None)
    assert made is not None, f"{place} has no component called {name}"
    spec = made.component_spec
    ports = given(stage, lines.paths()[stage])
    # pin reads its settings from params.yaml, since a run may change its budget.
    settings = set() if stage == "pin" else {"config"}
    told = TOLD.get(name, {"turn"})
    for direction, found, extra, more in (
        ("in", spec.inputs, settings | MORE.get(name, set()), told),
        ("out", spec.outputs, SAYS.get(name, set()), set()),
    ):
        artifacts = {port for port, kind in (found or {}).items() if "system." in str(kind.type)}
        wanted = {port.name for port in ports if port.direction == direction} | more
        assert artifacts == wanted, (
            f"{place}: {direction}: artifacts must be exactly the ports that dvc.yaml gives"
        )
        assert (found or {}).keys() - artifacts == extra, (
            f"{place}: {direction}: parameters must be exactly {extra}"
        )
    container = spec.implementation.container
    assert container.image == IMAGE, f"{place}: it must use `component` of components/__init__.py"
    assert "pip install" not in " ".join(map(str, container.command)), (
        f"{place}: it installs something when it starts"
    )


def test_components_has_nothing_else() -> None:
    known = {path.stem for path in (ROOT / "components").glob("*.py")} - {"__init__"}
    assert known == {module_of(stage) for stage in STAGES} | BESIDE


def test_the_pipeline_has_the_edges_of_dvc_yaml_and_turn() -> None:
    known, found = lines.edges(), {edge for task in pipeline() for edge in task["edges"]}
    assert not known - found, f"pipelines/flywheel.py lacks {sorted(known - found)}"
    assert not found - known, (
        f"pipelines/flywheel.py has, and dvc.yaml and turn have not, {sorted(found - known)}"
    )


def test_the_pipeline_runs_every_stage_with_its_settings() -> None:
    params = load(ROOT / "params.yaml")
    tasks = [task["stage"] for task in pipeline()]
    assert sorted(tasks) == sorted([*STAGES, "register"]), (
        "every stage once, and register in both branches of the gate"
    )
    for task in pipeline():
        if task["stage"] == "pin":
            assert task["config"] is None
            continue
        assert json.loads(task["config"]) == section(params, task["stage"]), (
            f"pipelines/flywheel.py: {task['stage']} has another stage's settings"
        )


def test_the_pipeline_has_no_order_but_its_edges() -> None:
    for task in pipeline():
        assert task["after"] <= task["from"], (
            f"pipelines/flywheel.py: {task['stage']} waits for {task['after'] - task['from']}: no "
            ".after()"
        )


def test_the_gate_is_a_condition_on_compare() -> None:
    conditions = sorted(task["condition"] for task in pipeline() if task["stage"] == "register")
    assert [condition.count("compare-Output") for condition in conditions] == [1, 1]
    assert sum("!(" in condition for condition in conditions) == 1, (
        "one branch is the other's opposite"
    )
    for task in pipeline():
        assert task["condition"].count("preflight-Output") == 1, (
            "all stages wait for the pre-flight"
        )
        if task["stage"] != "register":
            assert "compare" not in task["condition"]


@pytest.mark.parametrize("kind", ["queries", "corpus", "feedback", "pairs"])
def test_validate_is_asked_for_its_findings(kind: str) -> None:
    assert lines.paths()[f"validate@{kind}"]["findings"] == f"reports/{kind}.json"


def a_stage(
    rows: list[In], out: Out, config: Config, more: Out | None = None, base: In | None = None
) -> None:
    """A stage with ports that may be left out."""


def test_a_port_may_be_left_out(tmp_path: Path) -> None:
    assert ports_of(a_stage) == [
        Port("rows", "in", many=True),
        Port("out", "out"),
        Port("more", "out", optional=True),
        Port("base", "in", optional=True),
    ]
    needed = {"rows": [tmp_path], "out": "out"}
    found = {"rows": [tmp_path], "out": Path("out"), "more": None, "base": None}
    assert connect(a_stage, needed, "it") == found
    assert connect(a_stage, {**needed, "more": None}, "it") == found
    more = {"more": "more", "base": str(tmp_path)}
    assert connect(a_stage, {**needed, **more}, "it") == {
        **found,
        "more": Path("more"),
        "base": tmp_path,
    }
    with pytest.raises(ConfigError, match="it: 'out' is not given; its ports are rows, out, more"):
        connect(a_stage, {"rows": [tmp_path]}, "it")
    with pytest.raises(InputError, match="it: base: nowhere does not exist"):
        connect(a_stage, {**needed, "base": "nowhere"}, "it")


def given(stage: str, paths: dict[str, str]) -> list[Port]:
    """The ports of a stage, without those that may be left out and are."""
    return [port for port in lines.ports(stage) if port.name in paths or not port.optional]


def module_of(stage: str) -> str:
    return stage.partition("@")[0]


def names(items: list[Any]) -> set[str]:
    """Paths of an entry's deps or outs, their options left out."""
    return {name for item in items for name in ([item] if isinstance(item, str) else item)}


@functools.cache
def pipeline() -> list[dict[str, Any]]:
    """The tasks of the compiled pipeline that are stages, with what they are given; KFP's own
    steps are seen through.
    """
    spec = compiled()
    found: list[dict[str, Any]] = []
    walk(spec, spec["root"]["dag"]["tasks"], {}, "", found)
    return found


def compiled() -> dict[str, Any]:
    import tempfile

    from cowest.profiles import Profile
    from cowest_pipelines.flywheel import (
        flywheel,  # here, so that a component that is missing is said above
    )

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "flywheel.yaml"
        compiler.Compiler().compile(flywheel(ROOT / "params.yaml", Profile()), str(out))
        spec: dict[str, Any] = next(yaml.safe_load_all(out.read_text()))
    return spec


def walk(
    spec: dict[str, Any],
    tasks: dict[str, Any],
    given: dict[str, tuple[str, str]],
    condition: str,
    found: list[dict[str, Any]],
) -> None:
    """`given`: which stage and port the artifacts come from that are handed into this part of
    the pipeline.
    """
    for name, task in tasks.items():
        inputs = task.get("inputs", {})
        sources = {
            port: source(spec, tasks, item, given)
            for port, item in inputs.get("artifacts", {}).items()
        }
        inner = spec["components"][task["componentRef"]["name"]]
        trigger = task.get("triggerPolicy", {}).get("condition", "")
        if "dag" in inner:
            walk(
                spec,
                inner["dag"]["tasks"],
                {port: end for port, end in sources.items() if end},
                condition + trigger,
                found,
            )
        elif (stage := stage_of(spec, task)) is not None:
            values = {
                key: item["runtimeValue"]["constant"]
                for key, item in inputs.get("parameters", {}).items()
                if "runtimeValue" in item
            }
            # Every step is told the turn; as an edge of the line it counts where it is a port.
            told = set() if "turn" in {port.name for port in lines.ports(stage)} else {"turn"}
            found.append(
                {
                    "stage": stage,
                    "edges": {
                        (*end, stage, port)
                        for port, end in sources.items()
                        if end and port not in told
                    },
                    "config": values.get("config"),
                    "after": set(task.get("dependentTasks", [])),
                    "from": {
                        item["taskOutputArtifact"]["producerTask"]
                        for item in inputs["artifacts"].values()
                        if "taskOutputArtifact" in item
                    },
                    "condition": condition,
                }
            )
            assert values.get("stage", stage) == stage, (
                f"{name} is shown as {stage} and runs {values['stage']}"
            )


def source(
    spec: dict[str, Any], tasks: dict[str, Any], item: dict[str, Any], given: dict[str, Any]
) -> tuple[str, str] | None:
    """The stage and port that an artifact comes from; None for what comes from outside."""
    if "componentInputArtifact" in item:
        return given.get(item["componentInputArtifact"])
    made = item["taskOutputArtifact"]
    task, key = tasks[made["producerTask"]], made["outputArtifactKey"]
    inner = spec["components"][task["componentRef"]["name"]]
    if "dag" in inner:
        # A loop over shards: its output is that of a task within.
        (chosen,) = inner["dag"]["outputs"]["artifacts"][key]["artifactSelectors"]
        within = inner["dag"]["tasks"][chosen["producerSubtask"]]
        stage = stage_of(spec, within)
        return (stage, chosen["outputArtifactKey"]) if stage else None
    part = JOINS.get((function_of(spec, task), key))
    if part is not None:
        return source(spec, tasks, task["inputs"]["artifacts"][part], given)
    stage = stage_of(spec, task)
    return (stage, key) if stage else None


def stage_of(spec: dict[str, Any], task: dict[str, Any]) -> str | None:
    """By the component's function and, where one stands in two places, by the task's name."""
    function = function_of(spec, task)
    if function is None:
        return None
    shown = task["taskInfo"]["name"]
    return shown if shown in STAGES else function if function in STAGES else None


def function_of(spec: dict[str, Any], task: dict[str, Any]) -> str | None:
    """The function of a task's component; None for KFP's own."""
    executor = spec["components"][task["componentRef"]["name"]].get("executorLabel", "")
    container = spec["deploymentSpec"]["executors"].get(executor, {}).get("container")
    if container is None:
        return None
    function: str = container["args"][container["args"].index("--function_to_execute") + 1]
    return function


@pytest.mark.parametrize("changed", [True, False])
def test_a_stage_whose_settings_were_changed_meanwhile_fails(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changed: bool,
) -> None:
    """DVC reads params.yaml again at a stage's end, and would keep the output with the new ones."""

    class Meant(Config):
        beta: float = 0.1

    def main(pairs: In, challenger: Out, config: Meant) -> None:
        now = 0.3 if changed else config.beta
        params.write_text(f"dpo: {{beta: {now}}}\nsft: {{beta: 0.3}}\n")
        challenger.write_text(f"made with {config.beta}")

    params = tmp_path / "params.yaml"
    params.write_text("dpo: {beta: 0.2}\n")
    (tmp_path / "pairs.jsonl").touch()
    monkeypatch.setattr("cowest.stages.main_of", lambda _: main)
    paths = ["--pairs", str(tmp_path / "pairs.jsonl"), "--challenger", str(tmp_path / "made")]
    code = cli.main(["dpo", *paths, "--params", str(params)])
    assert (tmp_path / "made").read_text() == "made with 0.2"
    assert code == int(changed)
    said = capsys.readouterr().err
    assert ("dpo was changed while the stage ran" in said) == changed
