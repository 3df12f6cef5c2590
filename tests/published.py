"""Small data sets of our own invention in the published formats: what a domain is tested on
where the published ones are not at hand.
"""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.lines import ROOT

DATA = Path(os.environ.get("COWEST_DATA", ROOT.parent / "shared" / "data"))
"""The published files, where a developer has them: never part of the repository."""

PLACES = (
    "bridge",
    "tower",
    "canal",
    "market",
    "library",
    "station",
    "garden",
    "theatre",
    "museum",
    "harbour",
    "school",
    "mill",
)
NAMES = (
    "Comet",
    "Bramley",
    "Corin",
    "Delby",
    "Esker",
    "Farrow",
    "Garnock",
    "Hollis",
    "Ivel",
    "Jarrow",
)


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """One object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def handbook(folder: Path) -> None:
    """The demo's own files, as its seed makes them."""
    from cowest.domains import invent

    invent.write(folder, 0)


def sites(folder: Path) -> None:
    """An invented company of a few products."""
    from cowest.domains import invent_sites

    few = {"archive": 2, "train": 3, "dev": 1, "test": 2}
    invent_sites.write(folder, 0, invent_sites.World(products=few))


def ifqa(folder: Path) -> None:
    """Questions of bridges and towers; a passage and a question of dev come back in train, and
    one row of train twice.
    """
    rows = [
        _counterfactual(name, place, 1800 + 11 * number)
        for number, (name, place) in enumerate(_things())
    ]
    dev, train = rows[:30], rows[30:]
    leaks = [
        {**train[0], "context": dev[3]["context"]},
        {**train[1], "question": dev[4]["question"].upper()},
        train[2],
    ]
    folder.mkdir(parents=True, exist_ok=True)
    for name, its in (("train", train + leaks), ("dev", dev)):
        (folder / f"{name}.json").write_text(json.dumps(its, indent=4), encoding="utf-8")


def medmcqa(folder: Path) -> None:
    """One labelled file, as it is often passed round: near copies among its rows, and
    explanations of every kind.
    """
    explained = (
        "Ans. {letter}. {right}. ",
        "Answer- {letter}. {right}",
        "Ans: {letter} i.e. {right}. ",
        "",
        "Ans. {letter}. ",
    )
    rows = []
    for number, (name, place) in enumerate(_things()):
        options = [f"{other} gland" for other in (name, *_others(name))]
        right = number % 4
        options[0], options[right] = options[right], options[0]
        opening = explained[number % 5].format(letter="abcd"[right], right=options[right])
        told = (
            ""
            if number % 5 == 1
            else f"The {name} gland lies behind the {place} vein and makes its hormone there."
        )
        row = {
            "question": f"Which gland makes {place} hormone of kind {number}?",
            "cop": right + 1,
            "exp": (opening + told) or None,
        }
        row |= dict(zip(("opa", "opb", "opc", "opd"), options, strict=True))
        rows.append(
            {
                **row,
                "subject_name": "Physiology",
                "topic_name": None,
                "id": f"invented-{number}",
                "choice_type": "single",
            }
        )
    rows += [
        {**row, "question": row["question"].replace("Which gland", "Of all:  which gland").upper()}
        for row in rows[:20]
    ]
    rows.append(rows[5])
    write_rows(folder / "dev.jsonl", rows)


def prosocial(folder: Path) -> None:
    """Dialogues of two utterances with their rules of thumb, in the published splits; an opening
    of test comes back in train.
    """
    labels = (
        "__casual__",
        "__possibly_needs_caution__",
        "__probably_needs_caution__",
        "__needs_caution__",
        "__needs_intervention__",
    )
    rows = [
        _utterance(number, name, place, labels[number % 5], turn)
        for number, (name, place) in enumerate(_things())
        for turn in (0, 1)
    ]
    splits = {
        "test": rows[:40],
        "valid": rows[40:80],
        "train": [*rows[80:], {**rows[80], "context": rows[2]["context"] + "!"}],
    }
    for name, its in splits.items():
        write_rows(folder / f"{name}.json", its)


INVENTED: dict[str, Callable[[Path], None]] = {
    "handbook": handbook,
    "ifqa": ifqa,
    "medmcqa": medmcqa,
    "prosocial": prosocial,
    "sites": sites,
}
"""How each domain's raw data are laid out in a folder."""
PUBLISHED = {"ifqa": DATA / "ifqa", "medmcqa": DATA / "medmcqa", "prosocial": DATA / "prosocial"}


def _things() -> list[tuple[str, str]]:
    return [(name, place) for name in NAMES for place in PLACES]


def _others(name: str) -> list[str]:
    return [one for one in NAMES if one != name][:3]


def _counterfactual(name: str, place: str, year: int) -> dict[str, Any]:
    question = (
        f"If the {name} {place} had opened two years later, in which year would it have opened?"
    )
    passage = (
        f"The {name} {place} was drawn by two sisters and opened in {year}. It is known for "
        f"its {place} stones."
    )
    return {
        "idx": year,
        "question": question,
        "answers": [str(year + 2), f"in {year + 2}"],
        "context": [passage],
    }


def _utterance(number: int, name: str, place: str, label: str, turn: int) -> dict[str, Any]:
    said = (
        "I took the last {} cake from the {}.",
        "But nobody at the {} saw me, and the {} is closed.",
    )[turn]
    context = said.format(name, place) if turn == 0 else said.format(place, name)
    more = {
        "rots": [f"It's wrong to take cake from a {place}."],
        "safety_annotation_reasons": ["taking things of others"],
    }
    return {"context": context, "safety_label": label, "dialogue_id": number, **more}
