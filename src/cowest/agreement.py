"""Compares, token by token, the weights that are judged with other forms of the same policy.

The judged weights (the adapter merged into the base) answer a few prompts greedily. Another form
reads each prompt with that answer after it, in one pass. Where it has the same likeliest token at
every place, it would have answered the same: the first token is the same, so the second follows the
same text, and so on. One model is held in memory at a time.
"""

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from heapq import nsmallest
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field

from cowest.config import Config, Sampling
from cowest.models import AnyProvider, hf
from cowest.models.decoding import HFModel
from cowest.models.hf import HFConfig
from cowest.models.vllm import VLLMConfig
from cowest.prompts import Prompts
from cowest.protocols import Completion, Request
from cowest.records import Query
from cowest.report_parts import NumberFormat, PolicyAgreement, PolicyForm

if TYPE_CHECKING:
    import torch

DIGITS = 5
"""Decimals of a log-probability: another machine may differ in those behind."""
NEVER = 99.0
"""Difference to a token that the judged weights never say."""


class AgreementConfig(Config):
    """The sample on which other forms of the challenger's policy are compared with what is judged.

    What is judged are the adapter's weights merged into the base.
    """

    queries: int = Field(default=16, ge=1)
    """Held-out queries that are compared. They are answered greedily, whatever `drafting` says."""
    served: AnyProvider | None = None
    """The model that serves the challenger, if it is another than `policy` with the adapter: an
    endpoint, or a local folder with merged weights. An endpoint must hold the challenger by then
    (one with `adapters_of` is given it, and so is `provider: vllm`), and says log-probabilities
    with `extra: {logprobs: true}`. Null compares the adapter alone."""


class Said(NamedTuple):
    """The greedy answer of the judged weights to one prompt."""

    request: Request
    prompt: tuple[int, ...]
    """Tokens of the prompt."""
    answer: tuple[int, ...]
    """Tokens of the answer, with the one that ended it."""
    logprobs: tuple[float, ...]
    """Log-probability of each token of the answer, by the judged weights."""
    text: str


class Parting(NamedTuple):
    """The difference of one answer."""

    largest: float | None
    """Largest difference of a token's log-probability; None if it is not known."""
    mean: float | None
    """Mean difference per token."""
    gap: float | None
    """Difference of log-probability between the two tokens at the first place where the text
    differs; None if it is the same."""


class Judged(NamedTuple):
    """Answers of the judged weights, kept when the weights are let go."""

    name: str
    said: list[Said]
    endpoint: PolicyAgreement | None
    """The comparison with an endpoint, which is made while the judged weights are held."""


def judged_side(
    judged: HFModel,
    queries: Iterable[Query],
    prompts: Prompts,
    drafting: Sampling,
    config: AgreementConfig,
    adapter: Path | None = None,
) -> Judged:
    """Has the judged weights, which are those of `adapter`, answer a sample of the queries.

    A model that serves is given the adapter if it takes one; without it, it holds it by now.
    """
    # Their ids are digests, so the smallest are a sample of all, and the same in every run.
    sample = nsmallest(config.queries, queries, key=attrgetter("id"))
    said = say(judged, greedily(sample, prompts, drafting))
    endpoint = None
    served = config.served
    if served is not None and not isinstance(served, HFConfig):
        takes = isinstance(served, VLLMConfig) or bool(getattr(served, "adapters_of", None))
        with served.open(adapter=adapter if takes else None) as model:
            answers = model.generate(anew([one.request for one in said]))
            parted = with_answers(judged, said, answers)
            endpoint = folded("served", model.name, "unknown", said, parted)
    return Judged(judged.name, said, endpoint)


def greedily(queries: Iterable[Query], prompts: Prompts, drafting: Sampling) -> list[Request]:
    """The requests for drafts that are compared."""
    greedy = drafting.model_copy(update={"temperature": 0.0, "n": 1, "seed": None})
    return [Request(prompts.draft.render(query.prompt), greedy) for query in queries]


def anew(requests: Iterable[Request]) -> list[Request]:
    """The requests as an endpoint is sent them.

    With a seed of its own each time, since the call store would answer for what the endpoint held
    before, under the same name.
    """
    seed = secrets.randbelow(2**31)
    found = []
    for one in requests:
        found.append(replace(one, sampling=one.sampling.model_copy(update={"seed": seed})))
    return found


def compared(
    judged: Judged, base: HFConfig, adapter: Path, config: AgreementConfig
) -> Iterator[PolicyAgreement]:
    """Compares the judged weights with the adapter beside its base, and with what is served."""
    yield _with_adapter(judged, base, adapter)
    if judged.endpoint is not None:
        yield judged.endpoint
    served = config.served
    if isinstance(served, HFConfig):
        # A folder of merged weights is whole; another that is the base needs the adapter.
        whole = served.base_name(served.folder()) != base.base_name(base.folder())
        dtype = served.dtype if base.dtype == "float32" else base.dtype
        with served.open(adapter=None if whole else adapter) as model:
            parted = with_weights(model.model, judged.said, model.tokens)
            yield folded("served", model.name, dtype, judged.said, parted)


def _with_adapter(judged: Judged, base: HFConfig, adapter: Path) -> PolicyAgreement:
    """Compares with the adapter beside its base, whose weights are let go before others come."""
    with hf.beside(base, adapter) as weights:
        parted = with_weights(weights, judged.said)
    return folded("adapter", judged.name, base.dtype, judged.said, parted)


def say(judged: HFModel, requests: Sequence[Request]) -> list[Said]:
    """The judged weights' answers; a request that does not fit their context is left out."""
    prompts = {}
    for request in requests:
        prompt = tuple(judged.tokens(request))
        if judged.writing.fits(prompt, request.sampling):
            prompts[prompt] = request
    if not prompts:
        return []
    sampling = requests[0].sampling
    found = []
    for prompt, answer in zip(prompts, judged.greedy(list(prompts), sampling), strict=True):
        logprobs = _of(_scores(judged.model, prompt, answer), answer)
        text = judged.writing.text(answer, sampling.stop)
        found.append(Said(prompts[prompt], prompt, tuple(answer), tuple(logprobs), text))
    return found


def with_weights(
    model: Any, said: Sequence[Said], tokens: Callable[[Request], list[int]] | None = None
) -> list[Parting | None]:
    """Compares with a model whose weights are held here; None for a prompt that it reads as other
    tokens. `tokens` says how it reads; without it, it reads as the judged weights do.
    """
    found: list[Parting | None] = []
    for one in said:
        if tokens is not None and tuple(tokens(one.request)) != one.prompt:
            found.append(None)
            continue
        scores = _scores(model, one.prompt, one.answer)
        pairs = zip(one.logprobs, _of(scores, one.answer), strict=True)
        apart = [abs(mine - other) for mine, other in pairs]
        found.append(Parting(max(apart), sum(apart) / len(apart), _gap(scores, one.answer)))
    return found


def with_answers(
    judged: HFModel, said: Sequence[Said], answers: Iterable[Completion]
) -> list[Parting | None]:
    """Compares with what an endpoint answered; None for an answer that failed.

    An endpoint gives text, and the sum of the log-probabilities if it is asked for it.
    """
    found: list[Parting | None] = []
    for one, answer in zip(said, answers, strict=True):
        if answer.text is None:
            found.append(None)
        elif answer.text.strip() == one.text:
            found.append(Parting(None, _mean_apart(one, judged, answer.logprob), None))
        else:
            found.append(Parting(None, None, _gap_of_texts(judged, one, answer.text.strip())))
    return found


def folded(
    form: PolicyForm,
    model: str,
    dtype: NumberFormat,
    said: Sequence[Said],
    found: Sequence[Parting | None],
) -> PolicyAgreement:
    """The comparisons of all answers as one row."""
    there = [one for one in found if one is not None]
    largest = [one.largest for one in there if one.largest is not None]
    means = [one.mean for one in there if one.mean is not None]
    gaps = [one.gap for one in there if one.gap is not None]
    return PolicyAgreement(
        form=form,
        model=model,
        dtype=dtype,
        queries=len(said),
        tokens=sum(len(one.answer) for one in said),
        failed=len(found) - len(there),
        largest=round(max(largest), DIGITS) if largest else None,
        mean=round(sum(means) / len(means), DIGITS) if means else None,
        changed=len(gaps),
        gap=round(max(gaps), DIGITS) if gaps else None,
    )


def _scores(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> "torch.Tensor":
    """Log-probabilities at each place of an answer: (tokens of the answer, vocabulary)."""
    import torch

    tokens = torch.tensor([[*prompt, *answer]], device=model.device)
    with torch.no_grad():
        logits = model(tokens, use_cache=False, logits_to_keep=len(answer) + 1).logits[0, :-1]
    return torch.log_softmax(logits.float(), dim=-1).cpu()


def _of(scores: "torch.Tensor", answer: Sequence[int]) -> list[float]:
    """The log-probability of each token of an answer."""
    import torch

    found: list[float] = scores.gather(1, torch.tensor(answer)[:, None])[:, 0].tolist()
    return found


def _gap(scores: "torch.Tensor", answer: Sequence[int]) -> float | None:
    """Excess of the likeliest token over the answer's, at the first place where they differ."""
    for place, best in enumerate(scores.argmax(-1).tolist()):
        if best != answer[place]:
            return float(scores[place, best] - scores[place, answer[place]])
    return None


def _gap_of_texts(judged: HFModel, one: Said, text: str) -> float:
    """Preference of the judged weights for their own text, where another first parts from it."""
    mine, other = _tokens(judged, one.text), _tokens(judged, text)
    place = 0
    while place < min(len(mine), len(other)) and mine[place] == other[place]:
        place += 1
    # One token more, of any kind, so that the scores at the place itself are among those returned.
    scores = _scores(judged.model, one.prompt, [*mine[:place], 0])[place]
    ends = sorted(judged.chat.ends)

    def best(tokens: list[int]) -> float:
        # A text that is over at this place goes on with a token that ends it.
        there = tokens[place : place + 1] or ends
        return max((float(scores[token]) for token in there), default=-NEVER)

    return max(0.0, best(mine) - best(other))


def _tokens(judged: HFModel, text: str) -> list[int]:
    found: list[int] = judged.tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def _mean_apart(one: Said, judged: HFModel, logprob: float | None) -> float | None:
    """The mean difference per token to the sum that an endpoint gives; None if it gives none."""
    if logprob is None:
        return None
    whole = sum(one.logprobs)
    sums = [whole]
    # Some servers count the token that ends the answer, and some leave it out.
    if one.answer[-1] in judged.chat.ends:
        sums.append(whole - one.logprobs[-1])
    return min(abs(logprob - total) for total in sums) / len(one.answer)
