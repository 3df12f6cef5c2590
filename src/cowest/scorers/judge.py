"""A model as scorer: it reads question, target and answer, and gives a number from 0 to 10.

The paper's evaluator judges coherence of the reasoning and consistency with the ground truth (Jiao et al. 2025, section
4.3.1; its prompt is not published). A judgement that is not such a number, or did not come, fails its row and is never a zero.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

from pydantic import field_validator

from cowest.config import Config, Sampling, digest
from cowest.models import AnyProvider
from cowest.prompts import JudgeTemplate
from cowest.protocols import BLOCK, ChatModel, Completion, Request, Score, Scorer
from cowest.records import Query

NUMBER = re.compile(r"10|[0-9]")


class JudgeConfig(Config):
    """A model judges."""

    scorer: Literal["judge"] = "judge"
    model: AnyProvider
    """Who judges."""
    prompt: JudgeTemplate = JudgeTemplate()
    """What it is asked."""
    sampling: Sampling = Sampling(max_tokens=8)
    """How it decodes; one judgement an answer."""

    @field_validator("sampling")
    @classmethod
    def _judges_once(cls, sampling: Sampling) -> Sampling:
        if sampling.n > 1:
            raise ValueError("n: an answer is judged once")
        return sampling

    @contextmanager
    def open(self) -> Iterator[Scorer]:
        """The scorer, its model loaded or connected."""
        with self.model.open() as model:
            yield self.over(model)

    def over(self, model: ChatModel) -> Scorer:
        """The scorer, with a model that is open."""
        return Judge(model, self.prompt, self.sampling)


class Judge:
    """Scores by what a model says of the answer."""

    def __init__(self, model: ChatModel, prompt: JudgeTemplate, sampling: Sampling) -> None:
        self.name = f"judge:{model.name}:{digest([prompt, sampling])[:8]}"
        self._model, self._prompt, self._sampling = model, prompt, sampling

    def score(self, answers: Iterable[tuple[Query, str]]) -> Iterator[Score]:
        """The judge's number over 10 for each (query, answer), in order, lazily; failed where there is none."""
        for completion in self._model.generate(self._requests(answers)):
            yield read_judgement(completion)

    def _requests(self, answers: Iterable[tuple[Query, str]]) -> Iterator[Request]:
        number, last = -1, ""
        for query, answer in answers:
            number += query.id != last
            last = query.id
            yield Request(
                self._prompt.render(query.prompt, query.targets, answer),
                self._sampling,
                block=number // BLOCK,
            )


def read_judgement(completion: Completion) -> Score:
    """An integer from 0 to 10, and nothing else, as a score."""
    if completion.text is None:
        return Score(None, failed=f"judge: {completion.failed or completion.finish}")
    said = completion.text.strip()
    if completion.finish != "stop" or not NUMBER.fullmatch(said):
        return Score(
            None, failed=f"judge: {' '.join(said.split())[:60]!r} is no integer from 0 to 10"
        )
    return Score(int(said) / 10, f"judged {said} of 10")
