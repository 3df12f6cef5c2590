"""The two ends of a turn, around a real registry: what is pinned, what is registered, and doing
either twice.
"""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cowest import io, stages, version
from cowest.alone import agreement_gates
from cowest.config import digest, file_digest
from cowest.errors import ConfigError, ContractError, CoWestError, InputError
from cowest.ledger.claims import spend
from cowest.ledger.store import open_store
from cowest.lineage import Turn
from cowest.models.hf import HFConfig
from cowest.models.openai import OpenAIConfig
from cowest.prompts import Template
from cowest.records import Decision, EvalReport, Trial
from cowest.registry import acts
from cowest.registry.looks import earlier, of_last
from cowest.registry.mlflow import RegistryConfig
from cowest.report import words
from cowest.report_parts import PolicyAgreement, PolicyForm, Probe, ProbeScore
from cowest.scorers.judge import JudgeConfig
from cowest.wear import Looks
from tests import tiny
from tests.factories import make_trial
from tests.registries import PROMPTS, empty_registry, make_pair, make_report, make_version

PARAMS = """\
prepare: {domain: handbook}
dpo: {beta: 0.1, targets: [a, b]}
compare: {gates: [{over: before}, {over: champion}], guards: false, draws: 1000}
"""
AGREES = PolicyAgreement(
    form="adapter",
    model="policy@after",
    dtype="float32",
    queries=16,
    tokens=100,
    largest=0.0,
    mean=0.0,
    changed=0,
    gap=None,
)
SERVES = {"provider": "scripted", "rules": [{"replies": ["x"]}]}
CURVES = (
    '{"stage": "dpo", "step": 5, "loss": 0.7}\n{"stage": "dpo", "step": 10, "loss": 0.5, '
    '"rewards/margins": 1.5}\n'
)


class Project:
    """A project's folder in the state in which `compare` leaves it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.registry = folder, empty_registry(folder)
        self.settings: dict[str, Any] = {}
        (folder / "raw").mkdir()
        (folder / "raw" / "rows.jsonl").write_text("{}\n")
        (folder / "params.yaml").write_text(PARAMS)
        for name in ("queries", "corpus"):
            (folder / f"{name}.jsonl").write_text(f"a row of {name}\n" * 3)
        io.write(folder / "pairs.jsonl", [make_pair(number) for number in range(3)])
        make_version(folder / "policy", "after sft")
        make_version(folder / "challenger", "after dpo", CURVES)
        self.judge(better=True)

    def of(self, folder: Path) -> "Project":
        """The same project in another folder, on the same registry."""
        other = copy.copy(self)
        other.folder = folder
        return other

    def judge(self, *, better: bool = True) -> None:
        report = make_report(self.folder, self.folder / "params.yaml", better=better)
        io.write_document(self.folder / "eval.json", report)

    def pin(self) -> Turn:
        paths = {name: self.folder / name for name in ("raw", "start", "champion")}
        paths |= {name: self.folder / f"{name}.json" for name in ("turn", "looks")}
        self.run("pin", **paths, params=self.folder / "params.yaml")
        return io.read_document(self.folder / "turn.json", Turn)

    def register(self) -> Decision:
        paths = {
            "policy": "policy",
            "challenger": "challenger",
            "params": "params.yaml",
            "turn": "turn.json",
            "report": "eval.json",
        }
        paths |= {name: f"{name}.jsonl" for name in ("queries", "corpus", "pairs")}
        if (self.folder / "trials.jsonl").exists():
            paths |= {"trials": "trials.jsonl", "looks": "looks.json"}
        self.run(
            "register",
            **{name: self.folder / path for name, path in paths.items()},
            decision=self.folder / "decision.json",
        )
        return io.read_document(self.folder / "decision.json", Decision)

    def looks(self) -> Looks:
        return io.read_document(self.folder / "looks.json", Looks)

    def run(self, stage: str, **ports: Any) -> None:
        settings: dict[str, Any] = {"registry": self.registry.model_dump()}
        if stage == "register":
            settings |= self.settings
        stages.run(stage, settings, **ports)

    def new_data(self, text: str) -> None:
        (self.folder / "raw" / "rows.jsonl").write_text(text)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("COWEST_STORE", str(tmp_path / "calls.sqlite"))
    return Project(tmp_path)


def test_the_first_turn_starts_from_nothing_and_the_second_from_its_champion(
    project: Project,
) -> None:
    assert project.pin().champion is None
    assert version.read(project.folder / "start") is None
    assert version.read(project.folder / "champion") is None
    first = project.register()
    assert (first.version, first.promoted, first.champion) == (1, True, 1)
    project.new_data("{}\n{}\n")
    assert project.pin().champion == 1
    assert (
        file_digest(project.folder / "start")
        == file_digest(project.folder / "champion")
        == file_digest(project.folder / "challenger")
    )


def test_a_turn_says_what_is_new_since_its_champion(project: Project) -> None:
    assert project.pin().since is None, "there is no champion"
    project.register()
    project.new_data("{}\n{}\n")
    (project.folder / "raw" / "more.jsonl").write_text("{}\n")
    params = project.folder / "params.yaml"
    params.write_text(params.read_text().replace("beta: 0.1", "beta: 0.2"))
    since = project.pin().since
    assert since is not None
    assert since.version == 1
    assert since.data == {"more.jsonl": "added", "rows.jsonl": "changed"}
    assert since.settings == {"dpo.beta": ("0.1", "0.2")}
    assert words.changes(since) == (
        "new since version 1: raw data (more.jsonl added, rows.jsonl changed); settings (dpo.beta)"
    )


def test_names_that_a_tracker_refuses_are_recorded_in_another_form(project: Project) -> None:
    names = ["what, and why?", "a//b", "../c", "long " * 100, "plain/name"]
    prompts = {"candidates": {name: {"user": "{query}"} for name in names}}
    settings = {"sft": {"prompts": prompts}, "/a": 1, "..": 2, "b/": 3}
    params = project.folder / "params.yaml"
    params.write_text(yaml.safe_dump(yaml.safe_load(PARAMS) | settings))
    project.pin()
    assert project.register().promoted
    project.new_data("{}\n{}\n")
    since = project.pin().since
    assert since is not None and since.settings == {}
    params.write_text(params.read_text().replace("{query}", "Say {query}"))
    since = project.pin().since
    assert since is not None and len(since.settings) == len(names)
    assert "sft.prompts.candidates.plain/name.user" in since.settings


def test_the_decision_is_a_document_of_six_fields(project: Project) -> None:
    key = project.pin().key
    made = project.register()
    text = (project.folder / "decision.json").read_text()
    assert text == (
        f'{{\n  "turn": "{key}",\n  "version": 1,\n  "promoted": true,\n  "against": null,\n'
        f'  "champion": 1,\n  "reason": "{made.reason}"\n}}\n'
    )
    refused = Decision.model_validate_json(text.replace("true", "false"))
    assert (made.verdict, refused.verdict) == ("promoted", "refused")
    with pytest.raises(ValueError, match="verdict"):
        Decision.model_validate_json(text.replace("true", '"yes"'))


def test_a_failed_gate_is_a_refusal_with_its_reason(project: Project) -> None:
    project.judge(better=False)
    project.pin()
    outcome = project.register()
    assert (outcome.promoted, outcome.champion) == (False, None)
    assert "after" in outcome.reason
    assert "before" in outcome.reason


def test_a_turn_that_is_started_again_keeps_what_it_pinned(project: Project) -> None:
    pinned = project.pin()
    project.registry.open().decide(
        make_version(project.folder / "other"),
        turn="ee",
        promote=True,
        against=None,
        reason="so",
        tags={},
    )
    assert project.pin() == pinned
    assert version.read(project.folder / "champion") is None
    (project.folder / "champion" / "version.json").unlink()
    assert project.pin().champion == 1, "what was pinned is gone: it is pinned afresh"
    assert version.read(project.folder / "champion") is not None


def test_a_turn_that_came_too_late_is_judged_again(project: Project) -> None:
    project.pin()
    project.registry.open().decide(
        make_version(project.folder / "other"),
        turn="ee",
        promote=True,
        against=None,
        reason="so",
        tags={},
    )
    late = project.register()
    assert (late.promoted, late.champion) == (False, 1)
    assert project.registry.open().log()[-1].verdict == "late"
    assert project.pin().champion == 1
    with pytest.raises(ContractError, match="another champion than the one"):
        project.register()
    project.judge()
    again = project.register()
    assert (again.version, again.promoted, again.champion) == (3, True, 3)


def test_registering_twice_changes_nothing(project: Project) -> None:
    project.pin()
    first = project.register()
    before = _history(project.registry, project.pin().key)
    (project.folder / "decision.json").unlink()
    assert project.register() == first
    assert len(project.registry.open().log()) == 1
    assert _history(project.registry, project.pin().key) == before


def test_the_tracker_holds_the_turn(project: Project) -> None:
    key = project.pin().key
    project.register()
    runs = project.registry.runs()
    run = runs.find(key)
    assert run is not None
    assert run.data.params["dpo.beta"] == "0.1"
    assert run.data.params["dpo.targets.0"] == "a"
    assert run.data.metrics["systems/after/mean"] == 1.0
    assert run.data.metrics["passed"] == 1.0
    raw, pairs = (json.loads(run.data.tags[f"dataset/{name}"]) for name in ("raw", "pairs"))
    assert (raw["kept"], raw["digest"]) == ("unversioned", file_digest(project.folder / "raw"))
    assert pairs == {
        "path": "data/pairs.jsonl",
        "digest": file_digest(project.folder / "pairs.jsonl"),
        "kept": "derived",
        "rows": 3,
    }
    assert (
        project.registry.open().log()[0].tags["dataset/pairs"] == run.data.tags["dataset/pairs"]
    ), "and so does the decision"
    inputs = {
        tag.value: one.dataset
        for one in run.inputs.dataset_inputs
        for tag in one.tags
        if tag.key == "mlflow.data.context"
    }
    assert inputs.keys() == {"raw", "queries", "corpus", "pairs"}
    assert (inputs["pairs"].name, inputs["pairs"].digest) == (
        "data/pairs.jsonl",
        pairs["digest"][:36],
    )
    assert run.data.tags["data/rows.jsonl"] == file_digest(project.folder / "raw" / "rows.jsonl")
    assert _history(project.registry, key) == [(5, 0.7), (10, 0.5)]
    assert {file.path for file in runs.client.list_artifacts(run.info.run_id)} == {
        "eval.json",
        "turn.json",
        "version",
    }


def test_a_version_is_described(project: Project) -> None:
    project.pin()
    made = project.register()
    client, name = project.registry.runs().client, project.registry.name
    assert f'load_model("models:/{name}@champion")' in client.get_registered_model(name).description
    found = client.get_model_version(name, "1").description
    assert found.startswith(f"**Promoted**, judged against no champion: {made.reason}")
    assert "| collaboration after alignment | 1.000 | " in found
    assert "| pairs | data/pairs.jsonl | derived | 3 | " in found
    # What somebody wrote there stays.
    client.update_model_version(name, "1", "mine")
    project.register()
    assert client.get_model_version(name, "1").description == "mine"


def test_a_turn_that_was_cut_short_while_it_was_tracked_is_completed(project: Project) -> None:
    key = project.pin().key
    runs = project.registry.runs()
    run = runs.of(key)
    runs.client.log_metric(run.info.run_id, "dpo/loss", 0.7, timestamp=run.info.start_time, step=5)
    project.register()
    assert _history(project.registry, key) == [(5, 0.7), (10, 0.5)]


def test_settings_that_changed_after_the_pin_are_refused(project: Project) -> None:
    project.pin()
    (project.folder / "params.yaml").write_text(PARAMS.replace("0.1", "0.2"))
    with pytest.raises(ContractError, match="changed since"):
        project.register()
    assert project.registry.open().log() == []


SLIPS = (
    "[policy]",
    "{policy: tiny, strong: tiny}",
    "{policy: {provider: hf}, strong: {provider: hf, model: [a]}}",
    "{policy: {provider: hf, model: a}, strong: {provider: openai, model: a, egress: 1}}",
    "{policy: {provider: hf, model: a}, strong: {provider: hf, model: a}, drafting: {max: 1}}",
)


def test_a_slip_in_serve_registers_nothing(project: Project) -> None:
    project.pin()
    params = project.folder / "params.yaml"
    for slip in SLIPS:
        params.write_text(f"{PARAMS}serve: {slip}\n")
        with pytest.raises(ConfigError, match=r"params\.yaml: serve"):
            project.register()
    assert project.registry.open().log() == []


def test_a_broken_curve_or_report_registers_nothing(project: Project) -> None:
    project.pin()
    make_version(project.folder / "challenger", "after dpo", CURVES + '{"step": 3}\n')
    with pytest.raises(InputError, match=r"curves\.jsonl:3"):
        project.register()
    (project.folder / "eval.json").write_text("{}")
    with pytest.raises(CoWestError, match=r"eval\.json is not a EvalReport"):
        project.register()
    assert project.registry.open().log() == []


def second_turn(project: Project) -> None:
    """The first challenger is champion, and a second one was judged against it."""
    project.pin()
    project.register()
    project.new_data("{}\n{}\n")
    make_version(project.folder / "challenger", "after dpo again")
    project.pin()
    project.judge()


def another_adapter(project: Project) -> None:
    make_version(project.folder / "challenger", "of somebody else")


def other_prompts(project: Project) -> None:
    kept = version.expect(project.folder / "challenger")
    prompts = PROMPTS.model_copy(update={"refine": Template(user="{draft} {query}")})
    version.write(
        project.folder / "challenger", base=kept.base, prompts=prompts, trained=kept.trained
    )


def another_policy(project: Project) -> None:
    make_version(project.folder / "policy", "of somebody else")


def no_champion_was_judged(project: Project) -> None:
    shutil.rmtree(project.folder / "champion")
    project.judge()


def another_champion_was_judged(project: Project) -> None:
    make_version(project.folder / "champion", "of somebody else")
    project.judge()


def another_registry(project: Project) -> None:
    (project.folder / "elsewhere").mkdir()
    project.registry = empty_registry(project.folder / "elsewhere")
    stranger = make_version(project.folder / "stranger")
    given: dict[str, Any] = {"promote": True, "against": None, "reason": "so", "tags": {}}
    project.registry.open().decide(stranger, turn="ee", **given)


def amended(project: Project, **fields: Any) -> None:
    report = io.read_document(project.folder / "eval.json", EvalReport)
    io.write_document(project.folder / "eval.json", report.model_copy(update=fields))


def an_old_report(project: Project) -> None:
    amended(project, versions={})


def other_settings(project: Project) -> None:
    amended(project, rules="0" * 64)


def a_gate_is_gone(project: Project) -> None:
    report = io.read_document(project.folder / "eval.json", EvalReport)
    amended(project, gates=report.gates[:1])


def a_gate_opens_against_its_value(project: Project) -> None:
    report = io.read_document(project.folder / "eval.json", EvalReport)
    first, *others = report.gates
    amended(project, gates=(first.model_copy(update={"value": -0.5}), *others))


def a_gate_does_not_apply_where_it_does(project: Project) -> None:
    report = io.read_document(project.folder / "eval.json", EvalReport)
    first, *others = report.gates
    amended(project, gates=(first.model_copy(update={"passed": None}), *others))


def a_refusal_is_called_passed(project: Project) -> None:
    project.judge(better=False)
    amended(project, passed=True)


def evaluates(project: Project, **settings: Any) -> None:
    """Sets `evaluate`, which makes another turn, and pins it."""
    params = project.folder / "params.yaml"
    params.write_text(f"{PARAMS}evaluate: {json.dumps(settings)}\n")
    project.pin()


def probe_of(project: Project, file: Path) -> Probe:
    answered = ProbeScore(model="policy@after", score=0.5, failed=0, kinds={})
    digest, systems = file_digest(project.folder / file), {"after": answered}
    return Probe(file=digest, questions=1, scorer="contains:2", kinds={}, systems=systems)


def local_policy() -> dict[str, Any]:
    return {"provider": "hf", "model": str(tiny.model())}


def the_agreement_was_emptied(project: Project) -> None:
    evaluates(project, policy=local_policy())
    amended(project, agreement=())


def what_serves_was_not_compared(project: Project) -> None:
    evaluates(project, policy=local_policy(), agreement={"served": SERVES})
    amended(project, agreement=(AGREES,))


def no_general_question_was_asked(project: Project) -> None:
    evaluates(project, probe={"file": "rows.jsonl"})


def other_general_questions_were_asked(project: Project) -> None:
    evaluates(project, probe={"file": "rows.jsonl"})
    amended(project, probe=probe_of(project, Path("params.yaml")))


def general_questions_were_asked_that_none_named(project: Project) -> None:
    evaluates(project, split="test")
    amended(project, probe=probe_of(project, Path("raw/rows.jsonl")))


def another_base(project: Project) -> None:
    evaluates(project, policy=local_policy(), agreement=None)


def another_base_behind_a_server(project: Project) -> None:
    evaluates(project, policy=elsewhere("openai"), agreement=None)


def another_strong_model(project: Project) -> None:
    evaluates(project, strong={"provider": "openai", "model": "big"})


def other_files_of_the_strong_model(project: Project) -> None:
    evaluates(project, strong=local_policy())
    amended(project, strong="tiny@0123456789ab")


def another_scorer(project: Project) -> None:
    evaluates(project, scorer={"scorer": "exact_match", "rule": 2})


def another_judge(project: Project) -> None:
    evaluates(project, scorer={"scorer": "judge", "model": {"provider": "openai", "model": "big"}})
    amended(project, scorer="judge:small@api.openai.com/v1:01234567")


def another_split(project: Project) -> None:
    evaluates(project, split="dev")


def judged_by_what_was_learned(project: Project) -> None:
    amended(project, split="train")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (another_adapter, "judged another version as 'after' than"),
        (other_prompts, "judged another version as 'after' than"),
        (another_policy, "judged another version as 'before' than"),
        (no_champion_was_judged, "another champion than the one"),
        (another_champion_was_judged, "another champion than the one"),
        (another_registry, "version 1 in the registry is not the version 1 that"),
        (an_old_report, "does not say which versions"),
        (other_settings, "other settings of `compare`"),
        (a_gate_is_gone, "does not follow from the gates"),
        (a_gate_opens_against_its_value, "does not follow from the gates"),
        (a_gate_does_not_apply_where_it_does, "does not follow from the gates"),
        (a_refusal_is_called_passed, "does not follow from the gates"),
        (judged_by_what_was_learned, "has pairs of that split"),
        (the_agreement_was_emptied, "was data/agreement.jsonl emptied"),
        (what_serves_was_not_compared, "was data/agreement.jsonl emptied"),
        (no_general_question_was_asked, "other general questions than evaluate.probe names"),
        (other_general_questions_were_asked, "other general questions than evaluate.probe names"),
        (general_questions_were_asked_that_none_named, "other general questions"),
        (another_base, "evaluate.policy of this turn is .*, and what was judged names base@1"),
        (another_base_behind_a_server, "evaluate.policy of this turn is "),
        (another_strong_model, "evaluate.strong of this turn is big@api.openai.com/v1, and what"),
        (other_files_of_the_strong_model, "what was judged names tiny@0123456789ab: did a model's"),
        (another_scorer, "evaluate.scorer of this turn is exact_match:2, and what was judged"),
        (another_judge, "evaluate.scorer of this turn is judge:big@api.openai.com/v1:"),
        (another_split, "evaluate.split of this turn is dev, and what was judged names test"),
    ],
)
def test_what_was_not_judged_is_not_registered(
    project: Project, spoil: Callable[[Project], None], said: str
) -> None:
    second_turn(project)
    spoil(project)
    before = project.registry.open().log()
    with pytest.raises(ContractError, match=said):
        project.register()
    assert project.registry.open().log() == before


@pytest.mark.parametrize("forms", [None, (), ("adapter",), ("adapter", "served")])
def test_what_was_measured_as_it_was_asked_is_registered(
    project: Project, forms: tuple[PolicyForm, ...] | None
) -> None:
    """Without `--agreement`, as by an older dvc.yaml, nothing was, and the report says so."""
    asked: dict[str, Any] | None = None
    if forms:
        asked = {"served": SERVES if "served" in forms else None}
    settings = {} if forms is None else {"agreement": asked}
    rests_on_local_models(project, probe={"file": "./rows.jsonl"}, **settings)
    found = None
    if forms is not None:
        found = tuple(AGREES.model_copy(update={"form": form}) for form in forms)
    report = io.read_document(project.folder / "eval.json", EvalReport)
    gates = (*report.gates, *agreement_gates(found, None))
    amended(project, agreement=found, gates=gates, probe=probe_of(project, Path("raw/rows.jsonl")))
    assert project.register().promoted


def rests_on_local_models(project: Project, **settings: Any) -> None:
    """Sets `evaluate`, and makes versions and a report as the models that it names would."""
    egress = {"on_found": "mask"}
    strong = {"provider": "openai", "model": "big", "egress": egress}
    scorer = {"scorer": "judge", "model": strong}
    evaluates(
        project, **({"policy": local_policy(), "strong": strong, "scorer": scorer} | settings)
    )
    base = HFConfig.model_validate(local_policy())
    names = {"base": base.base_name(base.folder())}
    make_version(project.folder / "policy", "after sft", **names)
    make_version(project.folder / "challenger", "after dpo", **names)
    project.judge()
    model = OpenAIConfig.model_validate(strong)
    masked = model.egress.name(model.name)
    judge = JudgeConfig.model_validate(scorer)
    amended(project, strong=masked, scorer=judge.name(masked))


@pytest.mark.parametrize(
    ("provider", "mark"), [("hf", "~2"), ("hf", "~3"), ("vllm", "~vllm"), ("vllm", "~vllm~3")]
)
def test_a_local_model_may_have_the_mark_of_its_decoder(
    project: Project, provider: str, mark: str
) -> None:
    """No setting says whether its template asks the time, or its cache can be shared."""
    strong = elsewhere(provider) if provider == "vllm" else local_policy()
    scorer = {"scorer": "judge", "model": strong}
    rests_on_local_models(project, strong=strong, scorer=scorer)
    base = HFConfig.model_validate(local_policy())
    name = base.base_name(base.folder()) + mark
    judge = JudgeConfig.model_validate(scorer)
    amended(project, strong=name, scorer=judge.name(name))
    assert project.register().promoted
    amended(project, strong=f"tiny@0123456789ab{mark}")
    with pytest.raises(ContractError, match="of this turn is tiny@"):
        project.register()


def elsewhere(provider: str) -> dict[str, Any]:
    """A policy whose weights are not in the process of the stage that drafts."""
    if provider == "vllm":
        return {"provider": "vllm", "model": str(tiny.model()), "python": "python3"}
    server = {"provider": "openai", "model": "small", "base_url": "http://gpu:8000/v1"}
    return server | {"key_env": None, "adapters_of": local_policy()}


@pytest.mark.parametrize("provider", ["vllm", "openai"])
def test_a_policy_that_drafts_elsewhere_has_no_other_forms(project: Project, provider: str) -> None:
    rests_on_local_models(project, policy=elsewhere(provider))
    amended(project, agreement=())
    assert project.register().promoted


def test_a_turn_that_needs_approval_waits_and_is_the_same_turn(project: Project) -> None:
    params = project.folder / "params.yaml"
    params.write_text(f"{PARAMS}register: {{}}\n")
    key = project.pin().key
    params.write_text(f"{PARAMS}register: {{require_approval: true}}\n")
    assert project.pin().key == key, "no row changes"
    project.settings = {"require_approval": True}
    waits = project.register()
    assert (waits.verdict, waits.promoted, waits.champion) == ("waiting", False, None)
    assert json.loads((project.folder / "decision.json").read_text())["waiting"] is True
    assert project.register() == waits
    registry = project.registry.open()
    registry.enter(acts.approval(registry.log(), waits.version, "read it"))
    assert project.pin().champion is None, "the turn is decided, and keeps what it pinned"
    project.new_data("{}\n{}\n")
    assert project.pin().champion == 2


def test_a_refusal_needs_no_approval(project: Project) -> None:
    project.settings = {"require_approval": True}
    project.judge(better=False)
    project.pin()
    assert project.register().verdict == "refused"


def test_the_next_turn_starts_from_what_a_rollback_restored(project: Project) -> None:
    project.pin()
    project.register()
    first = file_digest(project.folder / "challenger")
    project.new_data("{}\n{}\n")
    make_version(project.folder / "challenger", "after dpo again")
    project.pin()
    project.judge()
    assert project.register().champion == 2
    registry = project.registry.open()
    registry.enter(acts.rollback(registry.log(), None, "worse on invoices"))
    # Other data, and all the same the files that were rolled back.
    project.new_data("{}\n{}\n{}\n")
    assert project.pin().champion == 3
    assert file_digest(project.folder / "start") == first
    assert file_digest(project.folder / "champion") == first
    project.judge()
    same = project.register()
    assert (same.promoted, same.champion) == (False, 3)
    assert "worse on invoices" in same.reason
    # Data that make something else are promoted.
    project.new_data("{}\n{}\n{}\n{}\n")
    make_version(project.folder / "challenger", "after dpo at last")
    project.pin()
    project.judge()
    assert project.register().champion == 5


def test_a_decision_says_what_it_was_judged_by_and_what_the_turn_cost(project: Project) -> None:
    key = project.pin().key
    store = open_store()
    price = [(key, 1.25, 300)]
    store.write(lambda db: spend(db, price))
    said = "INSERT INTO versions VALUES (?,?,?)"
    for number in range(9):
        store.write(lambda db, n=number: db.execute(said, (key, "m", f"m-{n}")))
    project.register()
    tags = project.registry.open().log()[0].tags
    report = io.read_document(project.folder / "eval.json", EvalReport)
    gates = json.loads(tags["gates"])
    assert [gate["name"] for gate in gates] == [gate.name for gate in report.gates]
    assert gates[0]["value"] == report.gates[0].value
    assert json.loads(tags["cost"]) == {"usd": 1.25, "tokens": 300}
    assert json.loads(tags["reported"]) == {"m": [f"m-{number}" for number in range(5)]}
    assert (tags["strong"], tags["scorer"]) == (report.strong, report.scorer)
    assert tags["prompts"] == digest(PROMPTS)
    assert tags["by"] == acts.who()


def test_what_was_judged_is_registered(project: Project) -> None:
    second_turn(project)
    assert project.register().champion == 2


def test_a_turn_whose_champion_has_no_digest_is_pinned_again(project: Project) -> None:
    """As one that was pinned by a version from before digests were recorded."""
    second_turn(project)
    whole = project.pin()
    assert whole.champion_files == project.registry.open().log()[0].digest
    path = project.folder / "turn.json"
    values = json.loads(path.read_text())
    del values["champion_files"], values["champion_digest"]
    path.write_text(json.dumps(values))
    (project.folder / "champion" / "curves.jsonl").write_text("changed since")
    assert project.pin() == whole
    assert file_digest(project.folder / "champion") == whole.champion_files


def test_a_turn_of_another_registry_is_pinned_again(project: Project) -> None:
    second_turn(project)
    another_registry(project)
    stranger = project.registry.open().log()[0].digest
    assert project.pin().champion_files == stranger
    assert file_digest(project.folder / "champion") == stranger
    project.judge()
    assert project.register().promoted


def test_a_champion_that_was_changed_on_disk_is_laid_out_again(project: Project) -> None:
    second_turn(project)
    whole = project.pin()
    make_version(project.folder / "champion", "weaker, so that it is easily beaten")
    assert project.pin() == whole
    assert file_digest(project.folder / "champion") == whole.champion_files


def _history(config: RegistryConfig, turn: str) -> list[tuple[int, float]]:
    runs = config.runs()
    run = runs.find(turn)
    assert run is not None
    return [
        (point.step, point.value)
        for point in runs.client.get_metric_history(run.info.run_id, "dpo/loss")
    ]


def trials_of(count: int = 12) -> list[Trial]:
    """Rows of held-out queries, as the ids of them are read."""
    return [make_trial(number) for number in range(count)]


def test_a_later_turn_knows_which_queries_were_looked_at(project: Project) -> None:
    """A turn that is run again does not count its own look; another turn counts it once."""
    io.write(project.folder / "trials.jsonl", trials_of())
    ids = [row.id for row in trials_of()]
    project.pin()
    assert project.looks() == Looks()
    project.register()
    project.pin()
    assert project.looks() == Looks()
    project.new_data("{}\n{}\n")
    project.pin()
    once = Looks(decisions=1, uses=dict.fromkeys(sorted(ids), 1))
    assert project.looks() == once
    project.judge(better=False)
    project.register()
    project.new_data("{}\n{}\n{}\n")
    project.pin()
    assert project.looks().uses == dict.fromkeys(sorted(ids), 2)
    assert of_last(project.registry.open().log(), project.registry.runs()) == 2.0


def test_a_decision_without_ids_is_told_as_unknown(project: Project) -> None:
    project.pin()
    project.register()
    project.new_data("{}\n{}\n")
    project.pin()
    assert project.looks() == Looks(unknown=1)


def test_a_rollback_is_no_look(project: Project) -> None:
    io.write(project.folder / "trials.jsonl", trials_of())
    project.pin()
    project.register()
    log = project.registry.open().log()
    act = log[0].model_copy(update={"turn": "ab", "tags": {**log[0].tags, "kind": "rollback"}})
    assert earlier([*log, act], project.registry.runs(), None).decisions == 1


def test_a_report_on_other_looks_is_not_registered(project: Project) -> None:
    io.write(project.folder / "trials.jsonl", trials_of())
    project.pin()
    io.write_document(
        project.folder / "looks.json", Looks(decisions=3, uses={trials_of()[0].id: 3})
    )
    found = io.read_document(project.folder / "eval.json", EvalReport)
    io.write_document(project.folder / "eval.json", found.model_copy(update={"wear": 0.0}))
    with pytest.raises(ContractError, match=r"counts 0 earlier decisions .* 0\.25: run compare"):
        project.register()
    io.write_document(project.folder / "eval.json", found.model_copy(update={"wear": 0.25}))
    assert project.register().promoted


def test_looks_that_another_turn_took_meanwhile_are_counted_before_a_promotion(
    project: Project,
) -> None:
    io.write(project.folder / "trials.jsonl", trials_of())
    found = io.read_document(project.folder / "eval.json", EvalReport)
    io.write_document(project.folder / "eval.json", found.model_copy(update={"wear": 0.0}))
    project.pin()
    shutil.copytree(project.folder, project.folder / "elsewhere")
    # Another turn, pinned at once, is refused first.
    elsewhere = project.of(project.folder / "elsewhere")
    elsewhere.new_data("{}\n{}\n")
    elsewhere.pin()
    elsewhere.judge(better=False)
    assert not elsewhere.register().promoted
    with pytest.raises(ContractError, match=r"1 earlier decisions .* counts 0\. Run `cowest turn`"):
        project.register()
    project.pin()
    assert project.looks().decisions == 1
    io.write_document(project.folder / "eval.json", found.model_copy(update={"wear": 1.0}))
    assert project.register().promoted
    elsewhere.new_data("{}\n{}\n{}\n")
    elsewhere.pin()
    elsewhere.judge(better=False)
    elsewhere.register()
    project.pin()
    assert project.looks().decisions == 1, "what is decided stays"
    assert project.register().promoted
