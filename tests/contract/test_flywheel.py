"""The compiled pipeline, by each profile: what a cluster reads, and what an operator sees."""

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

import cowest_components
from cowest import config, io
from cowest.errors import CoWestError
from cowest.profiles import StepName
from cowest.steps.summary import Became, RunOutcome
from cowest_pipelines.__main__ import main, report
from tests import tiny
from tests.lines import ROOT

IMAGES = {
    "COWEST_IMAGE": "registry.example:5000/cowest-cpu:0123abcd",
    "COWEST_TRAIN_IMAGE": f"registry.example:5000/cowest-train@sha256:{'a' * 64}",
    "COWEST_DRAFT_IMAGE": "registry.example:5000/cowest-vllm:0.1.0-0123abcd",
}
PROFILES = ("local", "cpu", "gpu")
TRAINED = ("sft", "dpo")
ON_GPU = (*TRAINED, "draft", "evaluate")
HALF, LONG, TWO_DAYS = 1800, 12 * 3600, 48 * 3600
BACK_OFF = ("backoffDuration", "backoffFactor", "backoffMaxDuration")
YEAR = f"{365 * 24 * 3600}s"
RETRIES = (2, "30s", 2.0, YEAR)
"""Retries, the wait before the first, how much longer each is, and the end of all: Argo kills a
retry then, so that no profile of ours has one that a step could meet."""
SECRETS = {
    "cowest-store": {"address": "COWEST_STORE"},
    "cowest-registry": {
        "username": "MLFLOW_TRACKING_USERNAME",
        "password": "MLFLOW_TRACKING_PASSWORD",
    },
    "cowest-models": {"openai": "OPENAI_API_KEY"},
    "cowest-data": {"access-key": "AWS_ACCESS_KEY_ID", "secret-key": "AWS_SECRET_ACCESS_KEY"},
}
ALONE: dict[str, Any] = {
    "cpu": (None, None),
    "memory": (None, None),
    "retry": (1, "1s", 2.0, YEAR),
    "timeout": None,
    "secrets": {},
    "claims": {},
}
SHARED = {
    "cpu": ("1", "2"),
    "memory": ("4Gi", "8Gi"),
    "retry": RETRIES,
    "timeout": LONG,
    "secrets": SECRETS,
    "claims": {},
}
FEW: dict[str, dict[str, Any]] = {
    "preflight": {"retry": None, "timeout": HALF},
    "split": {"cpu": ("100m", "2"), "memory": ("256Mi", "8Gi"), "timeout": 600},
    "summary": {
        "cpu": ("250m", "2"),
        "memory": ("1Gi", "8Gi"),
        "timeout": HALF,
        "secrets": {**SECRETS, "cowest-webhook": {"address": "COWEST_WEBHOOK"}},
    },
}
"""Steps that ask for less in both profiles of a cluster."""
STORAGE = yaml.safe_load((ROOT / "infra/kubernetes/storage.yaml").read_text())
BASE_MODELS = STORAGE["metadata"]["name"]
"""The volume that the manifests make."""
BUSY = {"cpu": ("4", "8")}
ON_CPUS = {**BUSY, "memory": ("12Gi", "16Gi"), "timeout": LONG * 2}
TRAINS = {"cpu": ("8", "16"), "memory": ("48Gi", "64Gi"), "timeout": TWO_DAYS}
DRAFTS = {**BUSY, "memory": ("24Gi", "48Gi")}
GIVEN: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]]]] = {
    "local": (ALONE, {"preflight": {"retry": None}, "summary": {"retry": None}}),
    "cpu": (SHARED, {**FEW, "sft": ON_CPUS, "dpo": ON_CPUS, "draft": BUSY, "evaluate": BUSY}),
    "gpu": (
        {**SHARED, "claims": {BASE_MODELS: "/models"}},
        {**FEW, "sft": TRAINS, "dpo": TRAINS, "draft": DRAFTS, "evaluate": DRAFTS},
    ),
}
"""By profile, the settings of every step, and those in which single steps differ."""


@functools.cache
def compiled(profile: str) -> str:
    """The pipeline of a profile, as a cluster is given it."""
    folder = tiny.scratch()
    with pytest.MonkeyPatch.context() as patch:
        for name, image in IMAGES.items():
            patch.setenv(name, image)
        out = folder / "flywheel.yaml"
        given = ["compile", "--out", str(out), "--profile", profile]
        assert main([*given, "--params", str(ROOT / "params.yaml")]) == 0
    return out.read_text()


@functools.cache
def documents(profile: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline spec and the platform spec; the second is empty where there is none."""
    return loaded(compiled(profile))


def loaded(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    # Python's own loader takes seconds for it.
    found = list(yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    return found[0], found[1] if len(found) > 1 else {}


Task = tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]
"""A step: its component, its task, its container, and what Kubernetes is told of it."""


def tasks(profile: str) -> list[Task]:
    return tasks_of(*documents(profile))


def tasks_of(spec: dict[str, Any], platform: dict[str, Any]) -> list[Task]:
    kubernetes = {}
    if platform:
        kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    executors = spec["deploymentSpec"]["executors"]
    found = []
    dags = [
        spec["root"]["dag"],
        *(one["dag"] for one in spec["components"].values() if "dag" in one),
    ]
    for dag in dags:
        for task in dag["tasks"].values():
            label = spec["components"][task["componentRef"]["name"]].get("executorLabel")
            if label is None:
                continue
            container = executors[label]["container"]
            args = container["args"]
            name = args[args.index("--function_to_execute") + 1]
            found.append((name, task, container, kubernetes.get(label, {})))
    return found


@pytest.mark.parametrize("profile", PROFILES)
def test_a_cluster_can_read_it(profile: str) -> None:
    spec, platform = documents(profile)
    # Strict: a field that the protos don't have is an error.
    parsed = json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    assert parsed.pipeline_info.name == "flywheel"
    json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())
    for _, _, _, told in tasks(profile):
        json_format.ParseDict(told, kubernetes_executor_config_pb2.KubernetesExecutorConfig())


def test_it_is_the_same_bytes_in_each_process_and_holds_no_secret_of_the_environment(
    tmp_path: Path,
) -> None:
    """Both ways to call it, and sets in another order each."""
    secrets = ("OPENAI_API_KEY", "COWEST_STORE", "COWEST_WEBHOOK", "AWS_SECRET_ACCESS_KEY")
    canaries = dict.fromkeys(secrets, "canary-of-a-secret")
    for seed, package in enumerate(("pipelines", "cowest_pipelines")):
        out = tmp_path / f"{seed}.yaml"
        command = [sys.executable, "-m", package, "compile", "--out", str(out), "--profile", "gpu"]
        around = tiny.surroundings(**IMAGES, **canaries, PYTHONHASHSEED=str(seed))
        done = subprocess.run(
            command, cwd=ROOT, env=around, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        said = f"{out}: the turn in 8 shards, on image {IMAGES['COWEST_IMAGE']}\n"
        assert done.stdout.startswith(said) and "may be another image" not in done.stdout
        assert out.read_text() == compiled("gpu")
        assert "canary" not in out.read_text() + done.stdout


@pytest.mark.parametrize("profile", PROFILES)
def test_every_step_is_there_once_and_kfp_caches_none(profile: str) -> None:
    names = [name for name, *_ in tasks(profile)]
    more = {"validate": 4, "split": 2, "register": 2, "page": 2, "next_round": 0}
    assert {name: names.count(name) for name in get_args(StepName)} == {
        name: more.get(name, 1) for name in get_args(StepName)
    }
    for name, task, _, _ in tasks(profile):
        assert not task.get("cachingOptions", {}).get("enableCache"), name
        assert task["cachingOptions"] == {}, name


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_images_are_fixed_and_none_is_latest(profile: str) -> None:
    images = {name: container["image"] for name, _, container, _ in tasks(profile)}
    assert set(images.values()) <= set(IMAGES.values())
    assert images["compare"] == IMAGES["COWEST_IMAGE"]
    if profile == "gpu":
        assert images["sft"] == images["dpo"] == IMAGES["COWEST_TRAIN_IMAGE"]
        assert images["draft"] == images["evaluate"] == IMAGES["COWEST_DRAFT_IMAGE"]
        # It looks whether vLLM is where the settings say.
        assert images["preflight"] == IMAGES["COWEST_DRAFT_IMAGE"]


@pytest.mark.parametrize(("profile", "parallel"), [("local", None), ("cpu", 4), ("gpu", 4)])
def test_loops_conditions_and_the_exit_handler_stand_where_they_should(
    profile: str, parallel: int | None
) -> None:
    spec, _ = documents(profile)
    root = spec["root"]["dag"]["tasks"]
    assert set(root) == {"exit-handler-1", "summary"}
    assert root["summary"]["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    dags = {name: one["dag"] for name, one in spec["components"].items() if "dag" in one}
    loops = [dag["tasks"] for name, dag in dags.items() if name.startswith("comp-for-loop")]
    assert sorted(map(sorted, loops)) == [["draft", "refine", "score"], ["evaluate"]]
    (opened,) = [dag["tasks"] for dag in dags.values() if "pin" in dag["tasks"]]
    iterated = [task for task in opened.values() if "parameterIterator" in task]
    limits = [task.get("iteratorPolicy", {}).get("parallelismLimit") for task in iterated]
    assert limits == [parallel, parallel]
    conditions = []
    for dag in dags.values():
        for task in dag["tasks"].values():
            conditions.append(task.get("triggerPolicy", {}).get("condition"))
    found = [one for one in conditions if one]
    # kfp.local skips a condition on a named value, and the run ends well.
    assert all("-Output'] == true" in one for one in found)
    assert sum("preflight-Output" in one for one in found) == 1
    assert sum("compare-Output" in one for one in found) == 2


def test_what_an_operator_may_give_is_described() -> None:
    spec, _ = documents("gpu")
    inputs = spec["root"]["inputDefinitions"]["parameters"]
    assert set(inputs) == {"repository", "revision", "budget_usd", "shards", "force"}
    assert inputs["shards"]["defaultValue"] == 8.0
    for name, one in inputs.items():
        assert len(one["description"]) > 20, name


def test_every_port_of_every_component_is_described(tmp_path: Path) -> None:
    code, text = compile_with(tmp_path, aligning("dpo", rounds=2), "shards: 2\n")
    assert code == 0
    spec, platform = loaded(text)
    found = {name for name, *_ in tasks_of(spec, platform)}
    assert found == set(get_args(StepName)), "a pipeline in rounds has every component"
    for name in found:
        component = spec["components"][f"comp-{name.replace('_', '-')}"]
        for side in ("inputDefinitions", "outputDefinitions"):
            for kind, ports in component.get(side, {}).items():
                for port, one in ports.items():
                    # KFP fills this one in itself.
                    if one.get("parameterType") != "TASK_FINAL_STATUS":
                        assert one.get("description"), (name, kind, port)


@pytest.mark.parametrize("profile", PROFILES)
def test_each_step_is_given_what_the_profile_says(profile: str) -> None:
    every, single = GIVEN[profile]
    for name, task, container, told in tasks(profile):
        resources, retry = container.get("resources", {}), task.get("retryPolicy")
        timeout = told.get("activeDeadlineSeconds")
        secrets = {}
        for one in told.get("secretAsEnv", ()):
            keys = {key["secretKey"]: key["envVar"] for key in one["keyToEnv"]}
            secrets[one["secretName"]] = keys
            # A pod would wait for a secret that is not there, as the optional webhook's.
            assert one.get("optional", False) == (one["secretName"] != "cowest-store")
        # Without the address of the bucket's server a step would ask AWS.
        assert not any(one.get("optional", False) for one in told.get("configMapAsEnv", ()))
        found = {
            "cpu": (resources.get("resourceCpuRequest"), resources.get("resourceCpuLimit")),
            "memory": (
                resources.get("resourceMemoryRequest"),
                resources.get("resourceMemoryLimit"),
            ),
            "retry": retry and (retry["maxRetryCount"], *(retry[key] for key in BACK_OFF)),
            "timeout": timeout and int(timeout),
            "secrets": secrets,
            "claims": {one["constant"]: one["mountPath"] for one in told.get("pvcMount", ())},
        }
        assert found == {**every, **single.get(name, {})}, name


@pytest.mark.parametrize(
    ("variable", "waits"),
    [
        ("COWEST_STORE", True),
        ("AWS_ENDPOINT_URL", True),
        ("MLFLOW_S3_ENDPOINT_URL", True),
        ("HTTPS_PROXY", False),
    ],
)
def test_a_pod_waits_for_what_its_step_would_not_miss(
    variable: str, waits: bool, tmp_path: Path
) -> None:
    given = f"given: {{key: {variable}}}"
    profile = tmp_path / "profile.yaml"
    profile.write_text(f"every: {{config_maps: {{{given}}}, secrets: {{{given}}}}}\n")
    for _, _, _, told in tasks(str(profile)):
        for one in (*told["configMapAsEnv"], *told["secretAsEnv"]):
            assert one.get("optional", False) != waits


def test_a_gpu_profile_gives_each_step_what_it_says() -> None:
    for name, _, container, told in tasks("gpu"):
        assert told["podMetadata"]["labels"]["app.kubernetes.io/name"] == "cowest"
        assert told["imagePullSecret"][0]["secretName"] == "cowest-pull"
        assert told["configMapAsEnv"][0]["configMapName"] == "cowest-data"
        resources = container["resources"]
        assert ("accelerator" in resources) == (name in ON_GPU), name
        if name in ON_GPU:
            assert resources["accelerator"]["resourceCount"] == "1"
            assert resources["accelerator"]["resourceType"] == "nvidia.com/gpu"
            assert told["nodeSelector"]["labels"] == {
                "cloud.google.com/gke-accelerator": "nvidia-h100-80gb"
            }
            assert told["tolerations"][0]["key"] == "nvidia.com/gpu"
            assert told["emptyDirMounts"][0]["mountPath"] == "/dev/shm"
        env = {one["name"]: one["value"] for one in container.get("env", [])}
        assert env == ({"COWEST_NPROC": "1"} if name in TRAINED else {})
        assert "genericEphemeralVolume" not in told


def test_the_project_of_the_text_is_the_one_that_is_compiled() -> None:
    parameters = None
    for name, task, _, _ in tasks("local"):
        if name == "preflight":
            parameters = task["inputs"]["parameters"]
    assert parameters is not None
    text = parameters["text"]["runtimeValue"]["constant"]
    assert text == (ROOT / "params.yaml").read_text()
    assert parameters["run"]["runtimeValue"]["constant"] == "{{$.pipeline_job_uuid}}"


def test_a_setting_that_is_null_reaches_its_step_as_null(tmp_path: Path) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["refine"]["max_failed"] = values["evaluate"]["agreement"] = None
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    out = tmp_path / "out.yaml"
    assert main(["compile", "--out", str(out), "--params", str(tmp_path / "params.yaml")]) == 0
    assert '"max_failed": null' in out.read_text() and '"agreement": null' in out.read_text()


def test_a_profile_of_ones_own_is_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cowest_components, "IMAGE", "cowest-python:0.1.0")
    mine = tmp_path / "mine.yaml"
    mine.write_text("shards: 3\nsteps: {draft: {memory: 3Gi}}\n")
    out = tmp_path / "out.yaml"
    given = ["compile", "--out", str(out), "--profile", str(mine)]
    assert main([*given, "--shards", "5", "--params", str(ROOT / "params.yaml")]) == 0
    root = out.read_text().partition("\nroot:")[2]
    # No image is named, so it is that of the components, by this version.
    assert "note: cowest-python:0.1.0 may be another image tomorrow" in capsys.readouterr().out
    assert "defaultValue: 5.0" in root.partition("      shards:")[2][:60]


def aligning(align: str, **dpo: Any) -> dict[str, Any]:
    """Settings of a turn that asks models again to align."""
    values = config.load(ROOT / "params.yaml")
    strong = {"provider": "openai", "model": "m", "key_env": "STRONG_KEY"}
    for stage in ("refine", "pair", "dpo"):
        values[stage]["align"] = align
    values["refine"]["strong"] = values["evaluate"]["strong"] = strong
    values["validate"]["pairs"]["min_pairs"] = 0
    teaching = {"provider": "openai", "model": "t", "key_env": "TEACHER_KEY"}
    asked = {"strong": teaching, "scorer": values["score"]["scorer"]}
    values["dpo"] |= {"ask": asked, **dpo}
    return values


def compile_with(folder: Path, values: dict[str, Any], profile: str) -> tuple[int, str]:
    """The exit code of `compile` with a profile, and the pipeline."""
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    (folder / "mine.yaml").write_text(profile)
    out = folder / "out.yaml"
    given = ["compile", "--out", str(out), "--profile", str(folder / "mine.yaml")]
    code = main([*given, "--params", str(folder / "params.yaml")])
    return code, out.read_text() if code == 0 else ""


def test_later_rounds_are_steps_in_shards_each_by_the_challenger_before(tmp_path: Path) -> None:
    code, text = compile_with(tmp_path, aligning("dpo", rounds=3), "shards: 2\n")
    assert code == 0
    spec, _ = loaded(text)
    json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    dags = {name: one["dag"] for name, one in spec["components"].items() if "dag" in one}
    loops = [sorted(dag["tasks"]) for name, dag in dags.items() if name.startswith("comp-for-loop")]
    assert sorted(loops) == [
        ["draft", "refine", "score"],
        ["draft-2", "refine-2", "score-2"],
        ["draft-3", "refine-3", "score-3"],
        ["evaluate"],
    ]
    (opened,) = [dag["tasks"] for dag in dags.values() if "pin" in dag["tasks"]]
    for number, before in ((2, "dpo"), (3, "dpo-2")):
        inputs = opened[f"dpo-{number}"]["inputs"]
        source = inputs["artifacts"]["policy"]["taskOutputArtifact"]
        assert source == {"outputArtifactKey": "challenger", "producerTask": before}
        settings = json.loads(inputs["parameters"]["config"]["runtimeValue"]["constant"])
        assert (settings["round"], settings["rounds"]) == (number, 3)
        begun = opened["next-round" if number == 2 else "next-round-2"]["inputs"]
        assert begun["parameters"]["number"]["runtimeValue"]["constant"] == number
    (trials,) = [
        opened[name.removeprefix("comp-")]
        for name, dag in dags.items()
        if "evaluate" in dag["tasks"]
    ]
    challengers = [one for one in trials["inputs"]["artifacts"] if "challenger" in one]
    assert challengers == ["pipelinechannel--dpo-3-challenger"]
    (refining,) = [dag["tasks"]["refine-2"] for dag in dags.values() if "refine-2" in dag["tasks"]]
    told = refining["inputs"]["parameters"]["config"]["runtimeValue"]["constant"]
    assert json.loads(told)["strong"]["model"] == "t"


EVERY = "every: {secrets: {all: {a: STRONG_KEY, b: TEACHER_KEY}}}\n"
ON_NODES = """
every:
  env: {COWEST_TRAINJOB: "{store: 's3://bucket/jobs'}"}
  secrets: {all: {a: STRONG_KEY, b: TEACHER_KEY}}
steps:
  summary: {memory: 1Gi}
"""
STEPS = """
steps:
  preflight: {secrets: {all: {a: STRONG_KEY, b: TEACHER_KEY}}}
  evaluate: {secrets: {all: {a: STRONG_KEY}}}
  score: {env: {OTHER: x}}
  refine: {secrets: {all: {a: STRONG_KEY, b: TEACHER_KEY}}}
"""


@pytest.mark.parametrize(
    ("align", "dpo", "profile", "said"),
    [
        ("grpo", {}, EVERY, None),
        ("grpo", {}, "shards: 1\n", None),
        ("grpo", {}, STEPS, "gives TEACHER_KEY to the step preflight and not to dpo,"),
        ("grpo", {}, EVERY + "steps: {dpo: {nproc: 2}}\n", "step dpo `nproc: 1`"),
        ("dpo", {"step": "trl"}, EVERY + "steps: {dpo: {nproc: 2}}\n", "`step: trl` trains by TRL"),
        ("dpo", {"step": "trl"}, ON_NODES, "`step: trl` trains by TRL, and needs a single process"),
        ("dpo", {"step": "trl"}, ON_NODES + "  dpo: {env: {COWEST_TRAINJOB: ''}}\n", None),
        ("dpo", {"rounds": 2}, ON_NODES, None),
        ("dpo", {}, ON_NODES + "  sft: {nproc: 2}\n", "gives the step sft `nproc` and COWEST_TR"),
        (
            "dpo",
            {},
            ON_NODES + "  dpo: {accelerator: {count: 1}}\n",
            "gives the step dpo an `accelerator` and COWEST_TRAINJOB, which trains on nodes of",
        ),
        ("dpo", {"rounds": 2}, STEPS, None),
        (
            "dpo",
            {"rounds": 2},
            STEPS.replace(
                "a: STRONG_KEY, b: TEACHER_KEY}}}\n  evaluate", "a: STRONG_KEY}}}\n  evaluate"
            ),
            "gives TEACHER_KEY to the step refine and not to preflight,",
        ),
        ("dpo", {}, STEPS, None),
        (
            "dpo",
            {},
            "steps: {preflight: {secrets: {all: {a: STRONG_KEY}}}}\n",
            "gives STRONG_KEY to the step preflight and not to refine, evaluate,",
        ),
    ],
)
def test_a_step_that_asks_has_its_key_or_nothing_is_compiled(
    align: str,
    dpo: dict[str, Any],
    profile: str,
    said: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _ = compile_with(tmp_path, aligning(align, **dpo), profile)
    assert code == (0 if said is None else 1)
    assert said is None or said in capsys.readouterr().err


@pytest.mark.parametrize("section", ["pin", "register", "serve"])
@pytest.mark.parametrize(
    "address",
    [
        "postgresql://u:s3cret@h/db",
        "postgresql://h/db?user=u&password=s3cret",
        "postgresql://u:s3/cret@h/db",
    ],
)
def test_a_registry_with_a_password_is_not_compiled(
    section: str, address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = config.load(ROOT / "params.yaml")
    values[section]["registry"] = {"uri": address, "name": "handbook"}
    code, _ = compile_with(tmp_path, values, "shards: 1\n")
    said = capsys.readouterr().err
    assert code == 1 and "a registry's address holds a password" in said
    assert "s3" not in said and not (tmp_path / "out.yaml").exists()


def test_a_key_in_the_profile_itself_is_not_compiled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = aligning("dpo")
    values["refine"]["strong"]["key_env"] = "STRONG"
    for name, expected in (
        ("STRONG", "writes STRONG itself into env of refine"),
        ("STRONG_KEY", "STRONG_KEY looks like a secret"),
    ):
        profile = f"steps: {{refine: {{env: {{{name}: sk-canary}}}}}}\n"
        code, _ = compile_with(tmp_path, values, profile)
        said = capsys.readouterr().err
        assert code == 1 and expected in said
        assert "canary" not in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--profile", "huge"], "--profile huge: name one of cpu, gpu, local, or a file"),
        (["--shards", "0"], "--shards 0: give a number from 1 to 1000"),
        (["--profile", "cpu"], "takes the image from COWEST_IMAGE, which is not set"),
    ],
)
def test_a_slip_in_the_flags_is_said(
    flags: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("COWEST_IMAGE", raising=False)
    given = ["compile", "--out", str(tmp_path / "out.yaml"), *flags]
    assert main([*given, "--params", str(ROOT / "params.yaml")]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("profile", ["local", "cpu"])
def test_an_image_by_latest_is_refused_by_the_name_of_its_variable(
    profile: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COWEST_IMAGE", "reg.example/x:latest")
    monkeypatch.setattr(cowest_components, "IMAGE", "reg.example/x:latest")
    given = ["compile", "--out", str(tmp_path / "out.yaml"), "--profile", profile]
    assert main([*given, "--params", str(ROOT / "params.yaml")]) == 1
    said = capsys.readouterr().err
    assert "COWEST_IMAGE: reg.example/x:latest: name an image by digest" in said
    assert not (tmp_path / "out.yaml").exists()


def test_a_place_that_takes_no_pipeline_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    given = ["compile", "--out", str(tmp_path / "file" / "out.yaml")]
    assert main([*given, "--params", str(ROOT / "params.yaml")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("cowest_pipelines: ") and str(tmp_path / "file") in said


def test_a_pipeline_that_is_cut_short_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kfp import compiler

    def half(_: object, __: object, to: str) -> None:
        Path(to).write_text("half of")
        raise OSError(28, "No space left on device", to)

    monkeypatch.setattr(compiler.Compiler, "compile", half)
    out = tmp_path / "out.yaml"
    out.write_text("whole")
    assert main(["compile", "--out", str(out), "--params", str(ROOT / "params.yaml")]) == 1
    assert out.read_text() == "whole"


@pytest.mark.parametrize(
    ("became", "said"),
    [
        (None, "the pipeline ended without its summary; look at the files of its steps in"),
        ("undecided", "ended and decided nothing: neither branch was taken; its steps' files"),
        ("failed", "ended and decided nothing: neither branch was taken; its steps' files"),
        ("unknown", "ended, and what it decided is not known: neither branch was taken; its"),
    ],
)
def test_a_run_that_kfp_says_ended_well_is_asked_what_became_of_it(
    became: Became | None, said: str, tmp_path: Path
) -> None:
    run = tmp_path / "flywheel-1"
    (run / "summary").mkdir(parents=True)
    if became is not None:
        outcome = RunOutcome(run="1", became=became, reason="neither branch was taken")
        io.write_document(run / "summary" / "outcome", outcome)
    with pytest.raises(CoWestError, match=said):
        report([run], tmp_path)
