"""Tables as they are given to `cowest init`, and what it makes of them."""

from pathlib import Path
from typing import Any

from cowest import config
from cowest.cli import main
from tests.tables import write

CITIES = ["Oslo", "Rome", "Bonn", "Lyon", "Cork"]


def quiz(count: int = 60, **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "Question": f"Where is\nthing {number} made?",
            "option_a": CITIES[number % 5],
            "option_b": CITIES[(number + 1) % 5],
            "option_c": CITIES[(number + 2) % 5],
            "correct": "ABC"[number % 3],
            "exp": f"Thing {number}: see the map.",
            "product": f"thing {number // 3}",
            "topic": f"t{number % 4}",
            "junk": number / 7,
            **more,
        }
        for number in range(count)
    ]


def asked(count: int = 50) -> list[dict[str, Any]]:
    return [
        {
            "uid": f"u{number}",
            "question": f"Who made engine {number}?",
            "answers": {"text": [f"Ada {number}", "Ada"]},
            "split": "train" if number < 35 else "Validation",
        }
        for number in range(count)
    ]


def scaffold(folder: Path, rows: list[dict[str, Any]], name: str, *flags: str) -> dict[str, Any]:
    assert (
        main(["init", str(write(folder / name, rows)), "--out", str(folder / "made"), *flags]) == 0
    )
    return config.load(folder / "made" / "params.yaml")
