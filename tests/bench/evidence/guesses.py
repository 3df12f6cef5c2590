"""The strong model before a wrong guess, with the shot that is answered by its guess and without.

    python -m tests.bench.evidence.guesses DRAFTS

DRAFTS is the drafts.jsonl of a turn of the demo. One of the handbook's seven shots has a
guess as its note, and the guess as its answer. Each different question with a wrong guess as its
draft is put to the demo's strong model, greedily, by both prompts.
"""

import sys
from pathlib import Path

from cowest import collaboration, io
from cowest.config import Sampling, load, parse
from cowest.domains import invent
from cowest.domains.handbook import PROMPTS
from cowest.models.hf import HFConfig
from cowest.prompts import Prompts
from cowest.records import Draft, Refinement
from cowest.sametext import normalise
from tests.lines import ROOT

START = invent.ANSWER.partition("{")[0]


def main(path: Path) -> None:
    """Prints the share of wrong guesses that the answer repeats, by both prompts."""
    drafts = wrong_guesses(path)
    params = load(ROOT / "params.yaml")
    strong = parse(HFConfig, params["models"]["strong"], "models.strong")
    sampling = parse(Sampling, params["refine"]["sampling"], "refine.sampling")
    for name, prompts in {"with the shot": PROMPTS, "without it": without_guess()}.items():
        repeated = 0
        with strong.open() as model:
            groups = ([draft] for draft in drafts)
            for row in collaboration.refine(groups, model, prompts, sampling):
                repeated += repeats(row)
        share = repeated / len(drafts)
        print(f"{name}: {repeated} of {len(drafts)} wrong guesses repeated ({share:.1%})")


def wrong_guesses(path: Path) -> list[Draft]:
    """A row for each different question and wrong guess."""
    found: dict[tuple[str, str], Draft] = {}
    for row in io.read(path, Draft):
        draft = row.draft or ""
        if draft.startswith(START) and _guess(draft) not in map(normalise, row.targets):
            found.setdefault((row.id, draft), row)
    return list(found.values())


def _guess(draft: str) -> str:
    return normalise(draft.removeprefix(START))


def repeats(row: Refinement) -> bool:
    """True if the answer says the draft's guess."""
    said = f" {normalise(row.refinement or '')} "
    return f" {_guess(row.draft or '')} " in said


def without_guess() -> Prompts:
    """The handbook's prompts without the shot whose note is a guess."""
    shots = [shot for shot in PROMPTS.refine.shots if START not in shot.user]
    assert len(shots) == len(PROMPTS.refine.shots) - 1
    refine = PROMPTS.refine.model_copy(update={"shots": tuple(shots)})
    return PROMPTS.model_copy(update={"refine": refine})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
