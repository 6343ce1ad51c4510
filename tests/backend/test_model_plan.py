from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed

from craftc.backend.moe_call import MoECall
from craftc.errors import BadInput, CraftcError, Infeasible
from craftc.loads.file import write_loads
from craftc.loads.load_profile import LoadProfile
from tests.backend.tiny_moe import EXPERTS, TOP_K, Experts, Router, TinyMoE, batch


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def calls(monkeypatch) -> list[MoECall]:
    """Every MoE call that is made, in order."""
    made: list[MoECall] = []
    init = MoECall.__init__

    def spy(self, *arguments):
        init(self, *arguments)
        made.append(self)

    monkeypatch.setattr(MoECall, "__init__", spy)
    return made


def compiled(model: Any, **options: Any) -> Any:
    return torch.compile(model, backend="craftc", options={"inner": "eager", "gpus": 2, "budget": "50%", **options})


def loads_of(model: TinyMoE, steps: int = 3) -> LoadProfile:
    counts_SLE = np.random.default_rng(0).integers(1, 50, (steps, 2, EXPERTS))
    names = tuple(f"layers.{ordinal}.experts" for ordinal in range(2))
    return LoadProfile.from_counts(counts_SLE, layer_names=names)


def test_loads_and_budget_make_the_plan(calls, tmp_path):
    model = TinyMoE()
    write_loads(loads_of(model), tmp_path / "loads.npz")
    run = compiled(model, loads=tmp_path / "loads.npz", strict=True)
    assert torch.allclose(run(batch()), model(batch()), atol=1e-6)
    slots = [call.replicated.table.slots for call in calls if call.replicated is not None]
    assert 2 * EXPERTS < sum(slots) <= 2 * EXPERTS + 4  # at most half as many replicas as experts


def test_loads_of_another_model_are_refused():
    counts_SLE = np.ones((1, 3, EXPERTS), dtype=np.int64)
    run = compiled(TinyMoE(), loads=LoadProfile.from_counts(counts_SLE))
    with pytest.raises(BackendCompilerFailed, match="3 layers, the model has 2 MoE layers") as caught:
        run(batch())
    assert isinstance(caught.value.inner_exception, BadInput)


def test_the_first_calls_are_counted_then_planned(calls, monkeypatch):
    planned_from: list[LoadProfile] = []
    from craftc.backend import planning

    planned = planning.planned

    def spy(request, loads, layers):
        planned_from.append(loads)
        return planned(request, loads, layers)

    monkeypatch.setattr(planning, "planned", spy)
    model = TinyMoE()
    run = compiled(model, profile_calls=2)
    for number in range(2):
        assert torch.equal(run(batch(2, 5, seed=number)), model(batch(2, 5, seed=number)))
    assert not planned_from
    assert all(call.replicated is None for call in calls)
    for shape in ((2, 5), (3, 7)):
        assert torch.allclose(run(batch(*shape)), model(batch(*shape)), atol=1e-6)
    (loads,) = planned_from
    assert loads.layer_names == ("layers.0.experts", "layers.1.experts")
    assert loads.counts_SLE.sum(axis=2).tolist() == [[10 * TOP_K] * 2] * 2
    expected_E = torch.bincount(_first_layer_indices(model, batch(2, 5, seed=1)).reshape(-1), minlength=EXPERTS)
    assert loads.counts_SLE[1, 0].tolist() == expected_E.tolist()
    assert len(calls) == 2
    for call in calls:
        assert call.replicated is not None
        assert sum(call.replicated.tokens_per_gpu().values()) == (10 + 21) * TOP_K


def test_layers_that_differ_are_counted_and_planned_together(calls):
    model = TinyMoE()
    model.layers[1].gate, model.layers[1].experts = Router(7), Experts(7)
    run = compiled(model, profile_calls=2, strict=True)
    for number in range(4):
        assert torch.allclose(run(batch(seed=number)), model(batch(seed=number)), atol=1e-6)
    tables = [call.replicated.table for call in calls]
    assert [table.experts for table in tables] == [4, 7]
    assert sum(len(table.expert_S) for table in tables) > 4 + 7


def _first_layer_indices(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    block = model.layers[0]
    return block.gate(block.norm(hidden).view(-1, hidden.shape[-1]))[1]


def test_a_budget_that_cannot_be_met_is_refused_before_counting():
    run = compiled(TinyMoE(), budget="8B")
    with pytest.raises(BackendCompilerFailed, match="one replica") as caught:
        run(batch())
    assert isinstance(caught.value.inner_exception, Infeasible)


@pytest.mark.parametrize("strict", [False, True])
def test_planning_that_fails_after_counting_leaves_the_model_as_it_was(monkeypatch, caplog, strict):
    def fail(*_, **__):
        raise Infeasible("no plan fits")

    monkeypatch.setattr("craftc.backend.planning.planned", fail)
    model = TinyMoE()
    run = compiled(model, profile_calls=1, strict=strict)
    run(batch())
    if strict:
        with pytest.raises(CraftcError, match="no plan fits"):
            run(batch())
        return
    with caplog.at_level(logging.WARNING, "craftc.backend"):
        for _ in range(2):
            assert torch.equal(run(batch()), model(batch()))
    assert [record.getMessage() for record in caplog.records if record.name == "craftc.backend"] == [
        "craftc: no plan after 1 calls, the model runs unchanged: no plan fits"
    ]


def test_calls_without_tokens_do_not_disturb_the_count():
    model = TinyMoE()
    run = compiled(model, profile_calls=2)
    for shape in ((1, 5), (0, 5), (2, 5)):
        assert torch.allclose(run(batch(*shape)), model(batch(*shape)), atol=1e-6)


def test_experts_compiled_alone_are_kept_as_they_were(caplog):
    experts: Any = TinyMoE().get_submodule("layers.0.experts")
    run = compiled(experts)
    arguments = (batch(1, 5)[0], torch.tensor([[0, 1]] * 5), torch.ones(5, 2))
    with caplog.at_level(logging.WARNING, "craftc.backend"):
        assert torch.equal(run(*arguments), experts(*arguments))
    assert "broke the graph around it and compiles it alone" in caplog.text


def test_two_models_may_share_their_options():
    options: dict[str, Any] = {"inner": "eager", "gpus": 2, "budget": "50%", "profile_calls": 1}
    models = [TinyMoE(), TinyMoE()]
    for parameter in models[1].parameters():
        parameter.data.mul_(-1)
    runs = [torch.compile(model, backend="craftc", options=options) for model in models]
    for _ in range(3):
        for model, run in zip(models, runs, strict=True):
            assert torch.allclose(run(batch()), model(batch()), atol=1e-6)
