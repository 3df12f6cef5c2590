"""What `choice` makes of the published completions of two strong models on MedMCQA, and whether a
careful person agrees.

    python -m tests.bench.medmcqa_parsing [--data FOLDER] [--write]

FOLDER holds dev.jsonl and strong_answers.jsonl (`{"id", "model", "completion"}`, from MIRAGE, Xiong
et al. 2024). With --write, the page docs/medmcqa-parsing.md is made anew. `medmcqa_verdicts.json`
holds the person's verdicts: id, model, letter or null.
"""

import argparse
import inspect
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from cowest.domains import domain
from cowest.records import Query
from cowest.scorers import choice
from tests.lines import ROOT
from tests.published import PUBLISHED

RULE: choice.RuleNumber = 2
PAGE = ROOT / "docs" / "medmcqa-parsing.md"
VERDICTS = Path(__file__).with_name("medmcqa_verdicts.json")
KINDS = {
    "empty": r"is empty",
    "several options named": r"names .* and ",
    "the endpoint's refusal or error, no completion": r"content management policy|Error "
    r"communicating|^'content'$",
    "none of the above, where that is no option": r'(?i)choice"\s*:\s*"[^"]*none of the',
}
"""Of what kind an unparseable completion is, the first that fits, in its reason or in its text."""


def queries(folder: Path) -> dict[str, Query]:
    """Each question by its published id."""
    lines = (folder / "dev.jsonl").read_text(encoding="utf-8").splitlines()
    rows = domain({"domain": "medmcqa", "draft": "direct"}).load(folder / "dev.jsonl")
    return {
        json.loads(lines[int(query.source.rpartition(":")[2]) - 1])["id"]: query for query in rows
    }


def answers(folder: Path) -> list[dict[str, str]]:
    """The completions."""
    return [
        json.loads(line)
        for line in (folder / "strong_answers.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def count(folder: Path) -> dict[str, Counter[str]]:
    """right, wrong and unparseable of each model, and the unparseable by kind."""
    known, found = queries(folder), {}
    for row in answers(folder):
        query, counts = known[row["id"]], found.setdefault(row["model"], Counter())
        said = choice.parse(row["completion"], query.choices, RULE)
        if isinstance(said, str):
            counts["unparseable"] += 1
            kinds = (
                kind
                for kind, sign in KINDS.items()
                if re.search(sign, said) or re.search(sign, row["completion"])
            )
            counts[f"of these: {next(kinds, 'another reason for naming none')}"] += 1
        else:
            counts["right" if said in choice.rights(query, RULE) else "wrong"] += 1
    return found


def agreement(folder: Path) -> dict[str, tuple[int, int]]:
    """How often the rule says what the person said, of how many, in each sample."""
    known = queries(folder)
    given = {(row["id"], row["model"]): row["completion"] for row in answers(folder)}
    found = {}
    for sample, verdicts in json.loads(VERDICTS.read_text(encoding="utf-8")).items():
        said = [
            (choice.parse(given[number, model], known[number].choices, RULE), letter)
            for number, model, letter in verdicts
        ]
        found[sample] = (
            sum((None if isinstance(one, str) else "ABCD"[one]) == letter for one, letter in said),
            len(verdicts),
        )
    return found


def page(folder: Path) -> str:
    """The page, from the files."""
    counts, agreed = count(folder), agreement(folder)
    models = sorted(counts)
    lines = [f"| | {' | '.join(models)} |", f"| --- |{' ---: |' * len(models)}"]
    kinds = sorted({kind for its in counts.values() for kind in its if kind.startswith("of these")})
    for kind in ("right", "wrong", "unparseable", *kinds):
        lines.append(f"| {kind} | {' | '.join(str(counts[model][kind]) for model in models)} |")
    shares: dict[str, Any] = {
        "right, of all": lambda its: (
            its["right"] / (its["right"] + its["wrong"] + its["unparseable"])
        ),
        "right, of those parsed": lambda its: its["right"] / (its["right"] + its["wrong"]),
    }
    for name, share in shares.items():
        lines.append(
            f"| {name} | {' | '.join(f'{share(counts[model]):.1%}' for model in models)} |"
        )
    rule = inspect.cleandoc(choice.parse.__doc__ or "").partition("\n\n")[2]
    return TEXT.format(
        table="\n".join(lines),
        rule=rule,
        any=agreed["any"],
        unusual=agreed["unusual"],
        sizes=agreed["any"][1],
    )


TEXT = """# Answers to MedMCQA, parsed

What the scorer `choice` (`rule: 2`) makes of the published completions of two real strong models (MIRAGE, Xiong et al. 2024: chain of thought, asked
for JSON with `step_by_step_thinking` and `answer_choice`) to the 3130 labelled questions of MedMCQA at hand. Made by
`python -m tests.bench.medmcqa_parsing --write`; the files themselves are not part of this repository.

{table}

Unparseable is counted apart and never guessed; in a score it is 0, as a wrong answer is. `reports/eval.json` has the three counts for
every system (`choices`).

## The rule

{rule}

Letters are A, B, C ... in the order of the options. An option's text is looked for as it is written, then without punctuation and
articles, then without case, other forms of letters and letters that can't be seen. Where two fields or a letter and a text name
different options, the answer is unparseable. So is one that is cut before its field is closed, that gives a letter beyond the options,
or that says "none of the above" where that is no option. So one answer of gpt-4-32k is wrong that rule 1 took for right: it could not
tell `Rh+ve` from `Rh-ve`.

## Against a person

Before the rule was written, {sizes} completions drawn at random (seed 5, of all 6260) were read one by one, and what each of them
answers was written down (a letter, or nothing): {any[0]} of {any[1]} agree. The unusual ones are where a rule goes wrong, so a
second hundred was drawn (seed 6) from those whose JSON is broken or whose `answer_choice` is no bare letter: {unusual[0]} of
{unusual[1]} agree. The verdicts are in `tests/bench/medmcqa_verdicts.json`, and a test holds the rule to them where the files are
at hand.

The reader was the author of the rule, a language model working on this project and no physician; nothing medical had to be judged, only
what is said. Of each completion the question, the options and the end (110 to 420 characters, with the whole answer field) were read.

What the reading mended: the rule before it knew no JSON field and agreed on 21 and 24 of the hundreds. The first rule that did agreed on
99 and 99: it took `N/A` for an A. Then the result of every completion was looked through whose field is neither a bare letter nor a
letter with exactly its option's text (about 400); that found `A. Buccal groove. B. Lingual groove.`, which was taken for an A and
names two.

Judgement calls that the counts rest on: the field is the answer, even where the reasoning before it argues for another option; a letter
with a misspelt or differently worded text (`D. Rheumatic heart disease` for an option that lost its "rt") is that letter; `D. None of the
above` is no D where D is something else; where the data has the right option twice, either letter is right.
"""  # noqa: E501 (a page in Markdown)


def main() -> None:
    """Prints the page, or writes it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--data", type=Path, default=PUBLISHED["medmcqa"], help="the folder of the two files"
    )
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    given = parser.parse_args()
    if given.write:
        PAGE.write_text(page(given.data), encoding="utf-8")
    else:
        print(page(given.data))


if __name__ == "__main__":
    main()
