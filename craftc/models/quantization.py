"""How a checkpoint is quantised, matrix by matrix, from all the places where that is stated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from craftc.errors import BadInput, Unsupported
from craftc.files.outside_documents import parse_settings, read_bytes
from craftc.models.compute_types import ComputeType, TypeOf, compute_type_of
from craftc.models.expert_matrix import ExpertMatrix
from craftc.models.module_patterns import ModulePatterns, is_class_of_experts
from craftc.models.quantization_methods import sizer_of
from craftc.models.quantization_settings import GIVE_SIZE, Settings, Sizer

_LEFT_OUT = (
    "modules_to_not_convert",
    "ignored_layers",
    "ignore",
    "exclude_modules",
    "exclude",
    "llm_int8_skip_modules",
)
"""Keys of lists of what is not quantised."""


@dataclass(frozen=True)
class Quantization:
    """One statement of how a checkpoint is quantised."""

    sizer: Sizer
    """Bytes of a matrix that is quantised."""
    left_out: tuple[ModulePatterns, ...]
    """Lists of what is not quantised."""
    names: frozenset[str]
    """Every name and pattern in it, to see whether it tells experts apart."""
    type_of: TypeOf
    """Type in which a matrix that is quantised is multiplied."""

    def matrix_bytes(self, matrix: ExpertMatrix, plain: int) -> int | None:
        """Bytes of `matrix`, or None if it is stored in the model's own type, of which a value has `plain` bytes."""
        if any(patterns.entry_for(matrix) is not None for patterns in self.left_out):
            return None
        return self.sizer(matrix, plain)

    def compute_type(self, matrix: ExpertMatrix) -> ComputeType | None:
        """Type in which `matrix` is multiplied, or None if that is the model's own."""
        if any(patterns.entry_for(matrix) is not None for patterns in self.left_out):
            return None
        return self.type_of(matrix)


def quantization_of(settings: Settings, field: str) -> Quantization:
    """What `settings` say; `field` names them in messages. Raises BadInput, Unsupported for an unknown method."""
    lists = []
    for key in _LEFT_OUT:
        entries = settings.get(key)
        if entries is None:
            continue
        if not isinstance(entries, list):
            raise BadInput(f"{field}: {key} must be a list of modules, got {entries!r}")
        for entry in map(str, entries):
            if is_class_of_experts(entry):
                raise Unsupported(
                    f"{field}: {key}: whether {entry} is the class of the experts is not known; {GIVE_SIZE}"
                )
        lists.append(ModulePatterns(map(str, entries), f"{field}: {key}"))
    if settings.get("expert_dtype") is not None and settings.get("quant_method") != "fp8":
        raise Unsupported(
            f"expert_dtype {settings['expert_dtype']!r} is not known with quant_method "
            f"{settings.get('quant_method')!r}; {GIVE_SIZE}"
        )
    return Quantization(
        sizer=sizer_of(settings, field),
        left_out=tuple(lists),
        names=frozenset(_all_names(settings)),
        type_of=compute_type_of(settings, field),
    )


def stated_quantization(levels: Sequence[Mapping[str, Any]], folder: Path | None) -> tuple[Settings, str] | None:
    """The settings in a config (its nested levels, innermost first) or in `hf_quant_config.json` beside it, and where.

    Raises BadInput if two places say different things.
    """
    found: list[tuple[Settings, str]] = []
    for level in levels:
        for key in ("quantization_config", "compression_config"):
            settings = level.get(key)
            if settings is not None and not isinstance(settings, dict):
                raise BadInput(f"{key} must be an object, got {type(settings).__name__}")
            if settings:
                found.append((_flat(_with_expert_dtype(settings, levels)), key))
    if any(settings != found[0][0] for settings, _ in found):
        raise BadInput("quantization_config is given twice, and the two differ: keep the one that is right")
    beside = None if folder is None else settings_beside(folder)
    if not found and beside is None and any(level.get("expert_dtype") is not None for level in levels):
        return _with_expert_dtype({}, levels), "quantization_config"
    if not found:
        return beside
    if beside is not None and not _agree(found[0][0], beside[0]):
        raise BadInput(
            f"{found[0][1]} has quant_method {found[0][0].get('quant_method')!r}, {beside[1]} has quant_algo "
            f"{beside[0].get('quant_algo')!r}: keep the one that is right"
        )
    return found[0]


def _flat(settings: Settings) -> Settings:
    """ModelOpt's own file as it is, put into a config."""
    inner = settings.get("quantization")
    return {**settings, **inner} if isinstance(inner, dict) else settings


def _with_expert_dtype(settings: Settings, levels: Sequence[Mapping[str, Any]]) -> Settings:
    """DeepSeek-V4 states the type of its experts outside."""
    outside = next((level["expert_dtype"] for level in levels if level.get("expert_dtype") is not None), None)
    return settings if outside is None else {"expert_dtype": outside, **settings}


def settings_beside(folder: Path) -> tuple[Settings, str] | None:
    """What ModelOpt's `hf_quant_config.json` in `folder` says, and the file's name. Raises BadInput."""
    file = folder / "hf_quant_config.json"
    if not file.is_file():
        return None
    document = parse_settings(read_bytes(file), str(file))
    settings = document.get("quantization") if isinstance(document, dict) else None
    if not isinstance(settings, dict):
        raise BadInput(f"{file.name}: quantization must be an object, got {settings!r}")
    return {"quant_method": "modelopt", **settings}, file.name


def _agree(inside: Settings, beside: Settings) -> bool:
    """Whether a config that states a method of its own means the same checkpoint as ModelOpt's file."""
    if "quant_algo" in inside:
        return str(inside["quant_algo"]).upper() == str(beside.get("quant_algo")).upper()
    return str(inside.get("quant_method")).lower().startswith(("modelopt", "compressed-tensors"))


def _all_names(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [*map(str, value), *(name for inner in value.values() for name in _all_names(inner))]
    return [name for inner in value for name in _all_names(inner)] if isinstance(value, list) else []
