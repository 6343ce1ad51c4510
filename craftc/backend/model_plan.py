"""One model's plan and the calls that stand for its MoE layers in compiled graphs."""

from __future__ import annotations

import logging
import weakref
from dataclasses import dataclass, field
from functools import partial

from torch import nn

from craftc.backend.call_counter import CallCounter, Step, stack_steps
from craftc.backend.moe_call import MoECall
from craftc.backend.options import CompileOptions
from craftc.backend.owners import OwnedExperts
from craftc.backend.planning import check_plannable, model_layers, plan_from_counts, plan_from_loads, ready_plan
from craftc.backend.ranks import Ranks
from craftc.errors import CraftcError
from craftc.models.moe_layer import MoELayer
from craftc.passes.compilation import NearMiss
from craftc.planning_options import PlanningRequest
from craftc.plans.replication_plan import LayerPlan, ReplicationPlan
from craftc.runtime.plan_match import check_layer_fits

log = logging.getLogger("craftc.backend")


@dataclass(eq=False)
class ModelPlan:
    """The plan of one model, once there is one, and one MoE call per layer for all of the model's graphs."""

    layers: tuple[MoELayer, ...]
    """The model's MoE layers with fused experts, by ordinal."""
    options: CompileOptions
    """What to compile for."""
    ranks: Ranks
    """Where to run."""
    plan: ReplicationPlan | None = None
    """None until the first calls are counted, and forever if planning failed."""
    counter: CallCounter | None = None
    """Counts loads while there is no plan."""
    _calls: weakref.WeakValueDictionary[str, MoECall] = field(default_factory=weakref.WeakValueDictionary)
    """Compiled graphs keep the calls alive; weights are freed with the last graph."""

    @classmethod
    def of(cls, root: nn.Module, options: CompileOptions) -> ModelPlan:
        """The plan of the model `root`. Raises BadInput, or what planning raises."""
        made = cls(model_layers(root), options, Ranks.of(options))
        request, loads = options.plan, options.loads
        if not isinstance(request, PlanningRequest):
            made.plan = ready_plan(request)
            made.ranks.check(made.plan)
        elif loads is not None:
            made.plan = made.ranks.agree(lambda: plan_from_loads(request, made.layers, loads))
        else:
            check_plannable(request, made.layers)
            made.counter = CallCounter(options.profile_calls, partial(made._plan_counted, request))
        return made

    def call_of(self, owned: OwnedExperts) -> MoECall | NearMiss:
        """The call that stands for these experts; the same in every graph."""
        name = owned.parameters.name
        if name in self._calls:
            return self._calls[name]
        layer = next((layer for layer in self.layers if layer.name == name), None)
        if layer is None:
            return NearMiss(name, "it is inside another experts module")
        used = [attribute for attribute, _ in owned.parameters.nodes]
        unused = [attribute for attribute in owned.module._parameters if attribute not in used]
        if unused:
            return NearMiss(name, f"the graph does not use its parameter {unused[0]}")
        call = MoECall(owned.module, layer, self.counter)
        if self.plan is not None:
            planned = planned_layer(self.plan, name)
            if planned is None:
                names = f"{self.plan.layers[0].name} .. {self.plan.layers[-1].name}"
                return NearMiss(name, f"the plan has no layer of that name; it has {names}")
            check_layer_fits(planned, owned.module)
            self.ranks.replicate(call, planned)
        self._calls[name] = call
        return call

    def _plan_counted(self, request: PlanningRequest, steps: tuple[Step, ...]) -> None:
        """Plan from the counted calls and switch every MoE call to the plan."""
        names = tuple(layer.name for layer in self.layers if layer.name in steps[0])
        layers = tuple(layer for layer in self.layers if layer.name in names)
        counts_SLE = self.ranks.sum(stack_steps(steps, names)).cpu().numpy()
        self.counter = None
        for call in self._calls.values():
            call.stop_counting()
        try:
            self.plan = self.ranks.agree(lambda: plan_from_counts(request, layers, counts_SLE))
        except CraftcError as error:
            if self.options.strict:
                raise
            log.warning("craftc: no plan after %d calls, the model runs unchanged: %s", len(steps), error)
            return
        for name, call in self._calls.items():
            planned = planned_layer(self.plan, name)
            if planned is not None:
                self.ranks.replicate(call, planned)
        log.info("craftc: planned %d layers after %d calls", len(layers), len(steps))


def planned_layer(plan: ReplicationPlan, name: str) -> LayerPlan | None:
    """The plan's layer of that name, or the only one whose name ends with it (in a compiled part of a model)."""
    exact = [layer for layer in plan.layers if layer.name == name]
    parts = [layer for layer in plan.layers if layer.name.endswith(f".{name}")]
    return exact[0] if exact else parts[0] if len(parts) == 1 else None
