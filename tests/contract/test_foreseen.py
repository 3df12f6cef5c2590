"""The calls that `cowest turn --dry-run` foresees are the calls that are made, where no two are
equal: with candidates, in later rounds, and in GRPO.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from cowest import collaboration, config, io, stages
from cowest.domains import domain
from cowest.forecast import forecast
from cowest.records import Draft, Feedback, Refinement
from tests import lines, tiny
from tests.aligning import answers
from tests.servers import ChatServer, chat_server

pytestmark = pytest.mark.minutes

RAW = Path("data/raw/handbook")
DRAFTING = {"temperature": 1.0, "n": 2, "max_tokens": 12}
CANDIDATES = {
    "made": {"user": "Where is the {group} made, and what is {query}"},
    "brief": {"user": "Briefly: {query}"},
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project after a turn, in a folder of its own, with a call store of its own."""
    shutil.copytree(tiny.turned(), tmp_path, dirs_exist_ok=True, symlinks=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COWEST_STORE", str(tmp_path / "calls.sqlite"))
    return tmp_path


def settings(server: ChatServer, dpo: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The project's settings, with a strong model at the server and few drafts of each query."""
    params = yaml.safe_load(Path("params.yaml").read_text())
    model = {"provider": "openai", "model": "m", "base_url": server.url, "key_env": None}
    params["refine"]["strong"] = params["evaluate"]["strong"] = model
    params["draft"]["sampling"] = DRAFTING
    params["dpo"] |= dpo
    if dpo:
        params["dpo"]["ask"] = {
            "strong": model,
            "scorer": params["score"]["scorer"],
            "drafting": DRAFTING,
            "refining": params["refine"]["sampling"],
            "rule": params["pair"]["rule"],
            "pairs": {"kind": "pairs", "min_pairs": 2},
        }
    for stage, values in more.items():
        params[stage] |= values
    return params


def foreseen(params: dict[str, Any], stage: str) -> int:
    """The calls of a stage, before any is in the store."""
    return dict(forecast(params, RAW))[stage].calls


def run(params: dict[str, Any], *names: str) -> None:
    ports = lines.paths()
    for name in names:
        stages.run(name, config.section(params, name), None, **ports[name])


def queries() -> int:
    """The training queries that the feedback is on."""
    return len(list(io.groups(Path("data/feedback.jsonl"), Feedback)))


def test_candidates(project: Path) -> None:
    prompts = domain("handbook").prompts.model_dump(mode="json") | {"candidates": CANDIDATES}
    place = Path("models/policy/version.json")
    kept = json.loads(place.read_text())
    place.unlink()
    place.write_text(json.dumps(kept | {"prompts": prompts}))
    with chat_server(otherwise=answers([], [])) as server:
        more = {"draft": {"candidates": DRAFTING}, "sft": {"prompts": prompts}}
        params = settings(server, {}, **more)
        expected = foreseen(params, "refine")
        run(params, "draft", "refine")
        groups = list(io.groups(Path("data/drafts.jsonl"), Draft))
        assert len(groups) == queries() and expected == len(groups) * (1 + 3 * 2)
        assert all(len({row.draft for row in group}) == 6 for group in groups)
        assert server.calls == expected


def test_later_rounds(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A later round asks each query alone again, which the store answers."""
    with chat_server(otherwise=answers([], [])) as server:
        params = settings(server, {"rounds": 3})
        expected = foreseen(params, "dpo")
        assert expected == 2 * queries() * (1 + 2)
        run(params, "draft", "refine", "score")
        shutil.copy("data/feedback.raw.jsonl", "data/feedback.jsonl")
        run(params, "pair")
        shutil.copy("data/pairs.raw.jsonl", "data/pairs.jsonl")
        before = server.calls
        run(params, "dpo")
        assert max(server.asked().values()) == 1
        drafts = 2 * queries() * 2
        assert f"dpo: {expected + drafts} completions asked" in capsys.readouterr().err
        assert server.calls - before == expected - 2 * queries()


def test_grpo(project: Path) -> None:
    """Each judgement asks the queries held back alone again, and each epoch all others."""
    with chat_server(otherwise=answers([], [])) as server:
        grpo = {"align": "grpo", "grpo": {"dev": 4, "judge_steps": 5}}
        params = settings(server, grpo, refine={"align": "grpo"}, pair={"align": "grpo"})
        params["dpo"]["training"] |= {"batch_size": 8, "epochs": 1}
        assert foreseen(params, "refine") == 0
        expected = foreseen(params, "dpo")
        learned = queries() - 4
        steps = -(-learned // 4)
        judged = 2 + steps // 5
        assert expected == learned * 3 + 4 * (1 + judged)
        run(params, "dpo")
        assert max(server.asked().values()) == 1
        # A judgement's draft may be that of the one before, which then is no call.
        assert learned * 3 + 4 * 2 <= server.calls <= expected


def test_half_of_the_calls(project: Path) -> None:
    with chat_server(otherwise=answers([], [])) as server:
        # The tiny model never ends a draft by itself.
        select = {"share": 0.5, "allow_cut": True}
        params = settings(server, {}, refine={"select": select})
        params["draft"]["sampling"] = {**DRAFTING, "n": 3}
        expected = foreseen(params, "refine")
        run(params, "draft", "refine")
        groups = list(io.groups(Path("data/drafts.jsonl"), Draft))
        whole = sum(1 + len({row.draft for row in group}) for group in groups)
        assert 0 < server.calls <= expected <= 0.5 * len(groups) * 4 + 2
        rows = io.groups(Path("data/refinements.jsonl"), Refinement)
        assert server.calls == sum(collaboration.calls_of(group)[0] for group in rows)
        assert server.calls == expected or whole < len(groups) * 4
