"""The model card of an exported version: README.md, as the Hugging Face hub reads it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from cowest import __version__
from cowest.models import embedded
from cowest.records import Comparison, DataSet, Decision, EvalReport
from cowest.registry.log import find
from cowest.report.description import VERDICTS, as_text, data_table, row, systems_table
from cowest.report.words import general, interval, signed
from cowest.version import Version

METHOD = """\
A small *policy* drafts, and a strong general model reads question and draft and writes the \
answer. The policy was first trained on the texts of its domain (SFT with LoRA). {aligned} After \
Jiao et al., "Synergistic Weak-Strong Collaboration by Aligning Preferences", ACL 2025, arXiv \
2504.15188. Made with CoWest {cowest}."""
FED_BACK = """\
Then it drafted several times for each training question; the strong model answered with each \
draft and without one; and"""
ALIGNED = {
    "dpo": f"{FED_BACK} preference pairs of drafts that helped more and less aligned it (DPO).",
    "kto": f"{FED_BACK} drafts that helped and drafts that did not, each alone, aligned it (KTO).",
    "self": "Then it drafted several times for each training question, and pairs of drafts that "
    "scored higher and lower by themselves aligned it (DPO); no strong model was asked.",
    "grpo": "Then it drafted for training questions again and again, and was rewarded for drafts "
    "with which the strong model answered better than without (GRPO).",
}
"""The way in which the policy was aligned, by objective."""
ACTS = {"rollback": "Brought back", "approval": "Approved"}
"""The acts of a person that make a version champion, in words."""
USE = """\
```python
import json

{imports}

tokenizer = AutoTokenizer.from_pretrained(".")
{loading}

question = "..."
prompts = json.load(open("prompts.json"))
draft = prompts["draft"]
messages = [{{"role": "system", "content": draft["system"]}}] if draft["system"] else []
for shot in draft["shots"]:
    messages.append({{"role": "user", "content": shot["user"]}})
    messages.append({{"role": "assistant", "content": shot["assistant"]}})
messages.append({{"role": "user", "content": draft["user"].replace("{{query}}", question)}})
asked = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
made = model.generate(**asked, max_new_tokens={tokens}, do_sample=False)
print(tokenizer.decode(made[0, asked["input_ids"].shape[1]:], skip_special_tokens=True))
```"""
ADAPTER = (
    "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer",
    'base = AutoModelForCausalLM.from_pretrained("{base}")\n'
    'model = PeftModel.from_pretrained(base, ".")',
)
MERGED = (
    "from transformers import AutoModelForCausalLM, AutoTokenizer",
    'model = AutoModelForCausalLM.from_pretrained(".")',
)
"""Imports, and how the model is loaded."""
INTENDED = """\
To draft for a strong model on questions of the domain that it was trained on, with the prompts \
in `prompts.json` (`draft` for this model, `refine` for the strong one with `{draft}` in place). \
It is no assistant of its own: what it says alone may be wrong, and was judged only through the \
strong model's answers. Elsewhere than on that domain, with other prompts or another strong \
model, the numbers above say nothing."""
NO_REPORT = "The registry keeps no report on this version, so no numbers are known."


@dataclass(frozen=True, slots=True)
class About:
    """What a card says of the folder beside what the registry knows."""

    name: str
    base: str
    """The base model, by a name or a folder that it loads from."""
    licence: str
    """Licence of the base."""
    tokens: int
    """Token limit of a draft."""
    merged: bool


def base_of(model: str, folder: Path) -> str:
    """The base by what transformers load it from: its name on the hub, or else its folder."""
    if model in embedded.MODELS or Path(model).is_dir():
        return str(folder.absolute())
    return model


def write(
    about: About,
    made: Decision,
    log: Sequence[Decision],
    trained: Version,
    report: EvalReport | None,
    data: Mapping[str, DataSet],
) -> str:
    """The card of a version, by its decision in the log, the report that its turn was decided by,
    and its data.
    """
    imports, loading = MERGED if about.merged else ADAPTER
    loading = loading.format(base=about.base)
    kind = "The whole model, with the adapter merged into its base."
    if not about.merged:
        kind = f"A PEFT adapter (LoRA) on `{about.base}`."
    turn = _turn_of(made, log)
    parts = [
        head(about),
        f"# {about.name}",
        kind,
        METHOD.format(aligned=_aligned(trained), cowest=__version__),
        "## Use",
        USE.format(imports=imports, loading=loading, tokens=about.tokens),
        "## Evaluation",
        _evaluation(made, turn, report),
        "## Data and training",
        _rests_on(made, turn, trained, data),
        "## Intended use",
        INTENDED,
        "## Licence",
        f"Of the base model: {as_text(about.licence)}. It goes on to what is made of it; for the "
        "training data, ask who gave them.",
    ]
    return "\n\n".join(parts) + "\n"


def head(about: About) -> str:
    """What the hub reads; a licence that is none of its names stays out of it."""
    values: dict[str, object] = {
        "library_name": "transformers" if about.merged else "peft",
        "pipeline_tag": "text-generation",
        "tags": ["cowest"],
    }
    # The hub knows a base by its name there; a folder says nothing beyond this machine.
    if not Path(about.base).is_absolute():
        values["base_model"] = about.base
    named = about.licence.lower()
    if named.replace("-", "").replace(".", "").isalnum():
        values["license"] = named
    return f"---\n{yaml.safe_dump(values, sort_keys=True)}---"


def _turn_of(made: Decision, log: Sequence[Decision]) -> Decision | None:
    """The decision on the turn that made a version: an act enters an earlier version's files again.

    None if that version is in the registry no longer.
    """
    found: Decision | None = made
    # A log whose tags were changed by hand may name versions in a circle.
    for _ in log:
        if found is None or found.of is None:
            return found
        found = find(log, found.of)
    return None


def _aligned(trained: Version) -> str:
    """The way in which the policy was aligned; what was not recorded is one round of DPO."""
    if trained.aligned is None:
        return ALIGNED["dpo"]
    said, rounds = ALIGNED[trained.aligned.align], len(trained.aligned.rows)
    if rounds > 1:
        said += f" So it went for {rounds} rounds, each with drafts by the policy of the last."
    return said


def _decided(made: Decision, turn: Decision | None) -> str:
    """The verdict with its reason, and beside it the act that entered the version again."""
    said = "The registry has the decision on its turn no longer."
    if turn is not None:
        against = "no champion" if turn.against is None else f"version {turn.against}"
        verdict = VERDICTS.get(turn.verdict, turn.verdict)
        said = f"{verdict}, judged against {against}: {as_text(turn.reason)}"
    if made.of is None:
        return said
    act = ACTS.get(made.kind, "Entered again")
    return f"{said}\n\n{act} as version {made.version}: {as_text(made.reason)}"


def _evaluation(made: Decision, turn: Decision | None, report: EvalReport | None) -> str:
    decided = _decided(made, turn)
    if report is None:
        return f"{decided}\n\n{NO_REPORT}"
    split = f" of the split {report.split}" if report.split else ""
    measured = (
        f"Measured on {report.queries} held-out questions{split}, in {report.groups} groups, by "
        f"`{report.scorer}`, with `{report.strong}` as the strong model."
    )
    parts = [decided, measured, systems_table(report), _changes(report.comparisons)]
    known = general(report)
    return "\n\n".join(parts if known is None else [*parts, known])


def _changes(comparisons: Mapping[str, Comparison]) -> str:
    """What alignment changed, and the distance to the other systems."""
    # The best single model is one of the other systems, and has the same comparison twice.
    shown = {(one.of, one.over): one for one in comparisons.values() if one.of == "after"}
    lines: Sequence[str] = [
        row([f"{of} less {over}".replace("_", " "), signed(one.mean), interval(one)])
        for (of, over), one in shown.items()
    ]
    # The best single system is one of the others, so its difference is there twice.
    unique = dict.fromkeys(lines)
    return "\n".join(["| paired difference | mean | 95 % interval |", "|---|---|---|", *unique])


def _rests_on(
    made: Decision, turn: Decision | None, trained: Version, data: Mapping[str, DataSet]
) -> str:
    known = {
        "base": trained.base,
        "adapter": trained.adapter,
        "version": trained.digest,
        "turn": "unknown" if turn is None else turn.turn,
        "settings": made.tags.get("params", "unknown"),
        "code": made.tags.get("code", "unknown"),
    }
    lines = [row([name, value]) for name, value in known.items()]
    digests = "\n".join(["| what | digest |", "|---|---|", *lines])
    if not data:
        return f"The decision names no data sets.\n\n{digests}"
    return f"{data_table(data, whole=True)}\n\n{digests}"
