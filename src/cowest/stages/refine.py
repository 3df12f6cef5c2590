"""The strong model refines each draft, and answers each query once without a draft."""

from collections.abc import Iterator

from pydantic import Field, field_validator

from cowest import collaboration, io
from cowest.config import Config, Sampling
from cowest.domains import DomainPrompts
from cowest.failures import Failures
from cowest.models import AnyProvider
from cowest.models.estimate import announce
from cowest.ports import In, Out
from cowest.progress import watch
from cowest.protocols import ChatModel
from cowest.records import Draft, Refinement


class RefineConfig(Config):
    """The strong model, with the prompts and decoding of refinements."""

    strong: AnyProvider
    """The strong model, which is never trained."""
    prompts: DomainPrompts
    """Prompts of the strong model, with a draft and without."""
    sampling: Sampling = Sampling()
    """Decoding of the strong model. `n` must be 1: a draft has one refinement."""
    max_failed: int | None = Field(default=0, ge=0)
    """Rows that may fail in this stage; null for any number. Failed rows stay in the file, and are
    left out of pairs and comparisons."""

    @field_validator("sampling")
    @classmethod
    def _one(cls, sampling: Sampling) -> Sampling:
        if sampling.n != 1:
            raise ValueError("n must be 1: a draft has one refinement")
        return sampling


def main(
    drafts: list[In], refinements: Out, config: RefineConfig, shard: io.Shard | None = None
) -> None:
    """Writes one row per draft, for failed ones too."""
    failures = Failures("refine")
    # Drafts that failed in the stage before were allowed there, and are not judged again here.
    total = earlier = 0
    for group in io.groups(drafts, Draft, shard):
        total += len(group)
        earlier += sum(row.failed is not None for row in group)

    def refined(strong: ChatModel) -> Iterator[Refinement]:
        return collaboration.refine(
            io.groups(drafts, Draft, shard), strong, config.prompts, config.sampling
        )

    announce("refine", config.strong, refined)
    with config.strong.open() as strong:
        io.write(refinements, failures.counted(watch(refined(strong), "refine", total)))
    failures.judge(config.max_failed, earlier)
