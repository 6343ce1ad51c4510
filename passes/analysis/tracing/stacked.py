"""Which modules hold experts in stacked parameters but have a forward of their own kind."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torch import nn

from craftc.passes.analysis.tracing.experts import ExpertsModule


def find_stacked(model: nn.Module, known: Collection[ExpertsModule]) -> tuple[ExpertsModule, ...]:
    """Outermost modules whose parameters all have the same first dim, the experts', with a router beside them.

    `known` are experts that have been found already; a block that holds some is not looked at again.
    """
    found: list[ExpertsModule] = []
    for path, module in model.named_modules():
        if not path or any(overlap(path, other.path) for other in (*known, *found)):
            continue
        experts = _stack_size(module)
        if experts is None or not _router_beside(model, path, experts):
            continue
        block = block_of(model, path)
        if not any(overlap(other.path, block) for other in known):
            found.append(ExpertsModule(path, "stacked", experts))
    return tuple(found)


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
    tensors = list(module.parameters())
    if not any(tensor.dim() == 3 for tensor in tensors) or any(_of_torch(inner) for inner in _with_parameters(module)):
        return None
    sizes = {tensor.shape[0] if tensor.dim() else 0 for tensor in tensors}
    return sizes.pop() if len(sizes) == 1 and min(sizes) >= 2 else None


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
