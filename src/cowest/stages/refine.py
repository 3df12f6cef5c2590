"""The strong model refines each draft, and answers each query once without one."""

from collections.abc import Iterator

from pydantic import field_validator

from cowest import collaboration, io
from cowest.config import Config, Sampling
from cowest.domains import DomainPrompts
from cowest.models import AnyProvider
from cowest.models.estimate import announce
from cowest.ports import In, Out
from cowest.progress import watch
from cowest.protocols import ChatModel
from cowest.records import Draft, Refinement


class RefineConfig(Config):
    """What refines, and how."""

    strong: AnyProvider
    """The model that is never trained."""
    prompts: DomainPrompts
    """What it is asked, with a draft and without."""
    sampling: Sampling = Sampling()
    """One answer a draft."""

    @field_validator("sampling")
    @classmethod
    def _one(cls, sampling: Sampling) -> Sampling:
        if sampling.n != 1:
            raise ValueError("n must be 1: a draft has one refinement")
        return sampling


def main(drafts: list[In], refinements: Out, config: RefineConfig, shard: io.Shard | None = None) -> None:
    """Writes one row for each draft, the failed ones too."""
    total = sum(len(group) for group in io.groups(drafts, Draft, shard))

    def refined(strong: ChatModel) -> Iterator[Refinement]:
        return collaboration.refine(io.groups(drafts, Draft, shard), strong, config.prompts, config.sampling)

    announce("refine", config.strong, refined)
    with config.strong.open() as strong:
        io.write(refinements, watch(refined(strong), "refine", total))
