"""Everything that the backend remembers between graphs: options, what was logged, and the plan and MoE calls per
model."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch._dynamo
from torch import nn

from craftc.backend.model_plan import ModelPlan
from craftc.backend.options import CompileOptions, compile_options
from craftc.errors import Unsupported
from craftc.passes.compilation import NearMiss

log = logging.getLogger("craftc.backend")


@dataclass(eq=False)
class Session:
    """What belongs to one `torch.compile(..., backend="craftc", options=...)`."""

    raw_options: Mapping[str, Any]
    """The user's own options object: Dynamo passes the same one with every graph, so it identifies the session."""
    options: CompileOptions
    """The same options, checked."""
    _models: weakref.WeakKeyDictionary[nn.Module, ModelPlan] = field(default_factory=weakref.WeakKeyDictionary)
    _said: set[str] = field(default_factory=set)

    def model_plan(self, root: nn.Module) -> ModelPlan:
        """The plan of `root`, made or read on first use."""
        if root not in self._models:
            made = ModelPlan.of(root, self.options)
            if made.ranks.group is not None or self.options.strict:
                _fail_at_recompile_limit()
            self._models[root] = made
        return self._models[root]

    @property
    def has_plans(self) -> bool:
        """Whether MoE layers were recognised in any graph so far."""
        return bool(self._models)

    def leave_unchanged(self, layers: Sequence[NearMiss]) -> None:
        """Log once why layers are left to the inner backend, one line per reason. Raises Unsupported under `strict`."""
        if layers and self.options.strict:
            raise Unsupported(f"layer {layers[0].name}: {layers[0].reason}")
        for reason in dict.fromkeys(layer.reason for layer in layers):
            names = [layer.name for layer in layers if layer.reason == reason]
            if reason not in self._said:
                self._said.add(reason)
                more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
                log.warning("craftc: layer %s%s is left unchanged: %s", names[0], more, reason)


_SESSIONS: weakref.WeakValueDictionary[int, Session] = weakref.WeakValueDictionary()
"""Sessions by the identity of their options. Dynamo calls a backend once per graph and carries nothing from one call to
the next, so this is the only place where craftc keeps state by itself; compiled graphs keep their session alive, and it
ends with the last of them."""


def _fail_at_recompile_limit() -> None:
    """Make Dynamo fail at its limit of graphs instead of running the original model, which would leave the other
    ranks waiting for this rank's tokens until their time-out. Dynamo does not ask the backend, so its own setting is
    the only way; it applies to the whole process. Dynamo refuses it together with `suppress_errors`."""
    if not torch._dynamo.config.suppress_errors:
        torch._dynamo.config.fail_on_recompile_limit_hit = True


def session_for(options: Mapping[str, Any] | None, mode: str | None) -> Session:
    """The session of these options. Raises BadInput if they are wrong."""
    session = _SESSIONS.get(id(options))
    if session is None or mode is not None:
        checked = compile_options(options, mode)
        assert options is not None
        session = _SESSIONS[id(options)] = Session(options, checked)
    return session
