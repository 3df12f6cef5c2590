"""A model as scorer: it reads question, target and answer, and gives a number from 0 to 10.

The paper's evaluator judges coherence of the reasoning and consistency with the ground truth (Jiao
et al. 2025, section 4.3.1; the prompt is not published). A judgement that is no number from 0 to
10, or a failed call, fails the row and is never a zero.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

from pydantic import field_validator

from cowest.collaboration import answered
from cowest.config import Config, Sampling, digest
from cowest.models import AnyProvider
from cowest.models.openai import OpenAIConfig
from cowest.prompts import JudgeTemplate
from cowest.protocols import BLOCK, ChatModel, Completion, Request, Score, Scorer
from cowest.records import Query

NUMBER = re.compile(r"10|[0-9]")


class JudgeConfig(Config):
    """Scores by the grade that a model gives, from 0 to 10, divided by 10."""

    scorer: Literal["judge"] = "judge"
    model: AnyProvider
    """The model that judges."""
    prompt: JudgeTemplate = JudgeTemplate()
    """The judge's prompt."""
    sampling: Sampling = Sampling(max_tokens=8)
    """Decoding of the judge. `n` must be 1: an answer is judged once. A grade takes few tokens;
    raise `max_tokens` for a model whose hidden reasoning counts among them."""

    @field_validator("sampling")
    @classmethod
    def _judges_once(cls, sampling: Sampling) -> Sampling:
        if sampling.n > 1:
            raise ValueError("n: an answer is judged once")
        return sampling

    @contextmanager
    def open(self) -> Iterator[Scorer]:
        """The scorer, with its model loaded or connected."""
        with self.model.open() as model:
            yield self.over(model)

    def over(self, model: ChatModel) -> Scorer:
        """The scorer, with a model that is open already."""
        return Judge(model, self.prompt, self.sampling)

    def name(self, model: str) -> str:
        """The scorer's name in rows, by the name of the model that judges."""
        return _named(model, self.prompt, self.sampling)


def _named(model: str, prompt: JudgeTemplate, sampling: Sampling) -> str:
    return f"judge:{model}:{digest([prompt, sampling])[:8]}"


def answers_in_batches(strong: AnyProvider, scorer: Config) -> bool:
    """Returns True if the strong model or a judge answers in batches, which take hours."""
    asked = [strong, *([scorer.model] if isinstance(scorer, JudgeConfig) else [])]
    return any(isinstance(model, OpenAIConfig) and model.batch is not None for model in asked)


class Judge:
    """Asks a model for a grade of each answer."""

    def __init__(self, model: ChatModel, prompt: JudgeTemplate, sampling: Sampling) -> None:
        self.name = _named(model.name, prompt, sampling)
        self._model, self._prompt, self._sampling = model, prompt, sampling

    def score(self, answers: Iterable[tuple[Query, str]]) -> Iterator[Score]:
        """The judge's grade / 10 per (query, answer), in order, lazily; failed if there is none."""
        for completion in self._model.generate(self._requests(answers)):
            yield read_judgement(completion)

    def _requests(self, answers: Iterable[tuple[Query, str]]) -> Iterator[Request]:
        # Blocks are counted in queries, as in every stage, since shards fall between blocks.
        number, last = -1, ""
        for query, answer in answers:
            if query.id != last:
                number += 1
                last = query.id
            messages = self._prompt.render(query.prompt, query.targets, answer)
            yield Request(messages, self._sampling, block=number // BLOCK)


def read_judgement(completion: Completion) -> Score:
    """A score from an integer from 0 to 10; a completion that says anything else fails."""
    completion = answered(completion)
    if completion.text is None:
        return Score(None, failed=f"judge: {completion.failed or completion.finish}")
    grade = completion.text.strip()
    # A completion that was cut may have begun a longer number, `1` for `10`.
    if completion.finish != "stop" or not NUMBER.fullmatch(grade):
        shown = " ".join(grade.split())[:60]
        return Score(None, failed=f"judge: {shown!r} is no integer from 0 to 10")
    return Score(int(grade) / 10, f"judged {grade} of 10")
