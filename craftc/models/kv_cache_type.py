"""Bytes of a value in the KV cache: two, unless the checkpoint states that its cache is quantised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from craftc.errors import Unsupported
from craftc.models.quantization import settings_beside, stated_quantization
from craftc.models.quantization_settings import Settings

_PLAIN = 2.0
_BYTES = {"FP8": 1.0, "INT8": 1.0, "NVFP4": 4.5 / 8}
"""ModelOpt's algorithms; NVFP4 has a scale of one byte for every 16 values."""


def kv_value_bytes(levels: Sequence[Mapping[str, Any]], folder: Path | None) -> float:
    """What a config (its nested levels) says, or ModelOpt's file beside it. Raises Unsupported if it is not known."""
    beside = None if folder is None else settings_beside(folder)
    stated = stated_quantization(levels, folder)
    for settings in (stated, beside):
        size = None if settings is None else _stated_bytes(settings[0])
        if size is not None:
            return size
    return _PLAIN


def _stated_bytes(settings: Settings) -> float | None:
    algorithm = settings.get("kv_cache_quant_algo")
    if isinstance(algorithm, str) and algorithm.lower() != "none":
        if algorithm.upper() not in _BYTES:
            raise Unsupported(f"kv_cache_quant_algo {algorithm!r} is not known here ({', '.join(_BYTES)}, or null)")
        return _BYTES[algorithm.upper()]
    scheme = settings.get("kv_cache_scheme")
    return None if scheme is None else _scheme_bytes(scheme)


def _scheme_bytes(scheme: Any) -> float:
    """llm-compressor and ModelOpt: an object with bits."""
    bits = scheme.get("num_bits") if isinstance(scheme, dict) else None
    if bits not in (4, 8, 16):
        raise Unsupported(f"kv_cache_scheme {scheme!r} is not known here (an object with num_bits 4, 8 or 16)")
    return bits / 8
