from __future__ import annotations

import gc
import logging
import weakref
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed, FailOnRecompileLimitHit

import craftc.backend.compiler as compiler
from craftc.errors import BadInput, Unsupported
from craftc.plans.file import write_plan
from tests.backend.tiny_moe import TOP_K, Experts, TinyMoE, batch, round_robin_plan


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=False):  # what `strict` sets ends with the test
        yield
    torch._dynamo.reset()


def compiled(model: Any, **options: Any) -> Any:
    return torch.compile(model, backend="craftc", options={"inner": "eager"} | options)


def calls_made(monkeypatch) -> list[dict[str, tuple[Any, nn.Module]]]:
    """The layers that are replaced in every graph, as the backend finds them."""
    made: list[dict[str, tuple[Any, nn.Module]]] = []
    replace_regions = compiler.replace_regions

    def spy(gm, calls):
        made.append(dict(calls))
        replace_regions(gm, calls)

    monkeypatch.setattr(compiler, "replace_regions", spy)
    return made


def gradients(model: nn.Module, output: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    output.square().mean().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("inner", ["eager", "aot_eager"])
def test_outputs_and_gradients_are_the_models_over_new_shapes(monkeypatch, inner):
    made = calls_made(monkeypatch)
    model = TinyMoE()
    run = compiled(model, plan=round_robin_plan(model), inner=inner)
    for shape in ((2, 5), (3, 7), (1, 1)):
        assert torch.allclose(run(batch(*shape)), model(batch(*shape)), atol=1e-6)
    ours, theirs = gradients(model, run(batch())), gradients(model, model(batch()))
    assert ours.keys() == theirs.keys() == dict(model.named_parameters()).keys()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)
    with torch.no_grad():
        assert torch.allclose(run(batch()), model(batch()), atol=1e-6)
    assert len(made) >= 3, "shapes and grad mode were to make new graphs"
    assert all(len(calls) == 2 for calls in made)


def test_all_graphs_share_one_call_per_layer(monkeypatch):
    made = calls_made(monkeypatch)
    model = TinyMoE()
    run = compiled(model, plan=round_robin_plan(model))
    for shape in ((2, 5), (3, 7)):
        run(batch(*shape))
    first, second = ([module for _, module in calls.values()] for calls in made)
    assert [id(call) for call in first] == [id(call) for call in second]
    counted = [sum(call.replicated.tokens_per_gpu().values()) for call in first]  # type: ignore[union-attr,operator]
    assert counted == [TOP_K * (10 + 21)] * 2


def test_weights_may_change_after_compiling():
    model = TinyMoE()
    run = compiled(model, plan=round_robin_plan(model))
    run(batch())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    assert torch.allclose(run(batch()), model(batch()), atol=1e-6)


def test_autocast_around_and_inference_mode():
    model = TinyMoE()
    run = compiled(model, plan=round_robin_plan(model), inner="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        assert torch.allclose(run(batch()).float(), model(batch()).float(), atol=3e-2)
    with torch.inference_mode():
        assert torch.allclose(run(batch()), model(batch()), atol=1e-6)


def test_a_plan_file_and_a_function_that_closes_over_the_model(tmp_path):
    model = TinyMoE()
    write_plan(round_robin_plan(model), tmp_path / "plan.json")
    run = compiled(lambda hidden: model(hidden) + 1, plan=tmp_path / "plan.json", strict=True)
    assert torch.allclose(run(batch()), model(batch()) + 1, atol=1e-6)


def test_a_compiled_part_finds_its_layers_in_the_models_plan():
    whole = nn.ModuleDict({"language": TinyMoE()})
    run = compiled(whole["language"], plan=round_robin_plan(whole), strict=True)
    assert torch.allclose(run(batch()), whole["language"](batch()), atol=1e-6)


def test_nothing_is_kept_when_the_compiled_model_is_gone():
    model = TinyMoE()
    run = compiled(model, plan=round_robin_plan(model))
    run(batch())
    weights = weakref.ref(model.get_submodule("layers.0.experts"))
    del model, run
    torch._dynamo.reset()
    gc.collect()
    assert weights() is None


class DenseExperts(Experts):
    """Every expert computes every token: there are no indices to route by."""

    def forward(self, hidden, indices, weights):
        return torch.bmm(torch.bmm(hidden.expand(self.num_experts, -1, -1), self.up), self.down).sum(dim=0)


def test_what_cannot_be_replaced_runs_as_it_was_and_is_said_once(caplog):
    model = TinyMoE(DenseExperts)
    run = compiled(model, gpus=2, budget="25%")
    with caplog.at_level(logging.WARNING, "craftc.backend"):
        for shape in ((2, 5), (3, 7)):
            assert torch.equal(run(batch(*shape)), model(batch(*shape)))
    (said,) = [record.getMessage() for record in caplog.records if record.name == "craftc.backend"]
    assert "layer layers.0.experts (and 1 more) is left unchanged: its inputs must be hidden [T, H]" in said


def test_strict_raises_instead():
    run = compiled(TinyMoE(DenseExperts), gpus=2, budget="25%", strict=True)
    with pytest.raises(BackendCompilerFailed, match=r"layer layers\.0\.experts: its inputs must be") as caught:
        run(batch())
    assert isinstance(caught.value.inner_exception, Unsupported)


class Dense(nn.Module):
    """No MoE layer, and nothing like one."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(8, 8)

    def forward(self, hidden):
        return self.up(hidden)


def test_a_model_without_any_moe_layer_is_said_and_under_strict_refused(caplog):
    model = Dense()
    run = compiled(model, gpus=2, budget="25%")
    with caplog.at_level(logging.WARNING, "craftc.backend"):
        assert torch.equal(run(torch.ones(3, 8)), model(torch.ones(3, 8)))
    assert "Dense has no MoE layer: neither a module with 3-D parameters" in caplog.text
    with pytest.raises(BackendCompilerFailed, match="Dense has no MoE layer"):
        compiled(Dense(), gpus=2, budget="25%", strict=True)(torch.ones(3, 8))


def test_wrong_options_are_refused_by_name():
    run = torch.compile(TinyMoE(), backend="craftc", options={"gpus": 2, "bugdet": "25%"})
    with pytest.raises(BackendCompilerFailed, match="knows no option bugdet") as caught:
        run(batch())
    assert isinstance(caught.value.inner_exception, BadInput)


def test_a_plan_of_another_model_is_kept_out(caplog):
    model = TinyMoE()
    plan = round_robin_plan(model)
    renamed = tuple(type(layer)(**(vars(layer) | {"name": f"other.{layer.index}"})) for layer in plan.layers)
    run = compiled(model, plan=type(plan)(plan.topology, plan.budget, renamed, None, plan.provenance))
    with caplog.at_level(logging.WARNING, "craftc.backend"):
        assert torch.equal(run(batch()), model(batch()))
    assert "the plan has no layer of that name; it has other.0 .. other.1" in caplog.text


class LoopExperts(nn.ModuleList):
    """A module per expert: its loop over routed tokens breaks graphs."""

    def __init__(self):
        super().__init__(nn.Linear(8, 8) for _ in range(4))

    def forward(self, hidden, indices, weights):
        output = torch.zeros_like(hidden)
        for number, expert in enumerate(self):
            token, place = torch.where(indices == number)
            if len(token):
                output.index_add_(0, token, expert(hidden[token]) * weights[token, place, None])
        return output


def test_experts_that_break_graphs_are_named_with_what_to_do(caplog):
    model = TinyMoE(LoopExperts)
    run = compiled(model, plan=round_robin_plan(TinyMoE()))
    with caplog.at_level(logging.WARNING, "craftc.backend"):
        assert torch.allclose(run(batch()), model(batch()), atol=1e-6)
    assert caplog.text.count("call craftc.prepare(model, plan, inputs=...)") == 1


def test_strict_raises_at_dynamos_limit_of_graphs():
    model = TinyMoE()
    options: dict[str, Any] = {"plan": round_robin_plan(model), "inner": "eager", "strict": True}
    run = torch.compile(model, backend="craftc", options=options, dynamic=False)
    with torch._dynamo.config.patch(recompile_limit=1):
        run(batch(2, 5))
        with pytest.raises(FailOnRecompileLimitHit):
            run(batch(3, 5))
