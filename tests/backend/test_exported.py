from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim, ExportedProgram, export

import craftc
from craftc.backend.exported import own_dtypes, restored_model
from craftc.errors import BadInput, Unsupported
from tests.backend.tiny_moe import EXPERTS, Experts, TinyMoE, batch
from tests.model_families import FAMILIES, example_inputs

DYNAMIC = {"hidden": {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}}


def exported(model: nn.Module, dynamic_shapes: Any = DYNAMIC) -> ExportedProgram:
    return export(model, (), kwargs={"hidden": batch()}, dynamic_shapes=dynamic_shapes, strict=False)


def test_experts_are_modules_again_and_share_parameters():
    model = TinyMoE()
    program = exported(model)
    restored = restored_model(program)
    experts: Any = restored.get_submodule("layers.1.experts")
    assert experts.num_experts == EXPERTS
    assert experts.up.data_ptr() == program.state_dict["layers.1.experts.up"].data_ptr()
    for shape in ((2, 5), (3, 7)):
        assert torch.equal(restored(hidden=batch(*shape)), model(batch(*shape)))


def test_the_program_is_left_as_it_is():
    program = exported(TinyMoE())
    before = str(program.graph)
    restored_model(program)
    assert str(program.graph) == before


def test_optimize_takes_an_exported_program():
    model = TinyMoE()
    done = craftc.optimize(exported(model), {"hidden": batch()}, craftc.Topology(2), "50%")
    assert [layer.name for layer in done.plan.layers] == ["layers.0.experts", "layers.1.experts"]
    assert torch.allclose(done.model(hidden=batch(3, 7)), model(batch(3, 7)), atol=1e-6)
    assert set(done.verification.max_abs_difference) == {"float32", "float32, GPU by GPU"}


def test_a_transformers_model_exported_with_batched_experts():
    family = FAMILIES["gpt_oss"]
    options = family.options | {"num_hidden_layers": 1, "layer_types": ["full_attention"]}
    model: Any = dataclasses.replace(family, options=options).build()
    model.set_experts_implementation("batched_mm")
    both = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    inputs = example_inputs()
    program = export(
        Logits(model), (), kwargs=inputs, dynamic_shapes={"input_ids": both, "attention_mask": both}, strict=False
    )
    done = craftc.optimize(program, inputs, craftc.Topology(2), "25%")
    other = example_inputs(3, 9)
    assert torch.allclose(done.model(**other), Logits(model)(**other), atol=1e-5)


class Logits(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits


class CountingExperts(Experts):
    """Sorts by expert with the number of experts written into the arithmetic, as grouped experts do."""

    def forward(self, hidden, indices, weights):
        mask = nn.functional.one_hot(indices, EXPERTS).to(hidden.dtype) * weights[:, :, None]
        every = torch.bmm(self.act(torch.bmm(hidden.expand(EXPERTS, -1, -1), self.up)), self.down)
        return torch.einsum("eth,tke->th", every, mask)


class DenseExperts(Experts):
    def forward(self, hidden, indices, weights):
        return torch.bmm(torch.bmm(hidden.expand(EXPERTS, -1, -1), self.up), self.down).sum(dim=0)


@pytest.mark.parametrize(
    ("model", "dynamic_shapes", "said"),
    [
        (
            TinyMoE(CountingExperts),
            DYNAMIC,
            "layers.0.experts runs only with all its 4 experts; export the model after",
        ),
        (TinyMoE(DenseExperts), DYNAMIC, "its inputs must be hidden [T, H]"),
        (TinyMoE(), None, "with dynamic_shapes for batch and sequence"),
    ],
)
def test_what_cannot_be_cut_out_says_how_to_export(model, dynamic_shapes, said):
    with pytest.raises(Unsupported) as caught:
        restored_model(exported(model, dynamic_shapes))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_one_dtype_can_be_verified():
    assert own_dtypes(exported(TinyMoE())) == (torch.float32,)
    with pytest.raises(Unsupported, match="its parameters are float64"):
        own_dtypes(export(nn.Linear(2, 2).double(), (torch.ones(1, 2).double(),)))


def test_anything_else_is_refused():
    nothing: Any = lambda hidden: hidden  # noqa: E731
    with pytest.raises(BadInput, match="ExportedProgram, got function"):
        craftc.optimize(nothing, {"hidden": batch()}, craftc.Topology(2), "50%")
