"""`torch.export.ExportedProgram` as input: its MoE regions become experts modules again.

An exported program has arithmetic, but no modules. Each region that `find_regions` finds is moved, with its parameters,
into a module behind the experts ABI; the result is an ordinary model to trace, plan for and rewrite.
Axes: T tokens, K experts per token, H hidden, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from craftc.backend.regions import ExpertsParameters, ModuleStack, Region, example_value, find_regions
from craftc.backend.split import replace_region
from craftc.errors import BadInput, Unsupported
from craftc.passes.compilation import NearMiss
from craftc.passes.rewriting.checking.output_comparison import RELATIVE_TOLERANCE
from craftc.runtime.local_experts import local_experts

_HOW = (
    "export the model after model.set_experts_implementation('batched_mm'), with dynamic_shapes for batch and sequence"
)
_ASSERT = torch.ops.aten._assert_tensor_metadata.default


class RegionExperts(nn.Module):
    """Experts cut out of a graph: `forward(hidden [T, H], indices [T, K], weights [T, K]) -> [T, H]`."""

    def __init__(self, parameters: dict[str, nn.Parameter], body: fx.GraphModule, top_k: int) -> None:
        super().__init__()
        for name, parameter in parameters.items():
            self.register_parameter(name, parameter)
        self.num_experts = next(iter(parameters.values())).shape[0]
        self.top_k = top_k
        """Experts per token that the exported arithmetic computes, K."""
        self.body = body
        """`(hidden, indices, weights, *parameters) -> [T, H]`, without parameters of its own."""

    def forward(self, hidden: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        missing = self.top_k - indices.shape[1]
        if missing > 0:  # the arithmetic always takes K: pad with experts of weight 0
            indices = torch.cat([indices, indices[:, :1].expand(-1, missing)], dim=1)
            weights = torch.cat([weights, weights.new_zeros(1).expand(weights.shape[0], missing)], dim=1)
        return self.body(hidden, indices, weights, *self._parameters.values())


def restored_model(exported: ExportedProgram) -> nn.Module:
    """A module that computes what the program does, with experts modules again, ready to trace; parameters are shared.

    Raises BadInput for anything but an ExportedProgram, Unsupported if one of its MoE layers cannot be cut
    out, saying why and how to export instead.
    """
    if not isinstance(exported, ExportedProgram):
        raise BadInput(
            f"model must be a torch.nn.Module or a torch.export.ExportedProgram, got {type(exported).__name__}"
        )
    program = exported.module()
    assert isinstance(program, fx.GraphModule)
    experts = tuple(_experts_of(program))
    for found in find_regions(program.graph, experts):
        if isinstance(found, NearMiss):
            raise Unsupported(f"exported program: layer {found.name}: {found.reason}; {_HOW}")
        restored = _cut_out(program, found)
        _check_selectable(found, restored)
        program.set_submodule(found.experts.name, restored)
        replace_region(program.graph, found, found.experts.name, ())
    for node in program.graph.find_nodes(op="call_function", target=_ASSERT):
        program.graph.erase_node(node)  # true by construction, and an obstacle to running in another dtype
    for node in program.graph.find_nodes(op="get_attr"):
        if not node.users:
            program.graph.erase_node(node)
    program.graph.lint()
    program.recompile()
    return program


def own_dtypes(exported: ExportedProgram) -> tuple[torch.dtype, ...]:
    """The dtype to verify the program in: its own, which is baked in. Raises Unsupported unless it has exactly one, and
    craftc verifies in that one."""
    dtypes = {parameter.dtype for parameter in exported.parameters()}
    known = tuple(dtype for dtype in RELATIVE_TOLERANCE if dtypes == {dtype})
    if not known:
        found = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        raise Unsupported(f"exported program: its parameters are {found}; export it in float32 or bfloat16 throughout")
    return known


def _experts_of(program: fx.GraphModule) -> Iterator[ExpertsParameters]:
    """Parameters that look like fused experts: they have one owner and the same dim 0, and at least one is 3-D."""
    owners: dict[str, list[fx.Node]] = {}
    for node in program.graph.find_nodes(op="get_attr"):
        owners.setdefault(str(node.target).rpartition(".")[0], []).append(node)
    for owner, nodes in owners.items():
        values = [example_value(node) for node in nodes]
        shapes = [value.shape for value in values if isinstance(value, Tensor)]
        stacked = any(len(shape) == 3 for shape in shapes) and all(len(shape) > 0 for shape in shapes)
        if not stacked or len({shape[0] for shape in shapes}) != 1 or shapes[0][0] < 2:
            continue
        class_name = _owner_class(nodes, owner)
        if class_name is not None and not class_name.startswith("torch.nn."):
            yield ExpertsParameters(
                owner, class_name, tuple((str(node.target).rpartition(".")[2], node) for node in nodes)
            )


def _owner_class(nodes: list[fx.Node], owner: str) -> str | None:
    """Class of the module at `owner`, as recorded by the nodes that use its parameters."""
    for user in (user for node in nodes for user in node.users):
        stack: ModuleStack = user.meta.get("nn_module_stack") or {}
        for path, cls in stack.values():
            if path == owner:
                return str(cls)
    return None


def _cut_out(program: fx.GraphModule, region: Region) -> RegionExperts:
    names = [name for name, _ in region.experts.nodes]
    graph = fx.Graph()
    inputs = [region.hidden, region.indices, region.weights, *(node for _, node in region.experts.nodes)]
    copies = {
        node: graph.placeholder(name)
        for name, node in zip(("hidden", "indices", "weights", *names), inputs, strict=True)
    }
    tokens = graph.call_function(torch.ops.aten.sym_size.int, (copies[region.hidden], 0))
    for node in region.nodes:
        if node.target is _ASSERT:
            continue
        for size in (operand for operand in node.all_input_nodes if operand not in copies):
            factor = _tokens_in(region, size)
            copies[size] = tokens if factor == 1 else graph.call_function(torch.mul, (tokens, factor))
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[region.output])
    indices = example_value(region.indices)
    assert isinstance(indices, Tensor)
    owner = program.get_submodule(region.experts.name)
    parameters = {name: owner.get_parameter(name) for name in names}
    return RegionExperts(parameters, fx.GraphModule(nn.Module(), graph), int(indices.shape[1]))


def _tokens_in(region: Region, size: fx.Node) -> int:
    """`size` divided by T. Raises Unsupported if `size` is not a multiple of T."""
    value, hidden = example_value(size), example_value(region.hidden)
    assert isinstance(hidden, Tensor)
    if isinstance(value, torch.SymInt) and isinstance(hidden.shape[0], torch.SymInt):
        factor = value.node.expr / hidden.shape[0].node.expr
        if factor.is_Integer:
            return int(factor)
    raise Unsupported(
        f"exported program: layer {region.experts.name}: its size {size} = {value} is not a multiple of its "
        f"{hidden.shape[0]} tokens; {_HOW}"
    )


def _check_selectable(region: Region, experts: RegionExperts) -> None:
    """Check that neither the number of experts nor the number of tokens is baked into the exported arithmetic: run it
    with one of each."""
    last = experts.num_experts - 1
    try:
        whole = _run_one_token(region, experts, last)
        part = _run_one_token(region, local_experts(experts, (last,)), 0)
    except (RuntimeError, IndexError):
        reason = f"runs only with all its {experts.num_experts} experts"
        raise Unsupported(f"exported program: layer {region.experts.name} {reason}; {_HOW}") from None
    if not whole.is_meta and not torch.allclose(whole, part, rtol=1e-2, atol=1e-5):
        raise Unsupported(
            f"exported program: layer {region.experts.name} computes something else with some of its experts; {_HOW}"
        )


def _run_one_token(region: Region, experts: nn.Module, expert: int) -> Tensor:
    """One token through one expert, `[1, H]`."""
    hidden, weights = example_value(region.hidden), example_value(region.weights)
    assert isinstance(hidden, Tensor)
    assert isinstance(weights, Tensor)
    device = next(experts.parameters()).device
    hidden_1H = torch.linspace(-1, 1, hidden.shape[1], device=device).to(hidden.dtype)[None]
    weights_1K = torch.ones(1, weights.shape[1], dtype=weights.dtype, device=device)
    with torch.no_grad():
        return experts(hidden_1H, torch.full(weights_1K.shape, expert, device=device), weights_1K)
