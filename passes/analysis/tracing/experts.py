"""Which modules of a model hold experts, recognised by their structure; used before and after tracing."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from craftc.passes.compilation import NearMiss
from craftc.runtime.expert_layout import expert_layout, first_shapes
from craftc.runtime.local_experts import expert_count
from craftc.runtime.module_list_experts import expert_modules, is_container

ABI = "(hidden_states, top_k_index, top_k_weights)"
_HINT = "expert"


@dataclass(frozen=True)
class ExpertsModule:
    """A module, or a ModuleList, that holds the experts of one MoE layer."""

    path: str
    """Path in the model."""
    layout: Literal["fused", "module_list", "stacked"]
    """`fused`: one module with 3-D parameters and the experts ABI; `module_list`: one module per expert, in a
    ModuleList or ModuleDict; `stacked`: one module whose parameters all have E as first dim, called in another way."""
    experts: int
    """Number of experts, at least 2."""


def find_experts(model: nn.Module) -> tuple[tuple[ExpertsModule, ...], tuple[NearMiss, ...]]:
    """Modules that hold experts, in the model's order, and modules that almost do, with the condition that failed."""
    found: list[ExpertsModule] = []
    missed: list[NearMiss] = []
    for path, module in model.named_modules():
        if not path:
            continue
        if is_container(module):
            modules = tuple(expert_modules(module).values())
            if is_list_of_alike(modules) and _has_router_beside(model, path, len(modules)):
                found.append(ExpertsModule(path, "module_list", len(modules)))
            elif reason := _why_not_a_list_of_experts(path, modules):
                missed.append(NearMiss(path, reason))
        elif type(module).__module__.partition(".")[0] == "torch":
            continue
        elif (reason := why_not_fused(module)) is None:
            found.append(ExpertsModule(path, "fused", expert_count(module)))
        elif _looks_like_experts(path, module):
            missed.append(NearMiss(path, reason))
    outer = {module.path for module in found if any(inner.path.startswith(f"{module.path}.") for inner in found)}
    kept = tuple(
        module for module in found if module.path not in outer
    )  # a list of blocks that hold experts is not a list of experts
    return kept, tuple(miss for miss in missed if not any(_nested(miss.name, module.path) for module in kept))


def _nested(path: str, other: str) -> bool:
    return path.startswith(f"{other}.") or other.startswith(f"{path}.")


def why_not_fused(module: nn.Module) -> str | None:
    """The first condition of the fused layout that `module` fails, or None.

    The conditions: its parameters are stacked over experts (`expert_layout`; at least 2, and in three dimensions unless
    they are flat), and forward takes the experts ABI.
    """
    own = dict(module.named_parameters(recurse=False))
    if own and not any(parameter.dim() == 3 for parameter in own.values()):
        return f"no 3-D parameters stacked over experts: it has {first_shapes(own)}"
    takes = positional_arguments(module)
    if takes is not None and len(takes) < 3:
        return f"forward takes {len(takes)} argument(s) ({', '.join(takes)}), the experts ABI needs 3: {ABI}"
    layout = expert_layout(module)
    if isinstance(layout, str):
        return layout
    if layout.experts < 2:
        return f"it holds {layout.experts} expert, at least 2 are needed"
    return None


def block_index(model: nn.Module, path: str, ordinal: int) -> int:
    """Position in the longest ModuleList on the way to `path`, the stack of blocks; the ordinal if there is none."""
    parts = path.split(".")
    stacks = [
        (len(owner), -depth, int(part))
        for depth, part in enumerate(parts)
        if isinstance(owner := model.get_submodule(".".join(parts[:depth])), nn.ModuleList)
    ]
    return max(stacks)[2] if stacks else ordinal


def is_list_of_alike(modules: Sequence[nn.Module]) -> bool:
    """Two or more modules of one class, with at least one parameter each, of the same names, shapes and dtypes."""
    if len(modules) < 2 or len({type(module) for module in modules}) > 1:
        return False
    signatures = {
        tuple((name, weight.shape, weight.dtype) for name, weight in module.named_parameters()) for module in modules
    }
    return len(signatures) == 1 and signatures != {()}


def is_named_experts(path: str) -> bool:
    """Whether the module's own name contains `expert`; names decide what is reported, never what is matched."""
    return _HINT in path.rpartition(".")[2].lower()


def positional_arguments(module: nn.Module) -> tuple[str, ...] | None:
    """Names of forward's positional arguments, or None if it takes any number."""
    parameters = inspect.signature(module.forward).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(parameter.name for parameter in parameters if parameter.kind in positional)


def _has_router_beside(model: nn.Module, path: str, experts: int) -> bool:
    """Whether the owner of the list, or the owner above it, has a parameter with a dim of E outside the list: the
    router's."""
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


def _why_not_a_list_of_experts(path: str, modules: Sequence[nn.Module]) -> str | None:
    """The condition that a ModuleList named like experts fails; None for lists of anything else."""
    if not is_named_experts(path) or len(modules) < 2:
        return None
    kinds = sorted({type(module).__name__ for module in modules})
    if not is_list_of_alike(modules):
        return f"its {len(modules)} modules are not alike: classes {', '.join(kinds)}, or parameters of other shapes"
    return f"no router next to it: no parameter with a dim of {len(modules)} in the two modules above"


def _looks_like_experts(path: str, module: nn.Module) -> bool:
    """Whether a module is worth reporting: it has parameters, and is named experts or stacks 3-D parameters and has a
    count."""
    if not any(True for _ in module.parameters()):
        return False
    named = path.rpartition(".")[2] == "experts" or type(module).__name__.endswith("Experts")
    stacks = any(parameter.dim() == 3 for parameter in module.parameters(recurse=False))
    return named or (stacks and hasattr(module, "num_experts"))
