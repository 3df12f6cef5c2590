"""The models that answer one question, with their settings: `serve`, and what a version carries."""

from pydantic import field_validator

from cowest.config import Config, Refining, Sampling
from cowest.models import AnyProvider
from cowest.models.openai import OpenAIConfig
from cowest.models.vllm import VLLMConfig


class AnswerConfig(Config):
    """The models that answer and their settings, which are those of `evaluate`.

    So the version that is served behaves as it did when it was judged.
    """

    policy: AnyProvider
    """The base that the version's adapter belongs to; not `provider: vllm`, and without `batch`."""
    strong: AnyProvider
    """The strong model, which refines the draft; not `provider: vllm`, and without `batch`."""
    drafting: Sampling = Sampling(max_tokens=128)
    """Decoding of the policy's draft. Keep it as in `evaluate.drafting`: drafts were judged so."""
    refining: Refining = Sampling()
    """Decoding of the strong model's answer, as far as a request says nothing of it. `n` must be
    1."""

    @field_validator("policy", "strong")
    @classmethod
    def _answers_at_once(cls, model: AnyProvider) -> AnyProvider:
        if isinstance(model, OpenAIConfig) and model.batch is not None:
            raise ValueError(
                "a question can't wait for a batch: name the model without it here, "
                "{<<: *strong, batch: null}"
            )
        if isinstance(model, VLLMConfig):
            raise ValueError(
                "provider vllm answers batches, and nobody who waits: name the same base with "
                "provider hf here, or a vLLM server with provider openai (adapters_of)"
            )
        return model
