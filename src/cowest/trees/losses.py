"""Losses of preference pairs, from the log-probabilities of their drafts. Names are those of TRL.

A pair's ratios are those of the policy to the reference:

    r+ = log pi(chosen)/ref(chosen)      r- = log pi(rejected)/ref(rejected)

    sigmoid       -log sigmoid(beta (r+ - r-))                      Rafailov et al. 2023, eq. 7
    hinge         max(0, 1 - beta (r+ - r-))                        Zhao et al. 2023 (SLiC)
    ipo           (r+/n+ - r-/n- - 1/(2 beta))^2                    Azar et al. 2023, eq. 17
    robust        (-(1-e) log sigmoid(beta (r+ - r-))
                   + e log sigmoid(beta (r- - r+))) / (1 - 2e)      Chowdhury et al. 2024
    sigmoid_norm  -log sigmoid(beta (r+/n+ - r-/n-))                Lambert et al. 2024 (Tülu 3)

n+ and n- are the tokens of the drafts, and e is the share of pairs that are the wrong way round.
IPO is divided by them as TRL does it, with its authors' word.

KTO is of drafts alone, each with its ratio r, and of their distance to a point z (Ethayarajh et
al. 2024, eq. 7 and 8). z is an estimate of the KL to the reference, through which no gradient goes:
the mean ratio of drafts of other queries, or 0 if that is below 0.

    helped        w+ (1 - sigmoid(beta (r - z)))
    did not       w- (1 - sigmoid(beta (z - r)))

GRPO is of drafts that the policy has just made, each with its advantage A over the other drafts of
its query (Shao et al. 2024). Each token adds, averaged over all tokens of a step (Yu et al. 2025),

    pi/sg[pi] (kl (ref/pi - log ref/pi - 1) - A)

where sg lets no gradient through: one step is taken per draft, so the ratio is 1 and needs no clip.
That the KL has the ratio too makes its gradient unbiased (DeepSeek-V3.2, arXiv 2512.02556).
"""

import statistics
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

Loss = Literal["sigmoid", "hinge", "ipo", "robust", "sigmoid_norm"]
"""Losses of pairs."""
APART = 1e-4
"""Added to a standard deviation, which may be 0."""
MOST = 4.0
"""Largest weight of a kind of drafts that is rarer than the other."""


class Objective(NamedTuple):
    """A loss and its weights."""

    loss: Loss | Literal["kto"]
    beta: float
    nll: float
    """Weight of the NLL of the chosen drafts, averaged over all their tokens."""
    label_smoothing: float
    """The share e of pairs that are the wrong way round, of `robust` alone."""
    weights: tuple[float, float] = (1.0, 1.0)
    """Weights w+ and w- of drafts that helped and that did not, of KTO alone."""


def of_pairs(objective: Objective, chosen: Any, rejected: Any, lengths: Any) -> Any:
    """Returns the loss of each pair, without the NLL; shape (pairs,).

    `chosen` and `rejected` are the ratios; shape (pairs,). `lengths` are tokens of the chosen and
    the rejected drafts; shape (2, pairs).
    """
    from torch.nn.functional import logsigmoid, relu

    beta, smoothing = objective.beta, objective.label_smoothing
    apart = chosen - rejected
    per_token = chosen / lengths[0] - rejected / lengths[1]
    if objective.loss == "sigmoid":
        return -logsigmoid(beta * apart)
    if objective.loss == "hinge":
        return relu(1 - beta * apart)
    if objective.loss == "ipo":
        return (per_token - 1 / (2 * beta)) ** 2
    if objective.loss == "robust":
        right, wrong = logsigmoid(beta * apart), logsigmoid(-beta * apart)
        return (smoothing * wrong - (1 - smoothing) * right) / (1 - 2 * smoothing)
    return -logsigmoid(beta * per_token)


def of_drafts(objective: Objective, ratios: Any, helped: Any, point: Any) -> Any:
    """Returns KTO's loss of each draft, without the NLL; shape (drafts,).

    `ratios` has shape (drafts,), as has `helped`, of booleans. `point` is z.
    """
    import torch

    sign = torch.where(helped, 1.0, -1.0)
    weights = torch.where(helped, *objective.weights)
    return weights * (1 - torch.sigmoid(objective.beta * sign * (ratios - point)))


def balanced(helped: int, others: int) -> tuple[float, float]:
    """Returns weights under which drafts that helped and drafts that did not weigh the same.

    The rarer kind weighs at most MOST times the other's; both weigh 1 where one is missing.
    """
    if not helped or not others:
        return 1.0, 1.0
    return min(max(others / helped, 1.0), MOST), min(max(helped / others, 1.0), MOST)


def advantages(rewards: Sequence[float]) -> list[float]:
    """Returns how far each reward of a query is from their mean, in standard deviations."""
    if len(rewards) < 2:
        return [0.0] * len(rewards)
    mean, deviation = statistics.fmean(rewards), statistics.stdev(rewards)
    return [(reward - mean) / (deviation + APART) for reward in rewards]


def of_tokens(found: Any, reference: Any, advantage: Any, kl: float) -> tuple[Any, Any]:
    """Returns GRPO's loss of each token, and its part of the KL to the reference.

    `found` and `reference` are log-probabilities; shape (drafts, tokens). `advantage` has shape
    (drafts,).
    """
    import torch

    apart = reference - found
    divergence = torch.exp(apart) - apart - 1
    ratio = torch.exp(found - found.detach())
    return ratio * (kl * divergence - advantage[:, None]), divergence.detach()
