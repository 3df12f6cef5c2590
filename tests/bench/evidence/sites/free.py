"""Drafts that need no feedback: what a person would try before paying for any.

All say what the unaligned policy replies to the direct questions about the product (`Direct`), or
what is written of the product. None is trained.

everything   all four direct replies
record       the product's line, with no policy
bm25_1       the reply whose direct questions and words are nearest to the question's
bm25_3       the nearest three
confident    the policy's own draft, where the policy is sure enough of it, else everything; how
             sure is chosen on dev
routed       the reply that the strong model names, shown hand-made examples
likelihood   the reply after which the question is likeliest to the strong model
"""

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cowest.config import Sampling
from cowest.domains import invent_sites
from cowest.ledger import account
from cowest.models import hf
from cowest.models.hf import HFConfig
from cowest.prompts import Prompts, Shot, Template
from cowest.protocols import BLOCK, ChatModel, Request
from cowest.records import Draft, Feedback, Message, Query
from tests.bench.evidence.free import BM25

FREE = ("everything", "record", "bm25_1", "bm25_3", "confident", "routed", "likelihood")

Direct = Mapping[str, Mapping[str, str]]
"""Query id -> site -> the policy's reply to the direct question."""
Says = Callable[[Query], str]

ROUTING = Template(
    shots=tuple(
        Shot(user=f"Question: {question}\nIt is about where it is:", assistant=site)
        for question, site in (
            ("Which country's workers assemble the Bramley clock?", "made"),
            ("In which language are the parcel labels of the Corin bell?", "shipped"),
            ("What language do the engineers behind the Delby boat speak?", "designed"),
            ("To which country do I send a faulty Esker kite?", "repaired"),
            ("In which language are the blueprints of the Farrow wheel?", "designed"),
            ("Which country's stamps are on the Garnock drum boxes?", "shipped"),
            ("What language does the Hollis anchor warranty technician speak?", "repaired"),
            ("In which language do the Ivel lens factory workers chat?", "made"),
        )
    ),
    user="Question: {query}\nIt is about where it is:",
)
"""Two examples a site, in wordings that training questions have too."""


def direct(rows: Sequence[Draft]) -> dict[str, dict[str, str]]:
    """The direct replies among rows with candidates. A failed one is left out."""
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        replies = found.setdefault(row.id, {})
        if row.candidate is not None and row.draft is not None:
            replies[row.candidate] = row.draft
    return found


def everything(replies: Direct) -> Says:
    """All direct replies, in the order of the sites."""
    return lambda query: " ".join(replies[query.id].values())


def record(raw: Path) -> Says:
    """The product's line."""
    lines = {}
    for line in (raw / "products.jsonl").read_text(encoding="utf-8").splitlines():
        product = json.loads(line)
        lines[product["product"]] = invent_sites.RECORD.format(**product)
    return lambda query: lines[query.group]


def nearest(replies: Direct, count: int) -> Says:
    """The replies nearest by words, each found by its direct questions and its own words."""

    def says(query: Query) -> str:
        known = replies[query.id]
        texts = {}
        for site, reply in known.items():
            asked = " ".join(invent_sites.DIRECT[site]).format(product=query.group)
            texts[f"{asked} {reply}"] = reply
        best = BM25(list(texts)).best(query.prompt[-1].content, count)
        return " ".join(texts[text] for text in best)

    return says


def confident(own: Mapping[str, tuple[str, float]], threshold: float, otherwise: Says) -> Says:
    """The policy's own draft from a mean log-probability of a token on; `own` is by query id."""

    def says(query: Query) -> str:
        text, sure = own[query.id]
        return text if sure >= threshold else otherwise(query)

    return says


def threshold_of(
    own: Mapping[str, tuple[str, float]], scored: Mapping[str, tuple[float, float]]
) -> float:
    """The threshold with the highest score on dev; of equal ones the lowest.

    scored: by query id, the score of the answer with the policy's own draft, and with everything.
    """
    tried = [*sorted({sure for _, sure in own.values()}), float("inf")]

    def total(threshold: float) -> float:
        return sum(
            alone if own[query][1] >= threshold else rest for query, (alone, rest) in scored.items()
        )

    return max(tried, key=total)


def own_drafts(
    queries: Sequence[Query], policy: ChatModel, prompts: Prompts, sampling: Sampling
) -> dict[str, tuple[str, float]]:
    """The policy's greedy draft of each query, and the mean log-probability of its tokens."""

    def asked() -> Iterator[Request]:
        for number, query in enumerate(queries):
            yield Request(prompts.draft.render(query.prompt), sampling, 0, number // BLOCK)

    found = {}
    for query, completion in zip(queries, policy.generate(asked()), strict=True):
        tokens = max(completion.completion_tokens or 1, 1)
        found[query.id] = (completion.text or "", (completion.logprob or 0.0) / tokens)
    return found


def routed(
    queries: Sequence[Query], replies: Direct, strong: ChatModel, sampling: Sampling
) -> Says:
    """The reply of the site that the strong model names; everything if it names none."""

    def asked() -> Iterator[Request]:
        for number, query in enumerate(queries):
            yield Request(ROUTING.render(query.prompt), sampling, 0, number // BLOCK)

    named = {}
    for query, completion in zip(queries, strong.generate(asked()), strict=True):
        words = (completion.text or "").lower().replace(".", " ").split()
        named[query.id] = next((word for word in words if word in replies[query.id]), None)
    say_all = everything(replies)

    def says(query: Query) -> str:
        site = named[query.id]
        return say_all(query) if site is None else replies[query.id][site]

    return says


def likelihood(
    queries: Sequence[Query], replies: Direct, strong: HFConfig, prompts: Prompts
) -> Says:
    """The reply after which the question is likeliest to the strong model, by its own prompt."""
    reader = Reader(strong, prompts)
    chosen = {}
    for query in queries:
        texts = list(replies[query.id].values())
        conversations = []
        for text in texts:
            conversations.append(reader.tokens(prompts.refine.render(query.prompt, text)))
        scores = reader.endings(conversations)
        chosen[query.id] = texts[scores.index(max(scores))]
    return lambda query: chosen[query.id]


class Reader:
    """Log-probabilities of what refinement prompts end with, under a local model."""

    def __init__(self, config: HFConfig, prompts: Prompts) -> None:
        import torch

        self._model, _ = hf.load(config, config.dtype)
        self._chat = hf.open_chat(config)
        # The shots are read once for all questions: they are what any two prompts begin with.
        tried = []
        for text in ("One?", "Two, or three?"):
            said = (Message(role="user", content=text),)
            tried.append(self.tokens(prompts.refine.render(said, text)))
        self._shots = tried[0][: alike(tried)]
        self._cache: Any = None
        if self._shots:
            with torch.no_grad():
                out = self._model(torch.tensor([self._shots]), use_cache=True, logits_to_keep=1)
            self._cache = out.past_key_values

    def tokens(self, messages: Sequence[Any]) -> list[int]:
        """A conversation as it is asked."""
        return self._chat.asked(messages)

    def endings(self, conversations: Sequence[list[int]]) -> list[float]:
        """The log-probability of what all the conversations end with, given what stands before
        it in each.
        """
        # One token at least is read before the ending, since its logits begin it.
        most = min(map(len, conversations)) - len(self._shots) - 1
        ending = min(alike([one[::-1] for one in conversations]), most)
        return [self._ending(one, ending) for one in conversations]

    def _ending(self, tokens: list[int], ending: int) -> float:
        import torch

        assert tokens[: len(self._shots)] == self._shots, "all prompts begin with the shots"
        # A reading is no call of the store, and is counted as one.
        counts = account.current()
        counts.asked, counts.prompt_tokens = counts.asked + 1, counts.prompt_tokens + len(tokens)
        rest = torch.tensor([tokens[len(self._shots) :]])
        with torch.no_grad():
            out = self._model(rest, past_key_values=copy.deepcopy(self._cache), use_cache=True)
        logits = out.logits[0, -ending - 1 : -1].float().log_softmax(-1)
        said = torch.tensor(tokens[-ending:])
        return float(logits.gather(1, said[:, None]).sum())


def alike(texts: Sequence[Sequence[int]]) -> int:
    """Returns the number of first tokens that all texts share."""
    count = 0
    for together in zip(*texts, strict=False):
        if len(set(together)) > 1:
            break
        count += 1
    return count


def dev_scores(rows: Sequence[list[Feedback]]) -> dict[str, tuple[float, float]]:
    """By query id, the scores of the first row, the policy's own, and of the last, everything."""
    return {group[0].id: (group[0].score or 0.0, group[-1].score or 0.0) for group in rows}
