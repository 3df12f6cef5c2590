"""A model's architecture, as far as loading and decoding depend on it, read from its settings."""

import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from cowest.errors import CoWestError, ModelError

CACHES = ("past_key_values", "cache_params")
"""Names that architectures give to what they keep of the tokens read so far."""
NOT_DECODED = {"recurrent_gemma", "xlstm"}
"""Architectures that keep it inside the model, or take it in shapes of their own."""
WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")
"""Settings that say how many tokens back attention looks, in some of the layers or in all."""
COUNT_BY_MASK = {"bloom"}
"""Architectures that take no positions, and find them by what is masked."""
NOT_CAST = {"bitsandbytes", "gptq", "hqq", "quark"}
"""Quantised forms whose weights can't be brought to the dtype of the settings."""


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Makes one ModelError, which begins with `what`, of any fault that a library finds in files.

    The files are somebody else's, and libraries raise errors of all classes over them.
    """
    try:
        yield
    except (CoWestError, MemoryError):
        raise
    # Tokenizers raise plain Exceptions, and settings of models have classes of their own.
    except Exception as error:  # noqa: BLE001
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(f"{what} ({reason}): fetch it again, or name another") from None


def check(folder: Path) -> type:
    """Returns the class of a model, from its settings alone.

    Raises ModelError for a model that can't be loaded or decoded here.
    """
    import transformers

    with reading(f"{folder} is of no architecture that is known here"):
        config = transformers.AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
        kind: type = transformers.AutoModelForCausalLM._model_mapping[type(config)]
    if config.model_type in NOT_DECODED or cache_name(kind) is None:
        raise ModelError(
            f"{folder}: {kind.__name__} keeps no cache that is known here, so it can't be decoded: "
            "name a model of another architecture"
        )
    _check_quantised(folder)
    return kind


def attention(kind: Any) -> str | None:
    """Returns the implementation of attention to load a model with; None for its own."""
    return "sdpa" if kind._supports_sdpa else None


def cache_name(kind: type) -> str | None:
    """Returns the name of the argument by which a model takes its cache; None if it has none."""
    return next((name for name in CACHES if name in _arguments(kind)), None)


def takes_positions(kind: type) -> bool:
    """Says whether a model can be given the positions of tokens; a recurrent one has none."""
    # One that takes arguments of any name may leave this one unread.
    return "position_ids" in _arguments(kind)


def window(config: Any) -> int | None:
    """Returns how many tokens back attention looks at least, by a model's settings; None for all.

    It counts places, padding among them.
    """
    text = config.get_text_config()
    found = [getattr(text, name, None) for name in WINDOWS]
    return min((size for size in found if isinstance(size, int) and size > 0), default=None)


def answered_otherwise(model: Any) -> bool:
    """Says whether padding changed a model's answers in the second version of the decoder.

    That looked at no window but `sliding_window`, and gave positions to models that don't read
    them.
    """
    known = getattr(model.config.get_text_config(), "sliding_window", None) or None
    return window(model.config) != known or not (_keeps_states(model) or _knows_positions(model))


@lru_cache(maxsize=16)
def _arguments(kind: Any) -> Mapping[str, inspect.Parameter]:
    """Returns the arguments of a model's forward pass, which are asked for at every token."""
    return inspect.signature(kind.forward).parameters


def shares_its_cache(model: Any) -> bool:
    """Says whether the cache of one prompt can be continued by several rows.

    Attention keeps keys and values per token, which are copied and masked row by row. A recurrent
    or convolutional layer keeps a state that all tokens went into, padding among them. A model that
    takes no positions counts padding too.
    """
    return _knows_positions(model) and not _keeps_states(model)


def _knows_positions(model: Any) -> bool:
    """Says whether padding leaves the positions of tokens as they are."""
    return takes_positions(type(model)) or model.config.model_type in COUNT_BY_MASK


def _keeps_states(model: Any) -> bool:
    """Says whether a model keeps something else than keys and values per token."""
    from transformers.cache_utils import DynamicCache, LinearAttentionCacheLayerMixin

    if model._is_stateful or cache_name(type(model)) != CACHES[0]:
        return True
    layers = DynamicCache(config=model.config).layers
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)


def is_plain(cache: Any) -> bool:
    """Says whether a cache holds keys and values per token, and nothing else."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    plain = (DynamicLayer, DynamicSlidingWindowLayer)
    return all(type(layer) in plain for layer in getattr(cache, "layers", [None]))


def joins_its_rows(model: Any) -> bool:
    """Says whether rows that were begun apart can be decoded together from any token on.

    Their caches are padded to one length then, so each layer must keep keys and values per token,
    and mask what is padding.
    """
    from transformers.cache_utils import DynamicCache

    if not shares_its_cache(model) or not is_plain(DynamicCache(config=model.config)):
        return False
    # Chunks are counted from the first place, which padding moves.
    return "chunked_attention" not in (
        getattr(model.config.get_text_config(), "layer_types", None) or ()
    )


def not_branched(model: Any, longest: int) -> str | None:
    """Says why several answers can't be read as branches of one prompt; None if they can.

    `longest` is the tokens of the longest prompt with its answer. A mask that is given is taken as
    it is, so a window would have to be cut into it.
    """
    if _keeps_states(model):
        return "it keeps a state that all tokens of a row go into"
    if not _knows_positions(model):
        return "it can't be told the positions of tokens"
    size = window(model.config)
    if size is not None and longest > size:
        return f"its attention looks {size} tokens back, and the longest text has {longest}"
    if getattr(model.config.get_text_config(), "output_router_logits", False):
        return "its loss has a part of its own, for its experts"
    return None


def _check_quantised(folder: Path) -> None:
    """Raises ModelError for quantised weights that can't be loaded here."""
    settings = json.loads((folder / "config.json").read_bytes()).get("quantization_config")
    if not isinstance(settings, dict):
        return
    method = settings.get("quant_method", "an unnamed method")
    if method in NOT_CAST:
        raise ModelError(
            f"{folder}: its weights are quantised ({method}), and can't be brought to another "
            "dtype: name the model that it was made of, whose weights are not quantised"
        )
    from transformers.quantizers.auto import AutoHfQuantizer

    # Each method has checks of its own: a library, a GPU, a setting.
    with reading(f"{folder}: its weights are quantised ({method}), and don't load here"):
        quantizer = AutoHfQuantizer.from_config(settings, pre_quantized=True)
        quantizer.validate_environment(device_map=None, weights_only=True)
