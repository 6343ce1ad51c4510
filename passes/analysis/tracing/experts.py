"""Which modules of a model hold experts, told from their structure: used before tracing and after it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Literal

from torch import nn

from craftc.passes.compilation import NearMiss

ABI = "(hidden_states, top_k_index, top_k_weights)"
_HINT = "expert"


@dataclass(frozen=True)
class ExpertsModule:
    """A module, or a ModuleList, that holds the experts of one MoE layer."""

    path: str
    """Path in the model."""
    layout: Literal["fused", "module_list"]
    """One module with 3-D parameters, or a module per expert."""
    experts: int
    """Number of experts, at least 2."""


def find_experts(model: nn.Module) -> tuple[tuple[ExpertsModule, ...], tuple[NearMiss, ...]]:
    """Modules that hold experts, in the model's order, and modules that almost do, with the condition that failed."""
    found: list[ExpertsModule] = []
    missed: list[NearMiss] = []
    for path, module in model.named_modules():
        if not path:
            continue
        if isinstance(module, nn.ModuleList):
            if is_list_of_alike(module) and _has_router_beside(model, path, len(module)):
                found.append(ExpertsModule(path, "module_list", len(module)))
            elif reason := _why_not_a_list_of_experts(path, module):
                missed.append(NearMiss(path, reason))
        elif type(module).__module__.partition(".")[0] == "torch":
            continue
        elif (reason := why_not_fused(module)) is None:
            found.append(ExpertsModule(path, "fused", experts_of(module)))
        elif _looks_like_experts(path, module):
            missed.append(NearMiss(path, reason))
    outer = {one.path for one in found if any(other.path.startswith(f"{one.path}.") for other in found)}
    kept = tuple(
        one for one in found if one.path not in outer
    )  # a list of blocks that hold experts is no list of experts
    return kept, tuple(miss for miss in missed if not any(_nested(miss.name, one.path) for one in kept))


def _nested(path: str, other: str) -> bool:
    return path.startswith(f"{other}.") or other.startswith(f"{path}.")


def why_not_fused(module: nn.Module) -> str | None:
    """The first condition of the fused layout that `module` fails, or None: its own parameters are stacked over experts
    (dim 0 of all is `num_experts`, at least 2; one at least 3-D), no child has any, forward takes the experts ABI."""
    own = dict(module.named_parameters(recurse=False))
    stacked = [parameter for parameter in own.values() if parameter.dim() == 3]
    if not stacked:
        shapes = ", ".join(f"{name} {list(one.shape)}" for name, one in module.named_parameters())
        return f"no 3-D parameters stacked over experts: it has {shapes or 'none'}"
    sizes = {parameter.shape[0] if parameter.dim() else 0 for parameter in own.values()}
    if len(sizes) > 1:
        return f"its parameters disagree on the number of experts (dim 0): {sorted(sizes)}"
    experts = stacked[0].shape[0]
    if getattr(module, "num_experts", None) != experts:
        return (
            f"num_experts is {getattr(module, 'num_experts', 'missing')}, its parameters hold {experts} experts (dim 0)"
        )
    if experts < 2:
        return f"it holds {experts} expert, at least 2 are needed"
    if any(True for child in module.children() for _ in child.parameters()):
        return "its children have parameters of their own"
    takes = positional_arguments(module)
    if takes is not None and len(takes) < 3:
        return f"forward takes {len(takes)} argument(s) ({', '.join(takes)}), the experts ABI needs 3: {ABI}"
    return None


def experts_of(module: nn.Module) -> int:
    """Number of experts of a module that has the experts ABI."""
    return int(module.num_experts)  # type: ignore[arg-type]


def block_index(model: nn.Module, path: str, ordinal: int) -> int:
    """Position in the longest ModuleList on the way to `path`, the stack of blocks; the ordinal where there is none."""
    parts = path.split(".")
    stacks = [
        (len(owner), -depth, int(part))
        for depth, part in enumerate(parts)
        if isinstance(owner := model.get_submodule(".".join(parts[:depth])), nn.ModuleList)
    ]
    return max(stacks)[2] if stacks else ordinal


def is_list_of_alike(modules: nn.ModuleList) -> bool:
    """Two modules or more, all of one class, with parameters (one at least) of the same names, shapes and dtypes."""
    if len(modules) < 2 or len({type(module) for module in modules}) > 1:
        return False
    signatures = {tuple((name, one.shape, one.dtype) for name, one in module.named_parameters()) for module in modules}
    return len(signatures) == 1 and signatures != {()}


def is_named_experts(path: str) -> bool:
    """Whether the module's own name says experts; names decide what is reported, never what is matched."""
    return _HINT in path.rpartition(".")[2].lower()


def positional_arguments(module: nn.Module) -> tuple[str, ...] | None:
    """Names of forward's positional arguments, or None where it takes any number."""
    parameters = inspect.signature(module.forward).parameters.values()
    if any(one.kind is one.VAR_POSITIONAL for one in parameters):
        return None
    return tuple(one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD))


def _has_router_beside(model: nn.Module, path: str, experts: int) -> bool:
    """Whether the owner of the list, or its owner, has a parameter outside the list with a dim of E: the router's."""
    owner = path
    for _ in range(2):
        owner = owner.rpartition(".")[0]
        inside = path[len(owner) + 1 if owner else 0 :]
        for name, parameter in model.get_submodule(owner).named_parameters():
            if not name.startswith(f"{inside}.") and experts in parameter.shape:
                return True
        if not owner:
            return False
    return False


def _why_not_a_list_of_experts(path: str, modules: nn.ModuleList) -> str | None:
    """The condition a ModuleList named like experts fails; None for lists of anything else."""
    if not is_named_experts(path) or len(modules) < 2:
        return None
    kinds = sorted({type(module).__name__ for module in modules})
    if not is_list_of_alike(modules):
        return f"its {len(modules)} modules are not alike: classes {', '.join(kinds)}, or parameters of other shapes"
    return f"no router beside it: no parameter with a dim of {len(modules)} in the two modules above"


def _looks_like_experts(path: str, module: nn.Module) -> bool:
    """Worth reporting: has parameters, and either is named experts or stacks 3-D parameters and counts its experts."""
    if not any(True for _ in module.parameters()):
        return False
    named = path.rpartition(".")[2] == "experts" or type(module).__name__.endswith("Experts")
    stacks = any(parameter.dim() == 3 for parameter in module.parameters(recurse=False))
    return named or (stacks and hasattr(module, "num_experts"))
