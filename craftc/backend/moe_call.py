"""What stands in a compiled graph for the experts of one MoE layer: one set of weights for all graphs and recompiles.

Axes: T tokens, K experts per token, H hidden, E experts.
"""

from __future__ import annotations

import copy
import weakref
from typing import Protocol

import torch
from torch import Tensor, nn

from craftc.backend.call_counter import CallCounter
from craftc.models.moe_layer import MoELayer
from craftc.passes.analysis.profile_loads import count_tokens
from craftc.runtime.replicated_experts import ReplicatedExperts


class MoECall(nn.Module):
    """`forward(hidden, indices, weights, *parameters) -> [T, H]`: the model's own experts until `replicate` is called,
    the replicated ones afterwards.

    Parameters come with every call, from the graph: gradients reach the model's own parameters, and this module does
    not keep the model alive.
    """

    def __init__(self, experts: nn.Module, layer: MoELayer, counter: CallCounter | None) -> None:
        super().__init__()
        self.layer = layer
        self.attributes = tuple(experts._parameters)
        """Names of the experts' parameters, in the order in which `forward` takes them."""
        self.template = _without_parameters(experts)
        """The experts module's code and settings."""
        self.counter = counter
        """Counts loads while there is no plan."""
        self.replicated: ReplicatedExperts | None = None
        """The planned module, whose `experts` is empty: the parameters come with the call."""
        self.select: SelectsParameters = AllExperts()
        """The parameters of the experts that this process executes."""

    def replicate(self, replicated: ReplicatedExperts, select: SelectsParameters) -> None:
        """From the next call on, run as `replicated` over the experts that `select` selects."""
        self.replicated = replicated
        self.select = select
        self.counter = None

    def stop_counting(self) -> None:
        """From the next call on, run as the model does, without counting."""
        self.counter = None

    def forward(self, hidden_TH: Tensor, indices_TK: Tensor, weights_TK: Tensor, *parameters: Tensor) -> Tensor:
        if self.counter is not None:
            self.counter.count(self.layer.name, count_tokens(indices_TK, self.layer.experts, None))
        experts = self._with_parameters(self.select(parameters))
        if self.replicated is None:
            return experts(hidden_TH, indices_TK, weights_TK).contiguous()
        self.replicated.to(hidden_TH.device)
        return _with_experts(self.replicated, experts)(hidden_TH, indices_TK, weights_TK).contiguous()

    def _with_parameters(self, parameters: tuple[Tensor, ...]) -> nn.Module:
        experts = copy.copy(self.template)
        experts._parameters = dict(zip(self.attributes, parameters, strict=True))  # type: ignore[arg-type]
        experts.num_experts = parameters[0].shape[0]  # type: ignore[assignment]
        return experts


class SelectsParameters(Protocol):
    """From the parameters of all experts (dim 0 = expert), those of the experts that this process executes."""

    def __call__(self, parameters: tuple[Tensor, ...]) -> tuple[Tensor, ...]: ...


class AllExperts:
    """One process stands for all GPUs, so copies of an expert are the same numbers."""

    def __call__(self, parameters: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return parameters


class OwnExperts:
    """One rank's slots.

    The copies are kept, and made again if a parameter has changed; if gradients are needed they are made in every call,
    so that gradients reach the model's own parameters.
    """

    def __init__(self, experts_S: tuple[int, ...]) -> None:
        self._experts_S = experts_S
        self._kept: tuple[Tensor, ...] = ()
        self._kept_of: tuple[weakref.ref[Tensor], ...] = ()
        self._states: tuple[object, ...] = ()

    def __call__(self, parameters: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters):
            self._kept = ()
            return self._copies(parameters)
        if not self._are_current(parameters):
            self._kept = ()  # free the old copies first
            self._kept = self._copies(parameters)
            self._kept_of = tuple(weakref.ref(parameter) for parameter in parameters)
            self._states = tuple(map(_state, parameters))
        return self._kept

    def _are_current(self, parameters: tuple[Tensor, ...]) -> bool:
        return (
            len(self._kept) == len(parameters)
            and all(kept() is parameter for kept, parameter in zip(self._kept_of, parameters, strict=True))
            and self._states == tuple(map(_state, parameters))
        )

    def _copies(self, parameters: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        experts_S = torch.tensor(self._experts_S, dtype=torch.int64, device=parameters[0].device)
        return tuple(parameter.index_select(0, experts_S) for parameter in parameters)


def _state(parameter: Tensor) -> object:
    """A value that changes when the parameter moves or is written to (except through `.data`)."""
    version = None if parameter.is_inference() else parameter._version
    return parameter.data_ptr(), parameter.device, parameter.dtype, version


def _without_parameters(experts: nn.Module) -> nn.Module:
    """A shallow copy of `experts` with its code, settings and children, and without its parameters."""
    bare = copy.copy(experts)
    bare._parameters = {}
    return bare


def _with_experts(replicated: ReplicatedExperts, experts: nn.Module) -> ReplicatedExperts:
    """A shallow copy of `replicated` over `experts`; token counters are shared."""
    bound = copy.copy(replicated)
    bound._modules = {**replicated._modules, "experts": experts}
    return bound
