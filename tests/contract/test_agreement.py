"""What serves is what was judged: the merged weights are compared with the adapter as it was
trained and with what serves it, and the gate is closed where they answer otherwise.
"""

import contextlib
import gc
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cowest import agreement, io, stages, version
from cowest.agreement import AgreementConfig, Judged, compared, judged_side
from cowest.alone import agreement_gates, unmeasured
from cowest.config import Sampling, file_digest
from cowest.config import load as load_settings
from cowest.domains.handbook import PROMPTS
from cowest.errors import ConfigError, ContractError
from cowest.gates import Gate, Rules
from cowest.models import hf
from cowest.models.decoding import HFModel
from cowest.models.hf import HFConfig, load
from cowest.models.scripted import ScriptedConfig, ScriptRule
from cowest.protocols import Completion
from cowest.records import EvalReport, GateResult
from cowest.report import contents, page
from cowest.report_parts import PolicyAgreement, ProbeAnswer
from cowest.stages import compare
from tests import lines, tiny
from tests.factories import make_query, make_trial

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_store")]
GREEDY = Sampling(max_tokens=12)
QUERIES = [
    make_query(number, f"Where is the {name} made?")
    for number, name in enumerate(("Comet pump", "Phoenix fan", "Velvet blender", "Orbit lamp"))
]
BASE = HFConfig(model=str(tiny.model()))


def make_adapter(folder: Path, **settings: Any) -> Path:
    """An adapter with random weights, so that it moves the answers."""
    import peft
    import torch

    torch.manual_seed(3)
    shape = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"]} | settings
    lora = peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **shape)
    tuned = peft.get_peft_model(load(BASE)[0], lora)
    tuned.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(tmp_path_factory.mktemp("agreement") / "adapter")


def judge(
    adapter: Path, base: HFConfig = BASE, **settings: Any
) -> tuple[list[PolicyAgreement], list[GateResult]]:
    config = AgreementConfig(**settings)
    with base.open(adapter=adapter) as judged:
        side = judged_side(judged, iter(QUERIES), PROMPTS, GREEDY, config)
    rows = list(compared(side, base, adapter, config))
    return rows, list(agreement_gates(rows, None))


def merged(adapter: Path, folder: Path) -> Path:
    """A folder with the merged weights, as one would serve them."""
    with BASE.open(adapter=adapter) as model:
        model.model.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "settings", [{}, {"use_dora": True}, {"use_rslora": True}, {"layers_to_transform": [1]}]
)
def test_an_adapter_that_merges_well_passes(settings: dict[str, Any], tmp_path: Path) -> None:
    (row,), (gate,) = judge(make_adapter(tmp_path / "adapter", **settings))
    assert (row.form, row.dtype, row.queries) == ("adapter", "float32", 4)
    assert row.changed == 0
    assert row.largest is not None
    assert row.largest < 1e-4
    assert gate.passed
    assert "4 of 4 greedy answers are the same" in gate.reason


def test_the_adapters_weights_are_let_go_before_the_served_ones_are_loaded(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = merged(adapter, tmp_path / "merged")
    with BASE.open(adapter=adapter) as judged:
        side = judged_side(judged, iter(QUERIES), PROMPTS, GREEDY, AgreementConfig())
    first: list[weakref.ref[Any]] = []
    left: list[Any] = []
    beside, opened = hf.beside, HFConfig.open

    @contextlib.contextmanager
    def noted(*given: Any) -> Iterator[Any]:
        with beside(*given) as model:
            first.append(weakref.ref(model))
            yield model

    def opening(config: HFConfig, **given: Any) -> Any:
        gc.collect()
        left.extend(one() for one in first)
        return opened(config, **given)

    monkeypatch.setattr(hf, "beside", noted)
    monkeypatch.setattr(HFConfig, "open", opening)
    config = AgreementConfig(served=HFConfig(model=str(folder)))
    assert [row.form for row in compared(side, BASE, adapter, config)] == ["adapter", "served"]
    assert left == [None]


def test_it_samples_the_same_queries_in_any_order(adapter: Path) -> None:
    config = AgreementConfig(queries=2)
    with BASE.open(adapter=adapter) as judged:
        one = judged_side(judged, iter(QUERIES), PROMPTS, GREEDY, config)
        other = judged_side(judged, reversed(QUERIES), PROMPTS, GREEDY, config)
        plain = [judged.generate([said.request]) for said in one.said]
        assert [next(iter(answer)).text for answer in plain] == [said.text for said in one.said]
    assert len(one.said) == 2
    assert one == other


def test_weights_that_are_not_the_adapters_close_the_gate(adapter: Path) -> None:
    with BASE.open(adapter=adapter) as judged:
        for name, weight in judged.model.named_parameters():
            if name.endswith("layers.1.mlp.down_proj.weight"):
                weight.data *= 1.05
        side = judged_side(judged, iter(QUERIES), PROMPTS, GREEDY, AgreementConfig())
    rows = list(compared(side, BASE, adapter, AgreementConfig()))
    (gate,) = agreement_gates(rows, None)
    assert gate.passed is False
    assert gate.value is not None
    assert gate.value > 0.001
    assert "0.001 is allowed" in gate.reason
    (gate,) = agreement_gates(rows, 100.0)
    assert gate.passed, "compare.max_logprob_gap allows more"


def test_an_adapter_on_a_tied_head_closes_the_gate(tmp_path: Path) -> None:
    """Merging changes the embeddings too, so that the merged weights are another model."""
    (row,), (gate,) = judge(make_adapter(tmp_path / "adapter", target_modules=["lm_head"]))
    assert row.largest is not None
    assert row.largest > 0.1
    assert gate.passed is False


def test_bfloat16_may_differ_by_its_rounding(adapter: Path) -> None:
    rough = BASE.model_copy(update={"dtype": "bfloat16"})
    (row,), (gate,) = judge(adapter, rough)
    assert row.dtype == "bfloat16"
    assert row.largest is not None
    assert 1e-4 < row.largest < 0.5
    assert gate.passed
    (gate,) = agreement_gates([row], 0.001)
    assert not gate.passed


def test_merged_weights_that_serve_are_compared(adapter: Path, tmp_path: Path) -> None:
    folder = merged(adapter, tmp_path / "merged")
    rows, gates = judge(adapter, served=HFConfig(model=str(folder)))
    assert [row.form for row in rows] == ["adapter", "served"]
    assert [gate.passed for gate in gates] == [True, True]

    # The same adapter, merged at twice its scale.
    stronger = shutil.copytree(adapter, tmp_path / "stronger")
    settings = stronger / "adapter_config.json"
    settings.write_text(settings.read_text().replace('"lora_alpha": 8', '"lora_alpha": 16'))
    served = HFConfig(model=str(merged(stronger, tmp_path / "other")))
    (_, row), (_, gate) = judge(adapter, served=served)
    assert row.largest is not None
    assert row.largest > 0.01
    assert gate.passed is False
    assert gate.name == "model that is served answers as judged"


def test_a_base_that_serves_is_given_the_adapter(adapter: Path) -> None:
    _, gates = judge(adapter, served=BASE.model_copy(update={"rows": 1}))
    assert [gate.passed for gate in gates] == [True, True]


def test_a_server_that_reads_prompts_otherwise_closes_the_gate(
    adapter: Path, tmp_path: Path
) -> None:
    folder = merged(adapter, tmp_path / "merged")
    (folder / "chat_template.jinja").write_text(tiny.CHATML.replace("assistant", "bot"))
    (_, row), (_, gate) = judge(adapter, served=HFConfig(model=str(folder)))
    assert row.failed == 4
    assert gate.passed is False
    assert "reads their prompts as other tokens" in gate.reason


def test_an_endpoint_that_answers_otherwise_closes_the_gate(adapter: Path) -> None:
    wrong = ScriptedConfig(rules=(ScriptRule(replies=("Something else.",)),))
    (_, row), (_, gate) = judge(adapter, served=wrong)
    assert (row.changed, row.dtype) == (4, "unknown")
    assert gate.passed is False
    down = ScriptedConfig(rules=(ScriptRule(failed="it is out of order"),))
    (_, row), (_, gate) = judge(adapter, served=down)
    assert row.failed == 4
    assert gate.passed is False
    assert "answered 0 of 4" in gate.reason


@pytest.fixture(scope="module")
def held(
    adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[HFModel, Judged]]:
    with BASE.open(adapter=adapter) as judged:
        yield judged, judged_side(judged, iter(QUERIES), PROMPTS, GREEDY, AgreementConfig())


def test_an_endpoints_log_probabilities_count_where_it_gives_them(
    held: tuple[HFModel, Judged],
) -> None:
    judged, side = held

    def answers(off: float | None) -> list[Completion]:
        found = []
        for said in side.said:
            logprob = None if off is None else sum(said.logprobs) + off * len(said.answer)
            found.append(Completion(said.text, "server", logprob=logprob))
        return found

    def verdict(off: float | None) -> GateResult:
        found = agreement.with_answers(judged, side.said, answers(off))
        row = agreement.folded("served", "server", "unknown", side.said, found)
        (gate,) = agreement_gates([row], None)
        return gate

    assert verdict(None).passed
    assert "gave no log-probabilities" in verdict(None).reason
    assert verdict(0.01).passed
    assert verdict(2.0).passed is False


def test_a_prompt_that_does_not_fit_is_left_out(held: tuple[HFModel, Judged]) -> None:
    judged, _ = held
    long = make_query(1, "Where? " * 600)
    side = judged_side(judged, iter([long]), PROMPTS, GREEDY, AgreementConfig())
    (gate,) = agreement_gates([agreement.folded("adapter", "x", "float32", side.said, [])], None)
    assert gate.passed is False
    assert "no query of the sample fits" in gate.reason


def made(folder: Path, rows: list[PolicyAgreement] | None) -> EvalReport:
    trials = folder / "trials.jsonl"
    found = []
    for number in range(12):
        for system, score in (("before", 0.0), ("after", 1.0)):
            found.append(make_trial(number, system, score=score))
    io.write(trials, found)
    given = None
    if rows is not None:
        given = folder / "agreement.jsonl"
        io.write(given, rows)
    rules = Rules(gates=(Gate(over="before"),), draws=1000)
    compare.main(trials, folder / "eval.json", rules, agreement=given)
    return io.read_document(folder / "eval.json", EvalReport)


def test_what_was_not_measured_closes_no_gate_and_is_said(tmp_path: Path) -> None:
    for rows, said in (
        (None, "was given no --agreement"),
        ([], "evaluate.agreement is null, or evaluate.policy is of another"),
    ):
        report = made(tmp_path, rows)
        assert report.passed
        assert "agreement" not in [gate.metric for gate in report.gates]
        assert said in unmeasured(report)


def test_a_disagreement_keeps_a_better_challenger_out(tmp_path: Path) -> None:
    row = PolicyAgreement(
        form="adapter", model="policy@after", dtype="float32", queries=4, tokens=40, largest=0.2,
        mean=0.01, changed=0, gap=None,
    )  # fmt: skip
    report = made(tmp_path, [row])
    assert [gate.name for gate in report.gates if gate.passed is False] == [
        "adapter beside its base answers as judged"
    ]
    assert not report.passed
    assert report.agreement == (row,)
    with pytest.raises(ContractError, match=r"another challenger \(policy@older\) than the trials"):
        made(tmp_path, [row.model_copy(update={"model": "policy@older", "largest": 0.0})])
    # What serves has a name of its own, so its version says whose answers these are.
    serves = {"form": "served", "model": "server", "largest": 0.0}
    assert made(tmp_path, [row.model_copy(update=serves)]).passed
    with pytest.raises(ContractError, match=r"another challenger \(server\) than the trials"):
        made(tmp_path, [row.model_copy(update={**serves, "version": "0" * 64})])


def test_a_turn_measures_it_and_its_report_says_so() -> None:
    turned = tiny.turned()
    (row,) = io.read(turned / "data" / "agreement.jsonl", PolicyAgreement)
    assert row.queries == 16
    assert row.changed == 0
    assert row.version == version.expect(turned / "models" / "challenger").digest
    report = io.read_document(turned / "reports" / "eval.json", EvalReport)
    (gate,) = [one for one in report.gates if one.metric == "agreement"]
    assert gate.passed
    assert "16 of 16 greedy answers are the same" in gate.reason


def test_a_turn_asks_general_questions_of_each_policy_and_of_the_base() -> None:
    turned = tiny.turned()
    rows = list(io.read(turned / "data" / "probe.jsonl", ProbeAnswer))
    assert [row.system for row in rows] == [
        name for name in ("base", "before", "after") for _ in range(tiny.GENERAL)
    ]
    versions = {row.system: row.version for row in rows}
    report = io.read_document(turned / "reports" / "eval.json", EvalReport)
    assert versions == {"base": None, **report.versions}
    assert report.probe is not None
    assert list(report.probe.systems) == ["base", "before", "after"]
    raw = turned / "data" / "raw" / "handbook" / "general.jsonl"
    assert report.probe.file == file_digest(raw)
    shown = page(contents.gather(turned))
    assert "<h3>General questions</h3>" in shown
    assert "12 general questions, answered by each policy alone: the base model 0." in shown


def test_an_older_pipeline_asks_no_general_questions_and_is_told_of_those_that_are_named(
    tmp_path: Path,
) -> None:
    folder = shutil.copytree(tiny.turned(), tmp_path / "project")
    params = load_settings(folder / "params.yaml")
    ports = lines.paths()
    for port in ("raw", "probe"):
        del ports["evaluate"][port]
    del ports["compare"]["probe"]
    with tiny.standing_in(folder):
        with pytest.raises(ConfigError, match=r"was not given `--raw` and `--probe`"):
            stages.run("evaluate", params["evaluate"], None, **ports["evaluate"])
        del params["evaluate"]["probe"]
        for stage in ("evaluate", "compare"):
            stages.run(stage, params[stage], None, **ports[stage])
        report = io.read_document(Path("reports/eval.json"), EvalReport)
    assert report.passed
    assert report.probe is None
