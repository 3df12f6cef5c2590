"""Settings, prompts and the command line: what is wrong is said in one line, before anything is
spent.
"""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from cowest import config
from cowest.cli import main
from cowest.config import Sampling
from cowest.errors import ConfigError
from cowest.prompts import Prompts, Template
from cowest.records import Message
from cowest.stages.refine import RefineConfig

REFINE = {"strong": {"provider": "hf", "model": "m"}, "prompts": "handbook"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sampling": {"temprature": 1}}, "sampling.temprature: unknown setting"),
        ({"sampling": {"max_tokens": "many"}}, "sampling.max_tokens: "),
        ({"sampling": {"temperature": float("nan")}}, "sampling.temperature: "),
        ({"sampling": {"temperature": 1, "n": 2}}, "n must be 1"),
        ({"strong": {"provider": "oracle"}}, "strong: "),
        ({"prompts": "novel"}, "'novel' is no domain"),
        ({"prompts": {"refine": {"user": "{query}"}, "solo": {}}}, "no {draft}"),
    ],
)
def test_a_wrong_setting_is_named_by_its_path(change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        config.parse(RefineConfig, {**REFINE, **change}, "params.yaml: refine")
    assert said in str(error.value) and "params.yaml: refine" in str(error.value)


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


def test_aliases_of_an_anchor_are_read(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("a: &x {b: 1}\nvalidate: {pairs: *x}\n")
    assert config.section(config.load(tmp_path / "params.yaml"), "validate@pairs") == {"b": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: [", "is not YAML"), ("- a", "expected a mapping"), ("{}", "no section refine")],
)
def test_params_that_are_none_are_said(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        config.section(config.load(path), "refine", str(path))


def test_a_conversation_is_put_as_a_transcript() -> None:
    prompt = (
        Message(role="user", content="Hi"),
        Message(role="assistant", content="Yes?"),
        Message(role="user", content="Why?"),
    )
    assert Template().render(prompt)[-1].content == "User: Hi\n\nAssistant: Yes?\n\nUser: Why?"


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
