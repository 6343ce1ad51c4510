"""A table of hand-written MoE blocks: found, optimised with equal outputs, or why not.

python -m tests.passes.analysis.tracing.style_table
"""

from __future__ import annotations

import warnings

import torch
from torch import nn

import craftc
from craftc.errors import CraftcError, one_line
from craftc.passes.analysis.find_moe_layers import find_moe_layers
from craftc.passes.analysis.trace import trace
from tests.passes.analysis.tracing.block_styles import BLOCK_STYLES
from tests.passes.analysis.tracing.dispatch_styles import HIDDEN, STYLES, Block, tokens
from tests.passes.analysis.tracing.handwritten_styles import COUNTING_STYLES


class Stack(nn.Module):
    """Two blocks on top of each other and a head; blocks may return more than their output."""

    def __init__(self, block: type[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList([block(), block()])
        self.head = nn.Linear(HIDDEN, 5)

    def forward(self, x):
        extra = 0.0
        for layer in self.layers:
            output = layer(x)
            if isinstance(output, dict):
                output = output["hidden"], output["logits"]
            if isinstance(output, tuple):
                output, beside = output
                extra = extra + beside.mean()
            x = x + output
        return self.head(x) + extra


def build(block: type[nn.Module]) -> nn.Module:
    """A model of two such blocks with random weights, in eval mode."""
    torch.manual_seed(0)
    return Stack(block).eval()


def row_of(block: type[nn.Module]) -> tuple[str, str, str, str]:
    """Style, layers found, whether it was optimised, and the reason if not."""
    model, inputs = build(block), tokens(2, 16)
    graph_module, near_misses = trace(model, inputs)
    found, missed = find_moe_layers(model, graph_module)
    reasons = [miss.reason for miss in near_misses + missed]
    read = any("routing" in str(node.target) for node in graph_module.graph.nodes if node.op == "call_module")
    how = "read" if read else "traced" if found else ""
    if not found:
        return block.__name__, f"{len(found)} of 2 {how}", "no", reasons[0] if reasons else ""
    try:
        done = craftc.optimize(model, inputs, craftc.Topology(gpus=4), "25%")
    except CraftcError as error:
        return block.__name__, f"{len(found)} of 2 {how}", "no", one_line(error)
    with torch.no_grad():
        other = tokens(3, 11, seed=5)
        gap = float((done.model(**other) - model(**other)).abs().max())
    return block.__name__, f"{len(found)} of 2 {how}", f"yes, {gap:.0e} elsewhere", reasons[0] if reasons else ""


def main() -> None:
    """Print the table."""
    warnings.filterwarnings("ignore")
    every: list[type[nn.Module]] = [*(style for style in STYLES if issubclass(style, Block)), *COUNTING_STYLES]
    rows = []
    for style in [*every, *BLOCK_STYLES]:
        try:
            rows.append(row_of(style))
        except Exception as error:
            rows.append((style.__name__, "", "error", f"{type(error).__name__}: {one_line(error)}"))
        print("  ".join((rows[-1][0].ljust(18), rows[-1][1].ljust(14), rows[-1][2].ljust(24), rows[-1][3])), flush=True)
    print(f"{sum(row[2].startswith('yes') for row in rows)} of {len(rows)} optimised")


if __name__ == "__main__":
    main()
