"""The same feedback as the joined arm has, and no training of the policy: which direct reply to
say is looked up or predicted from what helped in training.

best_prompt  the one prompt (the policy's own, or a direct question) whose drafts helped most
table        by the wording of the question, the direct question whose replies helped most; a
             wording that training had not gets the best of all wordings
ridge        a linear router on the base model's hidden states of the question, whose strength of
             the penalty is chosen on dev
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cowest.models import hf
from cowest.models.hf import HFConfig
from cowest.prompts import Prompts
from cowest.records import Feedback, Query

ROUTED = ("best_prompt", "table", "ridge")
OWN = "own"
"""The policy's own prompt, among names of prompts."""
PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)

Floats = NDArray[np.float64]
Groups = Sequence[list[Feedback]]


def wording(query: Query) -> str:
    """The question without its product."""
    return query.prompt[-1].content.replace(query.group, "{product}")


def scores(group: Iterable[Feedback]) -> dict[str, float]:
    """The mean score of a query's rows by prompt."""
    found: dict[str, list[float]] = defaultdict(list)
    for row in group:
        if row.score is not None:
            found[row.candidate or OWN].append(row.score)
    return {name: sum(values) / len(values) for name, values in found.items()}


def best_prompt(groups: Groups) -> str:
    """The prompt with the highest mean score over the queries; of equal ones the first."""
    return _best([scores(group) for group in groups])


def table(groups: Groups) -> tuple[dict[str, str], str]:
    """By wording, the direct question whose replies scored highest; and the best of all wordings.

    The policy's own drafts are no entry: what they say is not known before they are made.
    """
    by_wording: dict[str, list[dict[str, float]]] = defaultdict(list)
    for group in groups:
        found = scores(group)
        found.pop(OWN, None)
        by_wording[wording(group[0])].append(found)
    entries = {text: _best(rows) for text, rows in by_wording.items()}
    return entries, _best([row for rows in by_wording.values() for row in rows])


def ridge(features: Floats, targets: Floats, penalty: float) -> tuple[Floats, Floats, Floats]:
    """Weights (features x prompts), and the means of features and targets, of a ridge regression.

    The features are standardised by the caller. The dual form is solved, since there are fewer
    queries than features (Saunders, Gammerman & Vovk 1998).
    """
    middle, level = features.mean(axis=0), targets.mean(axis=0)
    centred = features - middle
    kernel = centred @ centred.T + penalty * np.eye(len(centred))
    weights: Floats = centred.T @ np.linalg.solve(kernel, targets - level)
    return weights, middle, level


def routes(
    train: tuple[Floats, Groups], dev: tuple[Floats, Groups], asked: Floats
) -> tuple[list[str], float]:
    """The prompt that a ridge router names for each asked query, and the penalty chosen on dev.

    Each part has the features of its queries (queries x features).
    """
    names = sorted({row.candidate for group in train[1] for row in group if row.candidate})
    targets = _targets(train[1], names)
    scale = train[0].std(axis=0) + 1e-6
    on_dev = _targets(dev[1], names)

    def predicted(features: Floats, penalty: float) -> NDArray[np.intp]:
        weights, middle, level = ridge(train[0] / scale, targets, penalty)
        found: NDArray[np.intp] = ((features / scale - middle) @ weights + level).argmax(axis=1)
        return found

    def reached(penalty: float) -> float:
        chosen = predicted(dev[0], penalty)
        return float(on_dev[np.arange(len(chosen)), chosen].mean())

    penalty = max(PENALTIES, key=reached)
    return [names[number] for number in predicted(asked, penalty)], penalty


def hidden_states(queries: Sequence[Query], base: HFConfig, prompts: Prompts) -> Floats:
    """Hidden states of the base before its answer: the mean over the prompt's tokens and the last
    token's, of the middle and the last layer, one row a query.
    """
    import torch

    model, _ = hf.load(base, base.dtype)
    chat = hf.open_chat(base)
    rows = []
    for query in queries:
        tokens = torch.tensor([chat.asked(prompts.draft.render(query.prompt))])
        with torch.no_grad():
            states = model(tokens, output_hidden_states=True, logits_to_keep=1).hidden_states
        parts = []
        for layer in (states[len(states) // 2], states[-1]):
            parts += [layer[0].float().mean(dim=0), layer[0, -1].float()]
        rows.append(torch.cat(parts).numpy().astype(np.float64))
    return np.stack(rows)


def _targets(groups: Groups, names: Sequence[str]) -> Floats:
    rows = []
    for group in groups:
        found = scores(group)
        rows.append([found.get(name, 0.0) for name in names])
    return np.asarray(rows, dtype=np.float64)


def _best(rows: Sequence[Mapping[str, float]]) -> str:
    """The name with the highest mean; a name that a row lacks scored 0 there."""
    totals: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            totals[name] = totals.get(name, 0.0) + value
    return max(totals, key=lambda name: totals[name])
