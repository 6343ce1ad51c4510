"""Modules that could hold experts, which only reading their block can tell; and experts that are no module at all."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from torch import nn

from craftc.passes.analysis.tracing.experts import ABI, ExpertsModule, is_list_of_alike
from craftc.passes.compilation import NearMiss
from craftc.runtime.module_list_experts import expert_modules, is_container


def find_unsure(
    model: nn.Module, known: Sequence[ExpertsModule], near_misses: Sequence[NearMiss]
) -> tuple[ExpertsModule, ...]:
    """Modules whose parameters all have the same first dim, with a router beside them, and lists of alike modules among
    the near misses, which have no router of their size (one with more outputs, say).

    `known` are experts that have been found already; a block that holds some is not looked at again.
    """
    candidates = [*_stacked(model, tuple(f"{other.path}." for other in known)), *_lists(model, near_misses)]
    found: list[ExpertsModule] = []
    for module in candidates:
        block = block_of(model, module.path)
        if any(overlap(other.path, block) for other in known) or any(overlap(module.path, one.path) for one in found):
            continue
        found.append(module)
    return tuple(found)


def parameters_in_blocks(model: nn.Module, known: Collection[str]) -> tuple[NearMiss, ...]:
    """Blocks that hold their experts' parameters themselves, beside those of the router; none of those in `known`."""
    missed: list[NearMiss] = []
    inside_known = tuple(f"{path}." for path in known)
    for path, module in model.named_modules():
        if path.startswith(inside_known):
            continue
        stacked = {name: weight for name, weight in module.named_parameters(recurse=False) if weight.dim() == 3}
        sizes = {weight.shape[0] for weight in stacked.values()}
        if len(stacked) < 2 or len(sizes) > 1 or min(sizes) < 2 or _of_torch(module):
            continue
        router = any(weight.dim() == 2 and min(sizes) in weight.shape for weight in module.parameters())
        if not path or not router or any(overlap(path, other) for other in known):
            continue
        shapes = ", ".join(f"{name} {list(weight.shape)}" for name, weight in stacked.items())
        reason = (
            f"its experts are parameters of its own ({shapes}), beside its router: move them into a module of {ABI}"
        )
        missed.append(NearMiss(path, reason))
    return tuple(missed)


def _stacked(model: nn.Module, inside_known: tuple[str, ...]) -> Iterator[ExpertsModule]:
    for path, module in model.named_modules():
        experts = _stack_size(module) if path and not path.startswith(inside_known) else None
        if experts is not None and _router_beside(model, path, experts):
            yield ExpertsModule(path, "stacked", experts)


def _lists(model: nn.Module, near_misses: Sequence[NearMiss]) -> Iterator[ExpertsModule]:
    for miss in near_misses:
        module = model.get_submodule(miss.name)
        if is_container(module) and is_list_of_alike(modules := tuple(expert_modules(module).values())):
            yield ExpertsModule(miss.name, "module_list", len(modules))


def block_of(model: nn.Module, path: str) -> str:
    """The nearest module above `path` that has a forward (a list of lists has none)."""
    owner = path.rpartition(".")[0]
    while owner and type(model.get_submodule(owner)).forward is nn.Module.forward:
        owner = owner.rpartition(".")[0]
    return owner


def overlap(path: str, other: str) -> bool:
    """Whether one of the modules at these paths is, or holds, the other; the empty path is the model's."""
    return path == other or not path or not other or path.startswith(f"{other}.") or other.startswith(f"{path}.")


def _stack_size(module: nn.Module) -> int | None:
    """The first dim that all its parameters have, at least one of them 3-D; None for anything else.

    Modules of torch (convolutions have 3-D weights) are no experts, and neither is what holds one with parameters.
    """
    size, deep = None, False
    for tensor in module.parameters():  # lazily: most modules fail at their second parameter
        if not tensor.dim() or tensor.shape[0] < 2 or size not in (None, tensor.shape[0]):
            return None
        size, deep = tensor.shape[0], deep or tensor.dim() == 3
    return size if deep and not any(_of_torch(inner) for inner in _with_parameters(module)) else None


def _with_parameters(module: nn.Module) -> Iterator[nn.Module]:
    return (inner for inner in module.modules() if any(True for _ in inner.parameters(recurse=False)))


def _of_torch(module: nn.Module) -> bool:
    return type(module).__module__.partition(".")[0] == "torch"


def _router_beside(model: nn.Module, path: str, experts: int) -> bool:
    """Whether the two modules above have a 2-D parameter outside with a dim of E: the router's."""
    owner = path
    for _ in range(2):
        owner = owner.rpartition(".")[0]
        inside = path[len(owner) + 1 if owner else 0 :]
        for name, parameter in model.get_submodule(owner).named_parameters():
            if not name.startswith(f"{inside}.") and parameter.dim() == 2 and experts in parameter.shape:
                return True
        if not owner:
            return False
    return False
