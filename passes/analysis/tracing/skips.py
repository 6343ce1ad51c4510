"""`if mask.any():` in hand-written dispatch: an expert without tokens is skipped, which only saves time.

The branch with tokens is traced. A check on the original module shows that skipping changes nothing: its output for a
single token, when most experts are skipped, must equal that token's output among all tokens, when few are skipped.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn
from torch.fx.proxy import TraceError
from torch.utils import _pytree as pytree

_MANY = 10**9
_COMPARISONS = (operator.eq, operator.ne, operator.gt, operator.ge, operator.lt, operator.le)
_COUNTING_METHODS = ("numel", "size", "sum", "count_nonzero")


def answer_with_tokens(node: fx.Node) -> bool | None:
    """The value that a condition on an expert's number of tokens has for many tokens; None for any other condition."""
    if node.op == "call_function" and node.target in _COMPARISONS:
        counted, bound = node.args[0], node.args[1]
        if isinstance(counted, fx.Node) and _is_count(counted) and isinstance(bound, int):
            return bool(node.target(_MANY, bound))
        return None
    is_any = node.target in (torch.any, "any") and node.op in ("call_function", "call_method")
    return True if is_any or _is_count(node) else None


def check_skipping(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], traced: Any) -> None:
    """Raises TraceError unless `module` returns `traced` on its arguments, and the same for its first token alone."""
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    if len(tensors) != 1 or not isinstance(traced, torch.Tensor) or traced.shape[:-1] != tensors[0].shape[:-1]:
        raise TraceError("it skips experts without tokens, and does not map one tensor of tokens to another")
    first = (slice(0, 1),) * (traced.dim() - 1)
    one_token_args, one_token_kwargs = pytree.tree_map_only(torch.Tensor, lambda tensor: tensor[first], (args, kwargs))
    for got, expected in (
        (module(*args, **kwargs), traced),
        (module(*one_token_args, **one_token_kwargs), traced[first]),
    ):
        difference = float((got - expected).abs().max() / expected.abs().max())
        allowed = torch.finfo(expected.dtype).eps ** 0.5  # matrix products of different shapes round differently
        if not difference <= allowed:
            raise TraceError(
                f"skipping its experts without tokens changes its output: "
                f"relative difference {difference:.1e}, {allowed:.1e} allowed"
            )


def _is_count(node: fx.Node) -> bool:
    if node.op == "call_method":
        if node.target == "item":
            return isinstance(node.args[0], fx.Node) and _is_count(node.args[0])
        return node.target in _COUNTING_METHODS
    if node.op != "call_function":
        return False
    if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        shape = node.args[0]
        return shape.target is getattr and shape.args[1] == "shape"
    return node.target in (torch.sum, torch.count_nonzero, torch.numel)
