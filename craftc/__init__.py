"""craftc: a compiler that replicates and places the experts of Mixture-of-Experts models under a memory budget."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from craftc.api import inspect, optimize, plan, profile
    from craftc.deployment.load_model import load
    from craftc.deployment.prepare_model import prepare
    from craftc.loads.load_profile import LoadProfile
    from craftc.planning_options import PlanningOptions
    from craftc.topology import Topology

__version__ = "0.1.0"

__all__ = [
    "LoadProfile",
    "PlanningOptions",
    "Topology",
    "__version__",
    "inspect",
    "load",
    "optimize",
    "plan",
    "prepare",
    "profile",
]

_MODULE_OF = {
    "LoadProfile": "craftc.loads.load_profile",
    "PlanningOptions": "craftc.planning_options",
    "Topology": "craftc.topology",
    "inspect": "craftc.api",
    "load": "craftc.deployment.load_model",
    "optimize": "craftc.api",
    "plan": "craftc.api",
    "prepare": "craftc.deployment.prepare_model",
    "profile": "craftc.api",
}
"""Public names by the module that has them, imported on first use: `import craftc` costs nothing."""


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'craftc' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)
