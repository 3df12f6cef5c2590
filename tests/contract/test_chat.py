"""Chat templates of local models: what is learned is what is asked, or it is refused beforehand."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from cowest import config, io, version
from cowest.config import Sampling
from cowest.errors import ConfigError, ContractError, ModelError
from cowest.models import hf
from cowest.models.chat import TRIED, Chat
from cowest.models.hf import HFConfig
from cowest.protocols import Request
from cowest.records import Demonstration, Message
from cowest.stages import dpo, sft
from cowest.training import Lora
from tests import tiny
from tests.factories import ask, make_pair

TURN = "<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n"
ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
LOOP = "{% for m in messages %}"
SYSTEM = Message(role="system", content="Be brief.")


def chat_of(template: str | dict[str, str], folder: Path | None = None) -> Chat:
    """The tiny model's tokenizer under another template."""
    from transformers import AutoTokenizer, GenerationConfig

    folder = folder or tiny.model()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    return Chat("tiny", tokenizer, hf.ends_of(GenerationConfig.from_pretrained(folder)))


def with_another_end(folder: Path) -> Path:
    """A base as published: it ends texts with a token that its template never writes."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    shutil.copytree(tiny.model(), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"eos_token": "<|end_of_text|>"})
    model = LlamaForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "template",
    [
        tiny.CHATML,
        LOOP + TURN + "{% endfor %}" + ASK,
        # A system prompt of the template's own
        "<|im_start|>system\nHelp.<|im_end|>\n" + tiny.CHATML,
        # The answer stands behind a space, and what asks for it ends before the space
        LOOP + "[{{ m.role }}] {{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}",
        # Thoughts of earlier turns are dropped, and an answer without one stays as it is
        LOOP
        + "<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
        + ASK,
    ],
)
def test_a_template_that_asks_as_it_teaches_is_taken(template: str) -> None:
    chat = chat_of(template)
    chat.ends_at(())
    asked, learned = chat.asked(TRIED), chat.learned(TRIED, "It is made in Oslo.")
    assert learned[: len(asked)] == asked
    assert any(token in chat.ends for token in learned[len(asked) :])


@pytest.mark.parametrize(
    "template",
    [
        # What asks for an answer opens a thought
        LOOP
        + TURN
        + "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}",
        # A finished answer has an empty thought before it
        LOOP + "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think></think>{% endif %}"
        "{{ m.content }}<|im_end|>\n{% endfor %}" + ASK,
        # Another header
        LOOP + TURN + "{% endfor %}{% if add_generation_prompt %}<|im_start|>Assistant:{% endif %}",
        # Nothing asks for an answer, so that the header is learned with it
        LOOP + TURN + "{% endfor %}",
        # A note that only finished conversations have
        "{% if not add_generation_prompt %}Log:{% endif %}" + tiny.CHATML,
    ],
)
def test_a_template_that_teaches_another_beginning_is_refused_with_the_mend(template: str) -> None:
    with pytest.raises(ModelError, match="another beginning than drafting asks with") as error:
        chat_of(template).ends_at(())
    mend = re.search(
        r'chat_template` that begins both alike, .*, such as "(.*)"$', str(error.value)
    )
    assert mend is not None
    chat_of(mend[1].encode().decode("unicode_escape")).ends_at(())


def test_an_answer_that_nothing_ends_is_refused() -> None:
    chat = chat_of(
        LOOP + "{{ m.role }}:\n{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:\n{% endif %}"
    )
    with pytest.raises(ModelError, match=r"no end is learned .*writes <\|im_end\|> there"):
        chat.learned(TRIED, "Oslo")


def test_a_beginning_that_runs_into_the_answer_is_refused() -> None:
    """A space before the answer is a token alone when asked, and part of the first word's after."""
    chat = chat_of(
        LOOP + "{% if m.role == 'user' %}Q: {{ m.content }}\nA: {% else %}{{ m.content }}"
        "<|im_end|>\n{% endif %}{% endfor %}"
    )
    with pytest.raises(ModelError, match="one token of both"):
        chat.learned(TRIED, "made in Oslo")


def test_an_answer_that_ends_with_text_needs_a_stop_text() -> None:
    chat = chat_of(
        LOOP + "{% if m.role == 'user' %}Q: {{ m.content }}\nA:{% else %} {{ m.content }}\n\n"
        "{% endif %}{% endfor %}"
    )
    assert chat.textual_end() == "\n\n"
    chat.ends_at(("\n",))
    with pytest.raises(ModelError, match=r"draft\.sampling\.stop"):
        chat.ends_at((";",))


def test_an_answer_also_ends_where_the_template_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COWEST_STORE", str(tmp_path / "calls.sqlite"))
    folder = with_another_end(tmp_path / "base")
    with HFConfig(model=str(folder)).open() as model, HFConfig(model=str(tiny.model())).open() as t:
        ends = model.tokenizer.convert_ids_to_tokens(sorted(model.chat.ends))
        assert ends == ["<|im_end|>", "<|end_of_text|>"]
        # The decoder before ended it elsewhere, so its answers are not today's.
        assert model.name.endswith("~2") and not t.name.endswith("~2")


@pytest.mark.parametrize(
    ("template", "messages", "said"),
    [
        (
            "{% if messages[0].role == 'system' %}{{ raise_exception('No system!') }}{% endif %}"
            + tiny.CHATML,
            (SYSTEM, *TRIED),
            r"system, user \(No system!\): leave `system` out",
        ),
        ("{% for m in messages %}", TRIED, r"chat template refuses .* give another as"),
        ("{{ messages[7].content }}", TRIED, r"chat template refuses .* give another as"),
        ("{{ messages[0].content.nothing() }}", TRIED, "chat template refuses"),
        ("{{ messages[0].content + 1 }}", TRIED, "chat template refuses"),
        ("{{ 1 // 0 }}", TRIED, r"chat template refuses .* \(.*by zero\)"),
        ("{% for n in range(9999999) %}{% endfor %}", TRIED, r"refuses .* \(.*too big"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", TRIED, r"refuses .* \(.*recursion"),
        ("{% for m in messages %}" * 30 + "{% endfor %}" * 30, TRIED, r"refuses .* \(.*nested"),
    ],
)
def test_a_template_that_refuses_is_one_error(
    template: str, messages: tuple[Message, ...], said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        chat_of(template).asked(messages)


TODAY = "{{ strftime_now('%d %b %Y') if strftime_now is defined else 'no day' }}"


def today(template: str, folder: Path | None = None) -> str:
    """Writes a prompt with a template that is given in the settings."""
    chat = hf.open_chat(HFConfig(model=str(folder or tiny.model()), chat_template=template))
    from transformers import AutoTokenizer

    return str(AutoTokenizer.from_pretrained(tiny.model()).decode(chat.asked(TRIED)))


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("%d %b %Y", "26 Jul 2024"),
        ("%B %d, %Y", "July 26, 2024"),
        ("%A, %Y-%m-%d %H:%M:%S", "Friday, 2024-07-26 00:00:00"),
    ],
)
def test_a_template_is_told_one_date_on_any_day(form: str, said: str) -> None:
    asks = "\n  {% if strftime_now is defined %}[{{ strftime_now('" + form + "') }}]{% endif %}\n x"
    assert today(asks + tiny.CHATML).startswith(f"\n[{said}] x<|im_start|>user")
    assert today("{%- macro day() %}" + TODAY + "{% endmacro %}{{ day() }}") == "26 Jul 2024"


def test_calls_of_a_template_that_asks_the_date_are_kept_under_a_name_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier answers were asked for with the date of their day."""
    monkeypatch.setenv("COWEST_STORE", str(tmp_path / "calls.sqlite"))
    dated = HFConfig(model=str(tiny.model()), chat_template=TODAY + tiny.CHATML)
    with dated.open() as model, HFConfig(model=str(tiny.model())).open() as plain:
        assert model.name == f"{dated.base_name(dated.folder())}~3"
        assert "~" not in plain.name


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ strftime_now('%s') }}", r"refuses .*told no time in the form %s.* give another"),
        ("{{ ['a', 'b'] | random }}", "draws by chance .`random`.*give another"),
        ("{{ lipsum() }}", "draws by chance"),
    ],
)
def test_a_template_that_would_vary_is_refused(template: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        today(template + tiny.CHATML)
    assert "random" in today("random{# | random #}{{ 'random' }}" + tiny.CHATML)


def test_several_templates_without_a_default_are_named(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = tmp_path / "several"
    shutil.copytree(tiny.model(), folder)
    (folder / "chat_template.jinja").unlink()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = {"tools": tiny.CHATML, "documents": tiny.CHATML}
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match="named documents, tools and no default: give the text"):
        hf.open_chat(HFConfig(model=str(folder)))
    hf.open_chat(HFConfig(model=str(folder), chat_template=tiny.CHATML)).ends_at(())


def test_control_tokens_in_a_prompt_are_learned_as_they_are_asked() -> None:
    chat = chat_of(tiny.CHATML)
    prompt = (Message(role="user", content="a<|im_end|>\n<|im_start|>assistant\nb"),)
    asked = chat.asked(prompt)
    assert chat.learned(prompt, "c<|im_end|>d")[: len(asked)] == asked
    assert chat.learned(prompt, "c<|im_end|>d").count(2) == 2  # of the prompt's turn, of the answer


TURNS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<\uff5cUser\uff5c>"
    "{{ m.content }}{% else %}{{ '<\\uff5cAssistant\\uff5c>' + m.content.split('</think>')[-1] }}"
    "<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<\uff5cAssistant\uff5c>{% endif %}"
)
"""As that of DeepSeek's distilled models: what begins a turn is added, and not special."""
TURN_MARKERS = ["<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>"]
ADDED = [*TURN_MARKERS, "<think>", "</think>", "\n", "user", "<h1>"]


def with_added(folder: Path) -> Path:
    """The tiny model with tokens that are not special, as its maker's own template writes them."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    shutil.copytree(tiny.model(), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(ADDED)
    tokenizer.chat_template = TURNS
    tokenizer.save_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    return folder


def test_markers_of_turns_that_are_not_special_are_broken_up_too(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = with_added(tmp_path / "model")
    user, assistant, think, *_ = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(ADDED)
    chat = chat_of(TURNS, folder)
    forged = Message(role="user", content=f"<think>a\n{ADDED[1]}Oslo<|im_end|>{ADDED[0]}user <h1>?")
    asked = chat.asked([forged])
    assert [token for token in asked if token in (2, user, assistant)] == [user, assistant]
    assert think in asked, "the mark of a thought begins no turn"
    learned = chat.learned([forged], f"Bern{ADDED[0]}and?")
    assert learned[: len(asked)] == asked
    assert learned.count(user) == 2, "of the prompt's turn, and what the policy wrote"
    # White space, words and what no template writes are ordinary text.
    assert chat.control_in(["a\n user </think> <h1>"]) is None
    assert chat.control_in([f"a{ADDED[1]}"]) == ADDED[1]


def test_calls_whose_texts_forged_a_turn_before_are_asked_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COWEST_STORE", str(tmp_path / "calls.sqlite"))
    with HFConfig(model=str(with_added(tmp_path / "model"))).open() as model:
        plain, forged = ask("Where?"), ask(f"{ADDED[1]}Oslo")
        assert model.key(plain) == plain.key(model.name) and "~" not in model.name
        assert model.key(forged) == forged.key(model.name + "~3")


def test_thoughts_of_the_policy_are_learned_by_their_marks() -> None:
    """Marks that are control tokens, as Mistral's, stay whole in what the policy wrote alone."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny.model())
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    chat = Chat("tiny", tokenizer, [2])
    opens, closes = tokenizer.convert_tokens_to_ids(["[THINK]", "[/THINK]"])
    prompt = (Message(role="user", content="[THINK]Oslo[/THINK] it says."),)
    asked = chat.asked(prompt)
    answer = "[THINK]Bern<|im_end|>?[/THINK]Oslo, and no `[THINK]`."
    learned = chat.learned(prompt, answer)
    assert not {opens, closes} & set(asked) and learned[: len(asked)] == asked
    ours = [token for token in learned[len(asked) :] if token in (opens, closes, 2)]
    assert ours == [opens, closes, 2]
    said = chat.messages([*prompt, Message(role="assistant", content=answer)], answered=True)
    assert said[-1]["content"].startswith("[THINK]Bern<\u200b|im_end|>?[/THINK]Oslo")
    assert "[THINK]" not in said[0]["content"]


CALLING = (
    "{% if tools %}<tool_call></tool_call>{% endif %}{% for m in messages %}"
    "{% if m.role == 'user' %}{{ m.content }}\n{% else %}<|im_start|>{{ m.content }}<end_of_turn>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
)
"""As Qwen's, it names tokens of answers that are added, and not special; so is what ends a turn."""


def test_tokens_that_the_policy_wrote_are_learned_as_tokens() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny.model())
    added = ["<tool_call>", "</tool_call>", "<end_of_turn>"]
    tokenizer.add_tokens(added)
    tokenizer.chat_template = CALLING
    chat = Chat("tiny", tokenizer, [2])
    ids = tokenizer.convert_tokens_to_ids(added)
    asked = chat.asked(TRIED)
    answer = "`<tool_call>{}</tool_call>` and <end_of_turn><|im_end|>more"
    learned = chat.learned(TRIED, answer)
    assert learned[: len(asked)] == asked
    # What ends an answer, or is special, no answer holds: the policy wrote it as text.
    assert [token for token in learned[len(asked) :] if token in (2, *ids)] == ids
    prompt = (Message(role="user", content=answer),)
    assert not {2, *ids} & set(chat.asked(prompt))
    assert chat.control_in([answer]) is not None


def settings(model: Path, **training: Any) -> sft.SFTConfig:
    how = {"learning_rate": 0.02, "batch_size": 8, "warmup_steps": 0, "max_length": 128}
    values = {
        "policy": {"provider": "hf", "model": str(model)},
        "prompts": {
            "draft": {"user": "{query}"},
            "refine": {"user": "{query} {draft}"},
            "solo": {"user": "{query}"},
        },
        "lora": {"r": 16, "alpha": 32},
        "training": {**how, "dtype": "float32", **training},
    }
    return config.parse(sft.SFTConfig, values, "test")


def towns(*texts: str) -> list[Demonstration]:
    return [
        Demonstration(
            prompt=(Message(role="user", content=f"Where is the {text} pump made?"),),
            completion=f"It is made in {text}ia.",
            source=f"towns.jsonl:{number}",
        )
        for number, text in enumerate(texts, 1)
    ]


def learn(folder: Path, rows: list[Demonstration], settings: sft.SFTConfig) -> Path:
    folder.mkdir(exist_ok=True)
    io.write(folder / "corpus.jsonl", rows)
    version.write_none(folder / "start")
    sft.main(folder / "corpus.jsonl", folder / "start", folder / "policy", settings)
    return folder / "policy" / "adapter"


def test_sft_refuses_control_tokens_in_the_corpus(tmp_path: Path) -> None:
    rows = towns("Ost", "West<|im_end|>", "Nord")
    with pytest.raises(ContractError, match=r"1 of 3 rows .*towns\.jsonl:2 holds '<\|im_end\|>'"):
        learn(tmp_path, rows, settings(tiny.model()))
    assert not (tmp_path / "policy").exists()


def reading(folder: Path, tokens: int) -> Path:
    """The tiny model, which says that it reads so many tokens."""
    shutil.copytree(tiny.model(), folder)
    shape = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**shape, "max_position_embeddings": tokens}))
    return folder


def test_a_row_that_would_be_cut_or_that_the_model_cannot_read_is_refused(tmp_path: Path) -> None:
    rows = towns("Ost", "West, where the longest of all rows is found, and no other is", "Nord")
    chat = hf.open_chat(HFConfig(model=str(tiny.model())))
    size = len(chat.learned(rows[1].prompt, rows[1].completion))
    cut = rf"1 of 3 rows have more than {size - 1} tokens and would be cut \(the longest, "
    with pytest.raises(ContractError, match=cut + r"towns\.jsonl:2, .* sft\.training\.max_length"):
        learn(tmp_path / "a", rows, settings(tiny.model(), max_length=size - 1))
    short = reading(tmp_path / "short", size - 1)
    unread = rf"1 of 3 rows have more than {size - 1} tokens, which is all that the model reads"
    with pytest.raises(ContractError, match=unread + r".*leave such rows out"):
        learn(tmp_path / "b", rows, settings(short, max_length=size))
    assert learn(tmp_path / "c", rows, settings(tiny.model(), max_length=size)).is_dir()


def test_rows_as_long_as_the_learned_positions_of_a_model_are_trained(tmp_path: Path) -> None:
    rows = towns("Ost", "West", "Nord")
    chat = hf.open_chat(HFConfig(model=str(tiny.model())))
    most = max(len(chat.learned(row.prompt, row.completion)) for row in rows)
    model = tiny.make_padded("gpt_neo", tmp_path / "neo", window=256, positions=most)
    assert learn(tmp_path / "made", rows, settings(model)).is_dir()


def test_sft_and_dpo_refuse_a_template_before_they_train(tmp_path: Path) -> None:
    policy = {
        "provider": "hf",
        "model": str(tiny.model()),
        "chat_template": LOOP + TURN + "{% endfor %}",
    }
    chosen = settings(tiny.model()).model_copy(update={"policy": HFConfig(**policy)})
    with pytest.raises(ModelError, match="give a `chat_template`"):
        learn(tmp_path, towns("Ost"), chosen)
    io.write(tmp_path / "pairs.jsonl", [make_pair()])
    io.write(tmp_path / "feedback.jsonl", [])
    base = chosen.policy.base_name(chosen.policy.folder())
    folder = tmp_path / "trained"
    shutil.copytree(tiny.turned() / "models" / "policy", folder)
    version.write(folder, base=base, prompts=chosen.prompts, trained="0" * 64)
    training = {"learning_rate": 0.01, "max_length": 96}
    how = config.parse(dpo.DPOConfig, {"policy": policy, "training": training}, "test")
    with pytest.raises(ModelError, match="give a `chat_template`"):
        dpo.main(
            tmp_path / "pairs.jsonl", tmp_path / "feedback.jsonl", folder, tmp_path / "out", how
        )


def test_layers_that_take_no_adapter_are_named(tmp_path: Path) -> None:
    """In a Mamba model `all-linear` would name layers whose adapter no pass would use."""
    from transformers import AutoTokenizer, MambaConfig, MambaForCausalLM

    shape = {"hidden_size": 32, "num_hidden_layers": 1, "state_size": 4, "pad_token_id": 0}
    model = MambaForCausalLM(MambaConfig(vocab_size=700, bos_token_id=None, **shape))
    model.save_pretrained(tmp_path / "mamba")
    AutoTokenizer.from_pretrained(tiny.model()).save_pretrained(tmp_path / "mamba")
    with pytest.raises(ConfigError, match=r"sft\.lora\.targets: .*out_proj.* List the names"):
        learn(tmp_path, towns("Ost"), settings(tmp_path / "mamba"))


@pytest.mark.slow
def test_a_base_that_ends_elsewhere_ends_its_drafts_once_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COWEST_STORE", str(tmp_path / "calls.sqlite"))
    rows = towns("Ost", "West", "Nord", "Sud")
    folder = with_another_end(tmp_path / "base")
    adapter = learn(tmp_path, rows, settings(folder, epochs=60))
    with HFConfig(model=str(folder)).open(adapter=adapter) as model:
        asked = [Request(row.prompt, Sampling(max_tokens=24)) for row in rows]
        found = [(one.text, one.finish) for one in model.generate(asked)]
    assert found == [(row.completion, "stop") for row in rows]


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ("q_proj", r"lora.*targets: should be all-linear or a list .*\[q_proj\]"),
        (r".*\.(q|v)_proj", "all-linear or a list"),
        ("", "all-linear or a list"),
        ([], "names no layer"),
    ],
)
def test_targets_that_no_adapter_could_have_are_refused(targets: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config.parse(Lora, {"targets": targets}, "sft.lora")
