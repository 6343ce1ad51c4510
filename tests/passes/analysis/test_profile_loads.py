"""Loads counted by the pass against the routers' own choices, recorded on the original model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn

from craftc.errors import BadInput
from craftc.models.moe_layer import MoELayer
from craftc.models.workload import WorkloadInputs
from craftc.passes.analysis.find_moe_layers import FindMoELayers
from craftc.passes.analysis.profile_loads import ProfileLoads, count_tokens, counting_graph
from craftc.passes.analysis.trace import Trace
from craftc.passes.base import run_checked
from craftc.passes.compilation import Compilation
from tests.model_families import FAMILIES

EXPERTS, TOP_K, HIDDEN = 4, 2, 8


class Router(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(EXPERTS, HIDDEN))

    def forward(self, hidden_TH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weights_TK, indices_TK = (hidden_TH @ self.weight.T).softmax(-1).topk(TOP_K)
        return indices_TK, weights_TK


class Experts(nn.Module):
    def __init__(self, runs: list[str], name: str) -> None:
        super().__init__()
        self.num_experts = EXPERTS
        self.scale = nn.Parameter(torch.randn(EXPERTS, 1, HIDDEN))
        self.record, self.run_name = runs.append, name

    def forward(self, hidden_TH: torch.Tensor, indices_TK: torch.Tensor, weights_TK: torch.Tensor) -> torch.Tensor:
        self.record(self.run_name)
        return hidden_TH + (self.scale[indices_TK, 0] * weights_TK[..., None]).sum(1)


def toy_compilation(calibration: Any = None, layers: int = 2) -> tuple[Compilation, list[str]]:
    """Two MoE layers in a hand-made graph, and a list of the experts modules that have run."""
    torch.manual_seed(0)
    runs: list[str] = []
    modules: dict[str, Any] = {"embed": nn.Embedding(16, HIDDEN), "head": nn.Linear(HIDDEN, 16)}
    graph = fx.Graph()
    tokens = graph.placeholder("tokens")
    graph.placeholder("attention_mask", default_value=None)
    flat = graph.call_method("reshape", (tokens, -1))
    hidden = graph.call_module("embed", (flat,))
    records = []
    for layer in range(layers):
        modules |= {f"router{layer}": Router(), f"experts{layer}": Experts(runs, f"experts{layer}")}
        chosen = graph.call_module(f"router{layer}", (hidden,))
        indices, weights = (graph.call_function(lambda pair, at: pair[at], (chosen, at)) for at in (0, 1))
        hidden = graph.call_module(f"experts{layer}", (hidden, indices, weights))
        hidden.meta["moe"] = MoELayer(f"experts{layer}", 2 * layer + 1, EXPERTS, 4 * HIDDEN, TOP_K)
        records.append(hidden.meta["moe"])
    graph.output(graph.call_module("head", (hidden,)))
    example = {"tokens": torch.arange(6).reshape(2, 3)}
    return (
        Compilation(
            graph=fx.GraphModule(modules, graph), layers=tuple(records), inputs=WorkloadInputs(example, calibration)
        ),
        runs,
    )


def counts_by_hooks(model: nn.Module, names: Iterable[str], batch: dict[str, torch.Tensor], experts: int) -> np.ndarray:
    """The oracle: what the experts modules of the original model are given, token by token, `[L, E]`."""
    mask_T = batch.get("attention_mask", torch.ones(batch[next(iter(batch))].shape)).reshape(-1)
    names = list(names)
    counts_LE = np.zeros((len(names), experts), np.int64)
    handles = []
    for ordinal, name in enumerate(names):

        def record(_: nn.Module, args: tuple, kwargs: dict, ordinal: int = ordinal) -> None:
            for token, chosen in enumerate([*args, *kwargs.values()][1].tolist()):
                for expert in chosen if mask_T[token] else []:
                    counts_LE[ordinal, expert] += 1

        handles.append(model.get_submodule(name).register_forward_pre_hook(record, with_kwargs=True))
    with torch.no_grad():
        model(**batch)
    for handle in handles:
        handle.remove()
    return counts_LE


def refusal(calibration: Any, **options: Any) -> str:
    compilation, _ = toy_compilation(calibration)
    with pytest.raises(BadInput) as caught:
        run_checked(ProfileLoads(**options), compilation)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "deepseek_v3"])
def test_counts_are_those_of_the_original_models_routers_on_padded_batches(family):
    model = FAMILIES[family].build()
    generator = torch.Generator().manual_seed(1)
    batches = []
    for sequences, length in ((2, 7), (3, 5), (1, 12)):
        mask_BT = torch.ones(sequences, length, dtype=torch.int64)
        mask_BT[0, length - 2 :] = 0
        input_ids_BT = torch.randint(97, (sequences, length), generator=generator)
        batches.append({"input_ids": input_ids_BT, "attention_mask": mask_BT})
    after = Compilation(model=model, inputs=WorkloadInputs(batches[0], lambda: iter(batches)))
    for each in (Trace(), FindMoELayers(), ProfileLoads(model_name="toy")):
        after = run_checked(each, after)
    loads = after.loads
    assert loads is not None
    names = [name for name, _ in model.named_modules() if name.endswith("experts") and "shared" not in name]
    assert loads.layer_names == tuple(names)
    assert loads.layer_indices == FAMILIES[family].layers
    assert loads.top_k == (2,) * len(names)
    assert loads.provenance == f"toy: 3 batches, {7 * 2 + 5 * 3 + 12 - 6} tokens"
    expected_SLE = [counts_by_hooks(model, names, batch, FAMILIES[family].experts) for batch in batches]
    assert np.array_equal(loads.counts_SLE, np.stack(expected_SLE))


def test_the_last_experts_and_all_that_follows_are_not_run_and_nothing_of_the_graph_changes():
    compilation, runs = toy_compilation()
    assert compilation.graph is not None
    code = compilation.graph.code
    assert run_checked(ProfileLoads(), compilation).loads is not None
    assert runs == ["experts0"]
    assert compilation.graph.code == code
    assert not any(module._forward_pre_hooks for module in compilation.graph.modules())
    counter = counting_graph(compilation.graph, None)
    assert {id(weight) for weight in counter.parameters()} < {id(weight) for weight in compilation.graph.parameters()}
    assert "head" not in counter.code


def test_without_calibration_inputs_the_example_inputs_are_the_one_step():
    loads = run_checked(ProfileLoads(), toy_compilation()[0]).loads
    assert loads is not None
    assert loads.counts_SLE.shape == (1, 2, EXPERTS)
    assert loads.counts_SLE.sum(axis=2).tolist() == [[12, 12]]
    assert loads.layer_indices == (1, 3)
    assert loads.step_names == ()


def test_steps_can_have_names_be_limited_and_be_followed():
    done: list[int] = []
    batches = [("code", {"tokens": torch.arange(3)[None]}), {"tokens": torch.arange(5)[None]}] * 3
    compilation, _ = toy_compilation(lambda: iter(batches))
    loads = run_checked(ProfileLoads(max_steps=3, on_step=done.append), compilation).loads
    assert loads is not None
    assert loads.step_names == ("code", "", "code")
    assert loads.counts_SLE[:, 0].sum(axis=1).tolist() == [6, 10, 6]
    assert done == [1, 2, 3]


@pytest.mark.parametrize("name", ["attention_mask", None])
def test_masked_tokens_are_not_counted_unless_every_token_is_asked_for(name):
    batch = {"tokens": torch.arange(6).reshape(2, 3), "attention_mask": torch.tensor([[1, 1, 0], [1, 0, 0]])}
    compilation, _ = toy_compilation(lambda: [batch])
    loads = run_checked(ProfileLoads(mask_input=name), compilation).loads
    assert loads is not None
    assert loads.counts_SLE.sum(axis=2).tolist() == [[6, 6] if name else [12, 12]]


@settings(deadline=None, max_examples=50)
@given(
    st.integers(1, 5).flatmap(
        lambda experts: st.tuples(
            st.just(experts),
            st.lists(
                st.tuples(st.booleans(), st.lists(st.integers(-1, experts), min_size=2, max_size=2)),
                min_size=1,
                max_size=20,
            ),
        )
    )
)
def test_counting_equals_a_plain_loop(drawn):
    experts, tokens = drawn
    expected_E = [0] * experts
    for kept, chosen in tokens:
        for expert in chosen if kept else []:
            if 0 <= expert < experts:
                expected_E[expert] += 1
    mask_BT = torch.tensor([[kept for kept, _ in tokens]])
    counts_E = count_tokens(torch.tensor([chosen for _, chosen in tokens]), experts, mask_BT)
    assert counts_E.tolist() == expected_E
    assert counts_E.dtype == torch.int64


GOOD = {"tokens": torch.zeros(1, 2, dtype=torch.int64)}


def failing() -> Iterable[object]:
    yield GOOD
    raise OSError("disk\nfull")


@pytest.mark.parametrize(
    ("batches", "expected"),
    [
        ([], "calibration_inputs() yields no batch"),
        ([GOOD, [1]], "calibration batch 1 must be a dict of the forward's arguments, or a pair of a step name and"),
        ([("name", 3)], "calibration batch 0 must be a dict"),
        ([{"token": torch.zeros(1)}], "calibration batch 0 lacks tokens and adds token: give the arguments that"),
        (
            [GOOD | {"labels": 1}],
            "calibration batch 0 adds labels: give the arguments that the example inputs have, to",
        ),
        (
            [GOOD, {"tokens": torch.tensor([[99]])}],
            "calibration batch 1: the model failed on it: IndexError: index out",
        ),
        ([{"tokens": 3}], "calibration batch 0: the model failed on it: AttributeError: 'int' object has no"),
        ([GOOD | {"attention_mask": torch.zeros(1, 2)}], "calibration batch 0 has no token to count"),
        ([GOOD | {"attention_mask": torch.ones(1, 3)}], "of the 2 tokens that are routed, got shape [1, 3]"),
        (
            [GOOD | {"attention_mask": torch.ones(1, 1, 1, 2)}],
            "calibration batch 0: the padding mask must be [batch, s",
        ),
    ],
)
def test_a_bad_batch_is_one_line_that_says_which(batches, expected, capsys):
    assert expected in refusal(lambda: batches)
    assert capsys.readouterr().err == ""


def test_a_failing_stream_says_at_which_batch():
    assert refusal(failing) == "calibration batch 1: calibration_inputs() failed: OSError: disk full"
    assert (
        refusal(lambda: 3)
        == "calibration batch 0: calibration_inputs() failed: TypeError: 'int' object is not iterable"
    )


def test_no_steps_and_no_weights_are_refused():
    assert refusal(lambda: [GOOD], max_steps=0) == "profile: steps must be at least 1, got 0"
    compilation, _ = toy_compilation()
    assert compilation.graph is not None
    compilation.graph.to("meta")
    with pytest.raises(BadInput, match="has no weights to run: give its checkpoint"):
        run_checked(ProfileLoads(), compilation)


def test_layers_that_differ_are_counted_and_told_apart():
    compilation, _ = toy_compilation()
    alike = ProfileLoads().run(compilation).loads
    layers = (*(compilation.layers or ())[:1], MoELayer("experts1", 3, 9, 1))
    for node in compilation.graph.graph.nodes:
        if node.target == "experts1":
            node.meta["moe"] = layers[1]
    differ = ProfileLoads().run(Compilation(graph=compilation.graph, layers=layers, inputs=compilation.inputs)).loads
    assert alike.layer_experts is None
    assert differ.experts_L == (4, 9)
    assert (differ.counts_SLE[:, :, :4] == alike.counts_SLE).all()
    assert not differ.counts_SLE[:, :, 4:].any()
