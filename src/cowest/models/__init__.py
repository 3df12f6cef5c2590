"""The providers, one per file. `AnyProvider` is what a stage's settings may name."""

from typing import Annotated

from pydantic import Field

from cowest.models.hf import HFConfig
from cowest.models.openai import OpenAIConfig
from cowest.models.scripted import ScriptedConfig
from cowest.models.vllm import VLLMConfig

AnyProvider = Annotated[
    HFConfig | VLLMConfig | OpenAIConfig | ScriptedConfig, Field(discriminator="provider")
]
"""`provider: hf`, `vllm`, `openai` or `scripted`, with its settings."""
