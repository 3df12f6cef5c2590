"""The files of a turn, small, from which a report is made."""

import json
from pathlib import Path

from cowest import io
from cowest.gates import Gate, Rules
from cowest.records import (
    Message,
    PreferencePair,
    Trial,
)
from tests.factories import make_feedback, make_trial, write_report

NASTY = (
    "<script>document.title='owned'</script> <img src=x onerror=alert(1)> {{ 7*7 }} $x_{1}$ & "
    '"quoted"'
)


def a_turn(root: Path, *, after: float = 1.0, draft: str = "It is built in Milan.") -> Path:
    """A turn's files, small: 15 held-out queries, 6 training queries of 4 drafts."""
    trials: list[Trial] = []
    for number in range(15):
        trials.append(
            make_trial(number, "before", score=float(number % 3 == 0), draft=draft, tags=(draft,))
        )
        trials.append(make_trial(number, "after", score=after, draft=draft, tags=(draft,)))
        trials.append(make_trial(number, "ideal", score=1.0, tags=(draft,)))
    io.write(root / "data/trials.jsonl", trials)
    gains = ((1.0, 0.0), (0.0, 0.0), (0.0, 1.0), (0.5, 0.0))
    io.write(
        root / "data/feedback.jsonl",
        (
            make_feedback(n, sample=k, score=score, solo_score=solo)
            for n in range(6)
            for k, (score, solo) in enumerate(gains)
        ),
    )
    said = [(Message(role="assistant", content=text),) for text in "ab"]
    pair = PreferencePair(
        id="0" * 20,
        query="1" * 20,
        split="train",
        prompt=(Message(role="user", content="?"),),
        chosen=said[0],
        rejected=said[1],
        margin=0.5,
        policy="p",
        strong="s",
        scorer="x",
        samples=(0, 1),
    )
    io.write(root / "data/pairs.raw.jsonl", [pair, pair])
    io.write(root / "data/pairs.jsonl", [pair])
    gates = (Gate(over="before", at_least=0.0), Gate(over="champion", at_least=0.0))
    write_report(
        root / "data/trials.jsonl",
        root / "reports/eval.json",
        Rules(gates=gates, draws=1000, min_groups=1, guards=False),
    )
    for folder, stage in (("policy", "sft"), ("challenger", "dpo")):
        steps = [
            {
                "stage": stage,
                "step": n,
                "loss": 1 / n,
                "rewards/margins": n,
                "logps/chosen": -n,
                "logps/rejected": -2 * n,
            }
            for n in range(1, 9)
        ]
        (root / "models" / folder).mkdir(parents=True, exist_ok=True)
        (root / "models" / folder / "curves.jsonl").write_text(
            "\n".join(map(json.dumps, steps)) + "\n"
        )
    return root
