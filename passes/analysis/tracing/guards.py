"""What the traced code decided by sizes, dtypes or devices: right for the example inputs, and checked on every call.

Dynamo's answer: evaluate on the example, go on with the branch taken, and keep the condition as a guard. Here a guard
is a node of the graph, so that it is copied, pickled and run with it.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch.fx.node import has_side_effect
from torch.utils import _pytree as pytree

from craftc.errors import BadInput

_RANKS = ("dim", "ndim", "layout", "is_floating_point", "is_complex")
_READERS = (
    *(*_RANKS, "shape", "size", "numel", "nelement", "stride", "dtype", "device", "is_cuda", "is_contiguous"),
    *("get_device", "element_size", "is_meta", "is_sparse", "requires_grad", "storage_offset", "nbytes"),
)
_SELECTING = ("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount")
_SIZED_BY_ARGUMENTS = ("view", "reshape", "expand", "new_zeros", "new_ones", "new_empty", "new_full")


def require_same(value: Any, expected: Any, where: str) -> None:
    """A guard. Raises BadInput if `value` is not what it was on the example inputs."""
    if isinstance(value, fx.Proxy):  # the graph is traced again, as torch.load does: the guard stays
        value.tracer.create_proxy("call_function", require_same, (value, expected, where), {})
        return
    if value == expected:
        return
    raise BadInput(
        f"{where}: the code asks for a size, dtype or device here; the answer was {expected} on the example inputs and "
        f"is {value} now, so the traced model would compute something else: give example inputs that are like these"
    )


has_side_effect(require_same)  # without readers, but never dead


def is_fixed(node: fx.Node) -> bool:
    """Whether the node's value follows from ranks alone, which are the same on every call: no guard is needed."""
    return _reads(node, _RANKS) or (_is_arithmetic(node) and all(map(is_fixed, node.all_input_nodes)))


def is_guardable(node: fx.Node, data_sized: set[fx.Node]) -> bool:
    """Whether the node's value follows from sizes, dtypes and devices that do not depend on what tensors hold."""
    if _is_tensor(node) or node in data_sized:
        return False
    if _reads(node, _READERS):
        return True
    # A number among a module's outputs is what the module computed; whether it has outputs is its structure.
    is_item = node.op == "call_function" and node.target in (operator.getitem, getattr)
    return all(
        not _is_tensor(source) and ((_holds_tensors(source) and not is_item) or is_guardable(source, data_sized))
        for source in node.all_input_nodes
    )


def is_data_sized(node: fx.Node, example: Any, examples: tuple[Any, ...], data_sized: set[fx.Node]) -> bool:
    """Whether the size of the node's value depends on what tensors hold: `x[mask]`, `nonzero`, and what follows.

    A value of the same shape as an argument whose size does not depend on it is not: `out.index_add(0, rows, x)`.
    """
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    tensors = [argument for argument in pytree.tree_leaves(examples) if isinstance(argument, torch.Tensor)]
    if node.op in ("call_function", "call_method"):
        if name in _SELECTING or (name == "where" and len(node.args) == 1):
            return True
        if name == "getitem" and any(tensor.dtype == torch.bool for tensor in tensors[1:]):
            return True
        if name == "repeat_interleave" and len(tensors) > 1:
            return True
    suspect = [source for source in node.all_input_nodes if source in data_sized]
    if name in _SIZED_BY_ARGUMENTS:
        suspect = [source for source in suspect if source is not node.all_input_nodes[0]]
    if not suspect or not isinstance(example, torch.Tensor):
        return bool(suspect)
    clean = (source.meta.get("val") for source in node.all_input_nodes if source not in data_sized)
    return not any(isinstance(value, torch.Tensor) and value.shape == example.shape for value in clean)


def _reads(node: fx.Node, names: tuple[str, ...]) -> bool:
    """Whether the node reads one of `names` of a tensor: an attribute, a method, or `len`."""
    if not node.all_input_nodes or not _is_tensor(node.all_input_nodes[0]):
        return False
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in names
    if node.op == "call_function" and node.target in (len, torch.numel):
        return "size" in names
    return node.op == "call_method" and node.target in names


def _is_arithmetic(node: fx.Node) -> bool:
    return node.op == "call_function" and bool(node.all_input_nodes) and not _is_tensor(node)


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor)


def _holds_tensors(node: fx.Node) -> bool:
    """A container: whether it is empty, or has a key, is its structure and not what its tensors hold."""
    return any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(node.meta.get("val")))
