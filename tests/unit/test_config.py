"""Settings, prompts and the command line: what is wrong is said in one line, before anything is
spent.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowest import config
from cowest.aligning.settings import Asking
from cowest.cli import main
from cowest.config import Sampling
from cowest.errors import ConfigError
from cowest.models.answer_config import AnswerConfig
from cowest.models.scripted import ScriptedConfig, ScriptedModel, ScriptRule
from cowest.prompts import Prompts, Template
from cowest.records import Message
from cowest.scorers.judge import JudgeConfig
from cowest.stages.draft import DraftConfig
from cowest.stages.evaluate import EvaluateConfig
from cowest.stages.refine import RefineConfig
from cowest.training import Optimiser
from tests.drawn import MESSAGES, TEXT

TEXTS = st.lists(TEXT, max_size=4)
SAMPLINGS = st.builds(
    Sampling,
    temperature=st.floats(0.1, 2.0),
    top_p=st.floats(0.1, 1.0),
    max_tokens=st.integers(1, 9),
    stop=st.lists(TEXT, max_size=2).map(tuple),
    n=st.integers(1, 3),
    seed=st.none() | st.integers(0, 9),
)
SCRIPT = ScriptedConfig(rules=(ScriptRule(replies=("yes",)),))
REFINE = {"strong": {"provider": "hf", "model": "m"}, "prompts": "handbook"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sampling": {"temprature": 1}}, "sampling.temprature: unknown setting"),
        ({"sampling": {"max_tokens": "many"}}, "sampling.max_tokens: "),
        ({"sampling": {"temperature": float("nan")}}, "sampling.temperature: "),
        ({"sampling": {"temperature": 1, "n": 2}}, "n must be 1"),
        ({"strong": {"provider": "oracle"}}, "strong: provider 'oracle' is none of 'hf', "),
        ({"strong": {"model": "m"}}, "strong: 'provider' is missing"),
        ({"prompts": "novel"}, "'novel' is no domain"),
        ({"prompts": {"refine": {"user": "{query}"}, "solo": {}}}, "no {draft}"),
    ],
)
def test_a_wrong_setting_is_named_by_its_path(change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        config.parse(RefineConfig, {**REFINE, **change}, "params.yaml: refine")
    assert said in str(error.value) and "params.yaml: refine" in str(error.value)


@pytest.mark.parametrize("kind", [Asking, EvaluateConfig, AnswerConfig])
def test_a_draft_has_one_refinement(kind: type[config.Config]) -> None:
    model = {"provider": "hf", "model": "m"}
    given: dict[str, object] = {"refining": {"temperature": 1, "n": 2}, "strong": model}
    given |= {} if kind is Asking else {"policy": model}
    given |= {} if kind is AnswerConfig else {"scorer": {"scorer": "contains"}}
    with pytest.raises(ConfigError, match=r"refining: n must be 1: a draft has one refinement"):
        config.parse(kind, given, "params.yaml")


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (RefineConfig, {**REFINE, "sampling": {"max_token": 9}}, "did you mean max_tokens?"),
        (RefineConfig, {**REFINE, "samplng": {}}, "did you mean sampling?"),
        (Optimiser, {"epoch": 2, "learning_rate": 0.1}, "did you mean epochs?"),
        (
            RefineConfig,
            {**REFINE, "strong": {"provider": "hf", "model": "m", "dtyp": "float32"}},
            "strong.hf.dtyp: unknown setting or field (did you mean dtype?)",
        ),
    ],
)
def test_a_mistyped_setting_names_the_nearest_one(
    kind: type[config.Config], values: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(kind, values, "params.yaml: refine")
    assert said in str(caught.value)


def test_a_setting_that_is_like_none_gets_no_guess() -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(RefineConfig, {**REFINE, "zzz": 1}, "params.yaml: refine")
    assert str(caught.value) == "params.yaml: refine: zzz: unknown setting or field"


def test_several_greedy_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match="n=3 at temperature 0"):
        config.parse(Sampling, {"n": 3}, "x")


def test_a_changed_prompt_is_a_changed_digest() -> None:
    resolved = config.parse(RefineConfig, REFINE, "x")
    other = resolved.model_copy(
        update={"prompts": Prompts(refine=Template(user="{draft} {query}"), solo=Template())}
    )
    assert resolved.prompts.refine.shots and config.digest(resolved) != config.digest(other)


def test_equal_settings_have_equal_digests_however_they_are_written() -> None:
    plain = config.parse(Sampling, {"temperature": 1, "n": 4}, "x")
    from_kfp = config.parse(Sampling, {"n": 4.0, "temperature": 1.0}, "x")
    assert config.digest(plain) == config.digest(from_kfp)


@given(TEXTS)
def test_a_key_of_texts_is_the_digest_of_their_list(texts: list[str]) -> None:
    assert config.key(*texts) == config.digest(texts)


@given(MESSAGES, TEXTS, TEXTS)
def test_a_querys_id_begins_the_digest_of_its_content(
    prompt: list[Message], targets: list[str], choices: list[str]
) -> None:
    expected = config.digest([prompt, targets, choices])
    assert config.query_id(prompt, targets, choices) == expected[:20]


@given(TEXT, MESSAGES, SAMPLINGS, st.integers(0, 5))
def test_a_calls_key_is_the_digest_of_what_its_answer_depends_on(
    model: str, messages: list[Message], sampling: Sampling, sample: int
) -> None:
    said = [[message.role, message.content] for message in messages]
    decoding = sampling.model_dump(mode="json", exclude={"n"})
    expected = config.digest([model, said, decoding, sample])
    assert config.call_key(model, messages, sampling, sample) == expected


def test_digests_that_data_sets_and_stores_hold_stay_what_they_were() -> None:
    message = Message(role="user", content='wer\n\u2028 "fragt" \x7f')
    assert config.key("a", 'b"\u2028\x00') == (
        "a10f109c01b07db6b03d8d264b2248421c5a0cb46f2faaa7a8cfba77cc76d751"
    )
    assert config.query_id([message], ["x"], ["x", "\u00e9"]) == "45923be4e17b560b4133"
    assert config.call_key("m@host/v1", [message], Sampling(max_tokens=8, n=1), 0) == (
        "0dab96e5ee091d77c39dfd2664f0fd577e2073c1719bc71dd3238b9b49c76051"
    )


OLD_KEYS = [
    (
        Sampling(),
        0,
        "384dcd623534c6c2b6fec2009f2d2d51bf652a0838563ed423a35673a0d52efe",
        "49290785992872eb90eb68bc3e153b0b07817009fc35de08790d642e35efb5f8",
        "d2d55cf209e5036828cf18adbd29eb777550dbf5e7b768d91a156b9f09949ad1",
    ),
    (
        Sampling(temperature=0.9, n=8, max_tokens=128),
        3,
        "e1d5b1f8ffe0ffec0549c2e2df409f5a5a1ea10b6ee1b2589d28ad949cb6ab30",
        "c4950501ce998a7337f4aaeb29073b6131275990e74aa38965c2ac32d25b30dd",
        "c7e1bb91cfaaa3944cc53598226460636b9cc850d0f218c2e3057db31cf3fcb2",
    ),
    (
        Sampling(temperature=0.7, top_p=0.95, max_tokens=20, stop=("\n", "\u3002")),
        1,
        "70489454f96089552a604d1f07616929fa0ed70ceeac229d019685605d1d6a7e",
        "4ecde17bcc8897c88f50c1f62a1c42ae77b6d39c8aa585dc5f6f493c04a8f871",
        "6c7b9b2ff4c4ad2f8021bd4e150a0402e59e0344689dbebad9492364ac1e5b6e",
    ),
]
"""Settings and a sample's number; then what the version without seeds made of them: the key of a
call of a local model, the key of a call of an endpoint, the digest of the settings."""


@pytest.mark.parametrize(("sampling", "sample", "local", "hosted", "settings"), OLD_KEYS)
def test_answers_that_were_stored_before_there_were_seeds_are_found_again(
    sampling: Sampling, sample: int, local: str, hosted: str, settings: str
) -> None:
    said = [
        Message(role="system", content="Kurz."),
        Message(role="user", content='wer\n "fragt" \u00e9'),
    ]
    assert config.call_key("tiny@0123456789ab+abcdef012345", said, sampling, sample) == local
    assert config.call_key("m@api.example/v1", said, sampling, sample) == hosted
    assert config.digest(sampling) == settings and "seed" not in sampling.model_dump_json()
    seeded = sampling.model_copy(update={"seed": 0})
    other = sampling.model_copy(update={"seed": 1})
    keys = {config.call_key("m", said, one, sample) for one in (sampling, seeded, other)}
    assert len(keys) == len({config.digest(one) for one in (sampling, seeded, other)}) == 3


def test_settings_without_a_seed_keep_their_digests() -> None:
    """Those of a stage and of a judge, as the version without seeds wrote them."""
    strong = {"provider": "openai", "model": "m"}
    prompts = {"refine": {"user": "{query} {draft}"}, "solo": {}}
    policy = {"policy": {"provider": "hf", "model": "m"}}
    judge = config.parse(JudgeConfig, {"model": strong}, "x").over(ScriptedModel(SCRIPT))
    assert judge.name.endswith(":4f142b58")
    assert config.digest(config.parse(DraftConfig, policy, "x").sampling) == OLD_KEYS[1][-1]
    seeded = config.parse(DraftConfig, {**policy, "sampling": {"seed": 7}}, "x")
    assert seeded.model_dump(mode="json")["sampling"]["seed"] == 7
    refine = config.parse(RefineConfig, {"strong": strong, "prompts": prompts}, "x")
    assert config.digest(refine.sampling) == OLD_KEYS[0][-1]


def test_training_without_settings_of_memory_keeps_its_digest() -> None:
    """A policy says by such a digest what it was trained with, and else would be trained again."""
    training = Optimiser(learning_rate=0.1)
    before = "8a757f93"
    assert config.digest(training)[:8] == before
    for setting in ({"gradient_accumulation": 2}, {"activation_checkpointing": True}):
        assert config.digest(training.model_copy(update=setting))[:8] != before


@pytest.mark.parametrize("seed", [-1, 2**31, 0.5, "often"])
def test_a_seed_is_a_count(seed: object) -> None:
    with pytest.raises(ConfigError, match="seed: "):
        config.parse(Sampling, {"seed": seed}, "x")


def test_aliases_of_an_anchor_are_read(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("a: &x {b: 1}\nvalidate: {pairs: *x}\n")
    assert config.section(config.load(tmp_path / "params.yaml"), "validate@pairs") == {"b": 1}


def test_a_key_that_is_written_twice_is_refused_and_a_merged_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("pin: {budget: {usd: 5}}\nseed: 7\n'pin': {by: me}\n")
    with pytest.raises(ConfigError, match=r"params.yaml: 'pin' is written twice, in lines 1 and 3"):
        config.load(path)
    path.write_text("a:\n  - {n: 4, n: 4}\n")
    with pytest.raises(ConfigError, match="'n' is written twice, in lines 2 and 2"):
        config.load(path)
    merged = (
        "b: {deep: {er: &y {<<: &z {n: 1, m: 1}, n: 2}}}\n"
        "c: {<<: *y, m: 3}\n"
        "d: {<<: *z, <<: *y, on: 1, 'on': 2}\n"
    )
    path.write_text(merged)
    assert config.load(path) == {
        "b": {"deep": {"er": {"n": 2, "m": 1}}},
        "c": {"n": 2, "m": 3},
        "d": {"n": 2, "m": 1, True: 1, "on": 2},
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "is not YAML"),
        ("a: {b: 1}}", "params.yaml is not YAML: .* at line 1, column 10"),
        ("a:\n  since: 2026-31-12", "params.yaml is not YAML: month must be .* at line 2, column"),
        ("[" * 5000, "is not YAML"),
        ("- a", "expected a mapping"),
        ("{}", "no section refine$"),
        ("refien: {}", "no section refine: is 'refien' meant to be it"),
    ],
)
def test_params_that_are_none_are_said(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        config.section(config.load(path), "refine", str(path))


def test_params_that_are_not_utf8_are_said_by_their_line(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(b"# \n" * 50_000 + "a: café\n".encode("latin-1"))
    said = r"params.yaml:50001: not UTF-8 \(byte 0xe9\): save the file as UTF-8$"
    with pytest.raises(ConfigError, match=said):
        config.load(path)


def test_a_folder_in_the_place_of_params_is_one_message(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.mkdir()
    for read in (config.load, config.enter):
        with pytest.raises(ConfigError, match=r"params.yaml: is a folder, not a file: run in"):
            read(path)


def test_a_conversation_is_put_as_a_transcript() -> None:
    prompt = (
        Message(role="user", content="Hi"),
        Message(role="assistant", content="Yes?"),
        Message(role="user", content="Why?"),
    )
    assert Template().render(prompt)[-1].content == "User: Hi\n\nAssistant: Yes?\n\nUser: Why?"


def test_settings_load_no_client() -> None:
    code = "import sys, cowest.preflight, cowest.stages.refine; print('aiohttp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from cowest.cli import main; main(['--help']); main(['status', '--help']) if "
        "0 else None;"
        "print([m for m in ('torch', 'transformers', 'trl', 'mlflow', 'pandas', "
        "'great_expectations', 'openai') if m in sys.modules])"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]" and "validate@queries" in done.stdout
    assert time.monotonic() - started < 20  # that it ends at all: speed is not tested here


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["nonsense"], 2, "neither a stage nor a command"),
        (
            [
                "score",
                "--refinements",
                "none.jsonl",
                "--feedback",
                "out.jsonl",
                "--params",
                "none.yaml",
            ],
            1,
            "none.yaml: no such file",
        ),
    ],
)
def test_the_command_line_says_what_is_wrong_in_a_line(
    argv: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == code
    told = capsys.readouterr().err
    assert said in told and "Traceback" not in told and len(told.strip().splitlines()) == 1


@pytest.mark.parametrize("words", ["--help", "--version"])
def test_an_output_that_cannot_be_written_is_said(words: str) -> None:
    command = [sys.executable, "-m", "cowest.cli", words]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("cowest: a file or the output: No space left on device")
    assert len(done.stderr.splitlines()) == 1
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_file_in_the_place_of_a_folder_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("{}")
    (tmp_path / "reports").touch()
    for page in ("reports/index.html", "reports/a/b.html"):
        assert main(["report", "--out", page]) == 1
        said = "cowest: reports is a file, and a folder is needed there: move it away\n"
        assert capsys.readouterr().err.endswith(said)


def test_without_an_output_it_runs_all_the_same() -> None:
    command = f"exec {sys.executable} -m cowest.cli --version >&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_missing_input_is_named_with_its_port(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "params.yaml").write_text("score: {scorer: {scorer: contains}}\n")
    flags = [
        "--refinements",
        str(tmp_path / "none"),
        "--feedback",
        str(tmp_path / "out"),
        "--params",
        str(tmp_path / "params.yaml"),
    ]
    assert main(["score", *flags]) == 1
    assert "refinements: " in capsys.readouterr().err and not (tmp_path / "out").exists()
