"""The scorers: one a file. `AnyScorer` is what a stage's settings may name."""

from typing import Annotated

from pydantic import Field

from cowest.scorers.choice import ChoiceConfig
from cowest.scorers.contains import ContainsConfig
from cowest.scorers.exact_match import ExactMatchConfig
from cowest.scorers.judge import JudgeConfig
from cowest.scorers.squad import SquadEMConfig, SquadF1Config
from cowest.scorers.token_f1 import TokenF1Config

AnyScorer = Annotated[
    ChoiceConfig
    | ContainsConfig
    | ExactMatchConfig
    | JudgeConfig
    | SquadEMConfig
    | SquadF1Config
    | TokenF1Config,
    Field(discriminator="scorer"),
]
"""`scorer: choice`, `contains`, `exact_match`, `judge`, `squad_em`, `squad_f1` or `token_f1`, with
its settings."""
