"""Alignment that asks while it trains: rounds, and GRPO, stopped half way and gone on with."""

import json
import re
import shutil
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from cowest import config, io, training, version
from cowest.aligning import rollouts
from cowest.aligning.rounds import queries_of
from cowest.errors import BudgetError, ConfigError, ContractError, CoWestError
from cowest.ledger import store
from cowest.ledger.claims import Budget, open_turn
from cowest.models import hf
from cowest.models.hf import HFConfig
from cowest.records import PreferencePair, Query
from cowest.stages import dpo
from tests import tiny
from tests.aligning import GRPO, HELD_BACK, RIGHT, TRAINING, answers, make_policy, settings
from tests.servers import ChatServer, Fate, chat_server, completion

pytestmark = pytest.mark.slow

TERM = "phoenix sensor"
"""What some of the queries are about."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("aligning"))


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a call store of its own; the fixture's files lie elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COWEST_STORE", str(tmp_path / "calls.sqlite"))
    return made


def align(place: Path, out: str, given: dpo.DPOConfig) -> version.Version:
    names = ("pairs.jsonl", "feedback.jsonl", "policy")
    dpo.main(*(place / name for name in names), Path(out), given)
    return version.expect(Path(out))


def curves(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(out, "curves.jsonl").read_text().splitlines()]


def best_step(said: str) -> int:
    """The step of the checkpoint that GRPO took."""
    found = re.search(r"dpo: the checkpoint after step (\d+) is the best", said)
    assert found is not None, said
    return int(found[1])


def same_weights(one: Path, other: Path) -> bool:
    """True if two versions have the same adapter, whatever else its files say."""
    import torch
    from safetensors.torch import load_file

    name = "adapter/adapter_model.safetensors"
    weights, others = load_file(one / name), load_file(other / name)
    assert weights.keys() == others.keys()
    return all(torch.equal(weights[key], others[key]) for key in weights)


def stopped_and_gone_on(
    place: Path, monkeypatch: pytest.MonkeyPatch, calls: int, **more: Any
) -> tuple[version.Version, ChatServer]:
    """Aligns twice: in one piece, and with a strong model that is away after so many calls.

    The two are the same bytes, and no answered call was made again.
    """
    stops = [calls]
    servers: list[ChatServer] = []
    with chat_server(otherwise=answers(servers, stops)) as server:
        servers.append(server)
        given = settings(server, **more)
        with pytest.raises(CoWestError):
            align(place, "cut", given)
        assert not Path("cut").exists() and list(Path(".cowest/training").iterdir())
        stops.clear()
        cut = align(place, "cut", given)
        asked = server.asked()
        assert len(asked) > calls
        assert sum(asked.values()) - len(asked) <= 1, "an answered call was made again"
        monkeypatch.setenv("COWEST_STORE", str(Path("whole.sqlite").absolute()))
        whole = align(place, "whole", given)
    assert config.file_digest(Path("cut")) == config.file_digest(Path("whole"))
    assert cut == whole and not list(Path(".cowest/training").iterdir())
    assert cut.aligned is not None and cut.adapter != version.expect(place / "policy").adapter
    return cut, server


def test_a_round_drafts_anew_and_a_stop_in_it_repeats_no_call(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found, server = stopped_and_gone_on(place, monkeypatch, 20, rounds=2)
    said = capsys.readouterr().err
    assert said.count("dpo: round 1 learns from 12 rows") == 2, "once for each of the two"
    assert said.count("dpo: round 2 learns from") == 2
    assert found.aligned is not None
    assert found.aligned.rows[0] == 12 and found.aligned.rows[1] >= 2
    assert found.aligned.strong[0] == "first" and found.aligned.strong[1].startswith("m@127")
    steps = [row["step"] for row in curves("cut")]
    assert steps == sorted(set(steps))
    alone = settings(server)
    align(place, "alone", alone)
    assert len(curves("cut")) > len(curves("alone"))
    assert curves("cut")[: len(curves("alone"))] == curves("alone")


def test_a_round_that_leaves_too_few_pairs_is_not_trained(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with chat_server() as server:
        asked = {"pairs": {"kind": "pairs", "min_pairs": 500}}
        found = align(place, "few", settings(server, rounds=3, ask=asked))
        one = align(place, "one", settings(server))
    said = capsys.readouterr().err
    assert re.search(r"round 2 leaves \d+ rows to learn from, and dpo.ask.pairs asks for 500", said)
    assert "round 1 is the last" in said and "round 3" not in said
    assert found.adapter == one.adapter and one.aligned is None
    assert found.aligned is not None and found.aligned.rows == (12,)


def test_grpo_learns_from_what_it_drafts_and_a_stop_repeats_no_call(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"align": "grpo", "grpo": GRPO, "checkpoint_minutes": 0}
    found, _ = stopped_and_gone_on(place, monkeypatch, 55, **more)
    said = capsys.readouterr().err
    assert "dpo: training goes on after step 5" in said
    assert re.search(r"after step \d+ is the best: [\d.]+ on the 3 queries held back", said)
    # Two queries a step; a draft that is empty on some CPU is left out.
    best = best_step(said)
    assert found.aligned is not None and 4 * best <= found.aligned.rows[0] <= 2 * 3 * best
    rows = curves("cut")
    assert rows[-1]["step"] == 10
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-5) and rows[-1]["kl"] > 1e-4
    assert all(row["length"] > 1 for row in rows) and any(row["reward"] for row in rows)
    assert "dev" in rows[0] and "dev" in rows[-1]


def test_the_reward_of_grpo_by_hand(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is right where a draft begins with a letter up to M, and else wrong, as alone."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny.model())
    rollout = rollouts.Asker.rollout
    made: list[rollouts.Rollout] = []

    def kept(self: rollouts.Asker, step: int, queries: Sequence[Query]) -> rollouts.Rollout:
        made.append(rollout(self, step, queries))
        return made[-1]

    monkeypatch.setattr(rollouts.Asker, "rollout", kept)
    with chat_server(otherwise=answers([], [])) as server:
        align(place, "few", settings(server, align="grpo", grpo={**GRPO, "calls": 60}))
    mixed = 0
    for found in made:
        rewards: list[float] = []
        at = 0
        for tree in found.trees:
            texts = [tokenizer.decode(draft, skip_special_tokens=True) for draft in tree.drafts]
            gains = [float(RIGHT.search(f"Notes: {text}") is not None) for text in texts]
            counts = found.counts[at : at + len(texts)]
            each = [gain for gain, count in zip(gains, counts, strict=True) for _ in range(count)]
            spread = stdev(each) + 1e-4 if len(each) > 1 else 1.0
            expected = [(gain - mean(each)) / spread for gain in gains]
            assert found.advantages[at : at + len(texts)] == pytest.approx(expected)
            mixed += len(set(each)) > 1
            rewards += each
            at += len(texts)
        assert found.logged["reward"] == pytest.approx(mean(rewards))
    assert mixed, "no query had drafts of unlike gains"


def test_grpo_ends_at_its_calls(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the queries hold of a term is masked in all that the strong model is asked."""
    with chat_server(otherwise=answers([], [])) as server:
        egress = {"egress": {"on_found": "mask", "terms": [TERM]}}
        strong = {"provider": "openai", "model": "m", "base_url": server.url, "key_env": None}
        given = settings(
            server, align="grpo", grpo={**GRPO, "calls": 40}, ask={"strong": strong | egress}
        )
        found = align(place, "few", given)
        assert 0 < server.calls <= 40
        sent = json.dumps(server.bodies)
        assert "[TERM_1]" in sent and TERM not in sent.lower()
    said = capsys.readouterr().err
    assert re.search(r"dpo: training ends after \d+ calls: dpo.grpo.calls allows 40", said)
    assert found.aligned is not None and found.aligned.rows[0] <= 2 * 3 * best_step(said)
    last = curves("few")[-1]
    assert last["step"] > 1 and "dev" in last, "the last judgement is in the curves"


def worse(step: int) -> float:
    """The score of a policy that each step makes worse."""
    return 1 / (1 + step)


def test_a_judgement_that_a_stop_left_behind_is_counted_once(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The limit leaves just enough for a step more, also to a training that was stopped.

    It was stopped where its best checkpoint gives way to a better one.
    """
    judge = rollouts.Asker.judge
    stops, used, judged = [True], [], []

    def stopped(self: rollouts.Asker, step: int, queries: Sequence[Query]) -> float:
        judge(self, step, queries)
        judged.append(step)
        if step == 6 and stops:
            stops.clear()
            used.append(self.calls_unjudged(step))
            raise ConfigError("stopped")
        return worse(step)

    monkeypatch.setattr(rollouts.Asker, "judge", stopped)
    with chat_server(otherwise=answers([], [])) as server:

        def limited(calls: int) -> dpo.DPOConfig:
            grpo = {**GRPO, "calls": calls}
            return settings(server, align="grpo", grpo=grpo, checkpoint_minutes=0)

        with pytest.raises(ConfigError, match="stopped"):
            align(place, "none", limited(1000))
        others = set(Path(".cowest/training").iterdir())
        # The judgement of step 6, a step of two queries with three drafts each, and its judgement.
        given = limited(used[0] + 2 * HELD_BACK + 2 * (1 + 3) + 2 * HELD_BACK)
        stops.append(True)
        with pytest.raises(ConfigError, match="stopped"):
            align(place, "cut", given)
        judged.clear()
        (kept,) = set(Path(".cowest/training").iterdir()) - others
        (kept / "best").rename(kept / ".best.before")
        cut = align(place, "cut", given)
        said = capsys.readouterr().err
        assert "dpo: training goes on after step 5" in said
        assert best_step(said) == 0 and same_weights(Path("cut"), place / "policy")
        assert judged == [6, 7], "the step that the limit leaves is taken"
        monkeypatch.setenv("COWEST_STORE", str(Path("whole.sqlite").absolute()))
        assert align(place, "whole", given) == cut
    assert curves("cut") == curves("whole")


def test_a_training_that_its_limit_ended_takes_no_step_more_after_a_kill(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed before its challenger is written, where a checkpoint is due at its last step."""
    judge, check = rollouts.Asker.judge, training.check
    stops, used, judged = [False, True], [], []

    def watched(self: rollouts.Asker, step: int, queries: Sequence[Query]) -> float:
        judge(self, step, queries)
        judged.append(step)
        used.append(self.calls_unjudged(5))
        return worse(step)

    def killed(made: Any, stage: str) -> None:
        check(made, stage)
        if stops and stops.pop(0):
            raise ConfigError("killed")

    monkeypatch.setattr(rollouts.Asker, "judge", watched)
    monkeypatch.setattr(training, "check", killed)
    with chat_server(otherwise=answers([], [])) as server:

        def limited(calls: int) -> dpo.DPOConfig:
            grpo = {**GRPO, "calls": calls}
            return settings(server, align="grpo", grpo=grpo, checkpoint_minutes=0)

        align(place, "long", limited(1000))
        # After five steps, and not after four, too few are left for a step and its judgement.
        given = limited(used[-1] + 2 * (1 + 3) + 2 * HELD_BACK - 4)
        with pytest.raises(ConfigError, match="killed"):
            align(place, "cut", given)
        assert judged[-1] == 5
        calls = server.calls
        found = align(place, "cut", given)
        assert judged[-1] == 5 and server.calls == calls, "no step more is made or paid for"
    assert found.aligned is not None and found.aligned.rows == (0,), "the best is from before"


def test_grpo_ends_at_its_cpu_time(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first step leaves less than it took, and is judged."""
    with chat_server(otherwise=answers([], [])) as server:
        given = settings(server, align="grpo", grpo={**GRPO, "cpu_seconds": 0.001})
        found = align(place, "few", given)
    said = capsys.readouterr().err
    assert re.search(r"ends after \d+ CPU seconds: dpo.grpo.cpu_seconds allows 0.001", said)
    # The drafts are others with each version of the code, and the first step may make none better.
    assert found.aligned is not None and found.aligned.rows[0] <= 6
    assert [row["step"] for row in curves("few")] == [1]


def test_fewer_calls_than_a_step_takes_are_refused_before_one_is_made(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with chat_server() as server:
        # Two queries of three drafts at a step, and three queries held back, judged twice.
        given = settings(server, align="grpo", grpo={**GRPO, "calls": 19}, beta=0.3)
        with pytest.raises(ConfigError, match=r"dpo\.grpo\.calls allows 19.* may take 20"):
            align(place, "none", given)
        assert server.calls == 0
    said = capsys.readouterr().err
    assert "`align: grpo` does not use dpo.beta: dpo.grpo.kl, which is 0.04, keeps" in said
    assert "dpo.nll" not in said


@pytest.mark.parametrize(
    ("trained", "drafted", "said"),
    [
        (96, 90, r"dpo\.training\.max_length leaves 6 .*: raise max_length or lower max_tokens"),
        (600, 500, r"the model's context leaves 12 beside dpo\.ask\.drafting\.max_tokens: lower"),
    ],
)
def test_drafts_longer_than_what_is_trained_or_read_are_refused_before_one_is_made(
    place: Path, trained: int, drafted: int, said: str
) -> None:
    with chat_server() as server:
        ask = {"drafting": {"temperature": 1.0, "n": 3, "max_tokens": drafted}}
        training = {**TRAINING, "max_length": trained}
        given = settings(server, align="grpo", grpo=GRPO, ask=ask, training=training)
        with pytest.raises(ContractError, match=said):
            align(place, "none", given)
        assert server.calls == 0


def sizes(rows: Iterable[PreferencePair]) -> list[int]:
    """The number of tokens of each row's longest side, by the tiny model's tokenizer."""
    chat = hf.open_chat(HFConfig(model=str(tiny.model())))
    found = []
    for row in rows:
        sides = filter(None, (row.chosen, row.rejected))
        found.append(max(len(chat.learned(row.prompt, side[-1].content)) for side in sides))
    return found


def on_positions(folder: Path, positions: int) -> tuple[Path, dict[str, Any]]:
    """A policy on a model that learned so many positions, and the setting that names it."""
    model = tiny.make_padded("gpt_neo", folder / "neo", window=256, positions=positions)
    return make_policy(folder / "made", model), {"model": str(model)}


@pytest.mark.parametrize("align_by", ["dpo", "kto"])
def test_rows_that_reach_beyond_the_models_positions_are_left_out(
    place: Path, align_by: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A draft that filled the context has its end where such a model has no position."""
    rows = list(io.read(place / "pairs.jsonl", PreferencePair))
    if align_by == "kto":
        for number, row in enumerate(rows):
            side = "rejected" if number % 2 else "chosen"
            rows[number] = row.model_copy(update={side: ()})
    found = sizes(rows)
    most = max(found) - 1
    long = sum(size > most for size in found)
    for folder, positions in ((tmp_path / "some", most), (tmp_path / "all", min(found) - 1)):
        made, policy = on_positions(folder, positions)
        io.write(made / "pairs.jsonl", rows)
        refused = pytest.raises(ContractError, match="none is left to learn from")
        with chat_server() as server, refused if positions < most else nullcontext():
            given = settings(server, align=align_by, policy=policy)
            made_of = align(made, f"out-{folder.name}", given).aligned
    # Plain DPO keeps no account of its rows.
    assert made_of is None or made_of.rows == (len(rows) - long,)
    said = capsys.readouterr().err
    assert f"{long} of {len(rows)} rows have more than {most} tokens with their ends" in said
    assert Path("out-some").exists() and not Path("out-all").exists()


def test_grpo_leaves_out_drafts_that_reach_beyond_the_models_positions(
    place: Path, tmp_path: Path
) -> None:
    chat = hf.open_chat(HFConfig(model=str(tiny.model())))
    draft = version.expect(place / "policy").prompts.draft
    asked = [
        len(chat.asked(draft.render(one.prompt))) for one in queries_of(place / "feedback.jsonl")
    ]
    made, policy = on_positions(tmp_path, max(asked) + 10)
    with chat_server(otherwise=answers([], [])) as server:
        given = settings(server, align="grpo", grpo={**GRPO, "calls": 40}, policy=policy)
        found = align(made, "out", given)
    assert found.aligned is not None


@pytest.mark.parametrize("judge", [False, True])
def test_a_strong_model_or_a_judge_may_be_decoded_by_vllm(place: Path, judge: bool) -> None:
    """The training starts: only its limit of calls is too low."""
    model = {"provider": "vllm", "model": str(tiny.model()), "python": "/opt/vllm/bin/python"}
    ask = {"scorer": {"scorer": "judge", "model": model}} if judge else {"strong": model}
    with chat_server() as server:
        given = settings(server, align="grpo", grpo={**GRPO, "calls": 19}, ask=ask)
        with pytest.raises(ConfigError, match=r"dpo\.grpo\.calls allows 19"):
            align(place, "none", given)


def test_a_training_goes_on_under_settings_that_change_no_row_and_under_no_others(
    place: Path,
) -> None:
    """It goes on with more failed rows allowed and at another price; other prompts are another."""
    stops, servers = [55], []
    with chat_server(otherwise=answers(servers, stops)) as server:
        servers.append(server)
        more: dict[str, Any] = {"align": "grpo", "grpo": GRPO, "checkpoint_minutes": 0}
        with pytest.raises(CoWestError):
            align(place, "cut", settings(server, **more))
        stops.clear()
        (kept,) = Path(".cowest/training").iterdir()
        strong = {"provider": "openai", "model": "m", "base_url": server.url, "key_env": None}
        strong |= {"concurrency": 1, "price": {"prompt": 1.0, "completion": 2.0}}
        given = settings(server, **more, ask={"max_failed": 5, "strong": strong})
        align(place, "cut", given)
        assert not kept.exists(), "it went on in the folder of the first"
        asked = server.asked()
        assert sum(asked.values()) - len(asked) <= 1, "an answered call was made again"
        stops.append(server.calls + 55)
        other = Path("other").absolute()
        shutil.copytree(place, other)
        found = version.expect(other / "policy")
        refine = found.prompts.refine.model_copy(update={"system": "Be brief."})
        prompts = found.prompts.model_copy(update={"refine": refine})
        version.write(other / "policy", base=found.base, prompts=prompts, trained="sft")
        with pytest.raises(CoWestError):
            align(other, "cut", settings(server, **more))
        (anew,) = Path(".cowest/training").iterdir()
        assert anew != kept


def test_the_cpu_time_before_a_stop_counts(place: Path) -> None:
    stops, servers = [55], []
    times: list[dict[str, float]] = []
    with chat_server(otherwise=answers(servers, stops)) as server:
        servers.append(server)
        limit = {**GRPO, "cpu_seconds": 10_000}
        given = settings(server, align="grpo", grpo=limit, checkpoint_minutes=0)
        for calls in (55, 75):
            stops[:] = [calls]
            with pytest.raises(CoWestError):
                align(place, "cut", given)
            (kept,) = Path(".cowest/training").glob("*/asked.json")
            times.append(json.loads(kept.read_text())["cpu"])
    first, second = times
    assert list(first.values()) == sorted(first.values()) and 0 < first["1"] < first["5"]
    assert second["1"] == first["1"] and len(second) > len(first)
    assert min(second[step] for step in set(second) - set(first)) > first["5"]


# A call is claimed at 200 tokens of an answer and those of its prompt, and settled at 3 and 7.
@pytest.mark.parametrize("budget", [Budget(usd=0.25), Budget(tokens=1650)], ids=["money", "tokens"])
def test_grpo_ends_with_the_best_so_far_when_the_budget_does(
    budget: Budget,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COWEST_TURN", "t")
    with chat_server(otherwise=answers([], [])) as server:
        expensive = {"provider": "openai", "model": "m", "base_url": server.url, "key_env": None}
        expensive |= {"price": {"prompt": 0.0, "completion": 1000.0}, "concurrency": 1}
        given = settings(server, align="grpo", grpo=GRPO, ask={"strong": expensive})
        open_turn(store.open_store(), "t", budget)
        # Calls count for the turn within a stage alone.
        with store.accounting("dpo") as account:
            found = align(place, "few", given)
        assert account.requests == account.answered + account.aside
        said = capsys.readouterr().err
        assert "dpo: training ends early:" in said
        assert found.aligned is not None and 10 < server.calls < 54
        best = re.search(
            r"after step (\d+) is the best: ([\d.]+) on the 3 .* ([\d.]+) before", said
        )
        assert best is not None
        assert (float(best[2]) > float(best[3])) == (best[1] != "0")
        assert same_weights(Path("few"), place / "policy") == (best[1] == "0")
        open_turn(store.open_store(), "t", Budget(usd=0.0001))
        other = {"strong": {**expensive, "model": "another"}}
        with pytest.raises(BudgetError), store.accounting("dpo"):
            align(place, "none", settings(server, align="grpo", grpo=GRPO, ask=other))


def test_grpo_that_made_nothing_better_hands_on_the_policy(place: Path) -> None:
    with chat_server(otherwise=Fate(body=completion("no idea"))) as server:
        given = settings(server, align="grpo", grpo={**GRPO, "calls": 40})
        align(place, "same", given)
        assert 20 < server.calls <= 40, "it was trained for two steps, and no more"
    assert same_weights(Path("same"), place / "policy")


def hosted() -> dict[str, Any]:
    """Feedback of a hosted strong model."""
    strong = {"provider": "openai", "model": "m", "base_url": "http://127.0.0.1:1/v1"}
    return {"strong": strong, "scorer": {"scorer": "contains"}}


def batched(judge: bool = False) -> dict[str, Any]:
    """Feedback of which one model answers in batches."""
    strong = {"provider": "openai", "model": "m", "base_url": "http://127.0.0.1:1/v1"}
    if not judge:
        return {"strong": {**strong, "batch": {}}, "scorer": {"scorer": "contains"}}
    scorer = {"scorer": "judge", "model": {**strong, "batch": {}}}
    return {"strong": strong, "scorer": scorer}


def test_a_failed_answer_makes_no_checkpoint_better_and_a_judge_is_announced(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the three queries held back one is right, and the answers to two are refused."""
    held_back: list[str] = []

    def answer(body: dict[str, Any]) -> Fate:
        said = body["messages"][-1]["content"]
        if body["model"] == "judge":
            return Fate(body=completion("10" if "Porto" in said else "0"))
        about = [number for number, text in enumerate(held_back) if text in said]
        if about == [0]:
            return Fate(body=completion("Porto"))
        refused = about and "Notes:" in said
        return Fate(body=completion("", "content_filter") if refused else completion("no idea"))

    with chat_server(otherwise=answer) as server:
        judge = {"provider": "openai", "model": "judge", "base_url": server.url, "key_env": None}
        ask = {"scorer": {"scorer": "judge", "model": judge}, "max_failed": None}
        given = settings(server, align="grpo", grpo={**GRPO, "calls": 30}, ask=ask)
        dev = rollouts.planned(place / "feedback.jsonl", given).dev
        held_back += [query.prompt[-1].content for query in dev]
        align(place, "few", given)
    said = capsys.readouterr().err
    assert "is the best: 0.333 on the 3 queries held back, 0.333 before training" in said
    announced = re.findall(r"dpo: (\d+) calls to (\S+) \(", said)
    assert [model.partition("@")[0] for _, model in announced] == ["m", "judge"]
    assert int(announced[1][0]) > int(announced[0][0]), "each draft is judged too"


def test_what_an_objective_needs_is_said_before_anything_is_asked() -> None:
    given = {"policy": {"model": "m"}, "training": {"learning_rate": 0.1}}
    for wrong, said in (
        ({"rounds": 2}, "ask: with more than one round"),
        ({"align": "grpo"}, "ask: with more than one round, or `align: grpo`"),
        ({"align": "kto", "loss": "ipo"}, "`align: kto` has a loss of its own"),
        ({"align": "kto", "step": "trl"}, "`align: kto` has a loss of its own"),
        ({"align": "grpo", "ask": hosted(), "step": "trl"}, "`align: grpo` has a loss of its own"),
        (
            {"align": "grpo", "ask": hosted(), "loss": "robust", "label_smoothing": 0.1},
            "leave `loss`, `label_smoothing` and `step` out",
        ),
        (
            {"align": "self", "ask": hosted() | {"rule": {"rule": "sign"}}, "rounds": 2},
            "ask.rule: `sign` compares with the strong model alone",
        ),
        ({"align": "grpo", "ask": batched()}, "ask: `align: grpo` waits for the answers"),
        ({"align": "grpo", "ask": batched(judge=True)}, "a batch takes hours: write"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            config.parse(dpo.DPOConfig, {**given, **wrong}, "dpo")
