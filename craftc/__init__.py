"""craftc: a compiler that replicates and places the experts of Mixture-of-Experts models under a memory budget.

Everything meant for users is here, under its name, and in docs/python-api.md; modules are where craftc keeps things.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from craftc.api import Inspection, Optimized, PhasePlan, inspect, optimize, plan, plan_per_phase, profile
    from craftc.deployment.load_model import load_model
    from craftc.deployment.prepare_model import prepare
    from craftc.errors import BadInput, CraftcError, Infeasible, Unsupported, VerificationFailed
    from craftc.loads.file import write_loads
    from craftc.loads.load_profile import LoadProfile
    from craftc.loads.read_loads import read_loads
    from craftc.models.moe_layer import MoELayer
    from craftc.planning_options import PlanningOptions
    from craftc.plans.evaluation import Evaluation, evaluate
    from craftc.plans.file import read_plan, write_plan
    from craftc.plans.replication_plan import ReplicationPlan
    from craftc.topology import Topology

__version__ = "0.1.0"

__all__ = [
    "BadInput",
    "CraftcError",
    "Evaluation",
    "Infeasible",
    "Inspection",
    "LoadProfile",
    "MoELayer",
    "Optimized",
    "PhasePlan",
    "PlanningOptions",
    "ReplicationPlan",
    "Topology",
    "Unsupported",
    "VerificationFailed",
    "__version__",
    "evaluate",
    "inspect",
    "load_model",
    "optimize",
    "plan",
    "plan_per_phase",
    "prepare",
    "profile",
    "read_loads",
    "read_plan",
    "write_loads",
    "write_plan",
]

_MODULE_OF = {
    "BadInput": "craftc.errors",
    "CraftcError": "craftc.errors",
    "Evaluation": "craftc.plans.evaluation",
    "Infeasible": "craftc.errors",
    "Inspection": "craftc.api",
    "LoadProfile": "craftc.loads.load_profile",
    "MoELayer": "craftc.models.moe_layer",
    "Optimized": "craftc.api",
    "PhasePlan": "craftc.api",
    "PlanningOptions": "craftc.planning_options",
    "ReplicationPlan": "craftc.plans.replication_plan",
    "Topology": "craftc.topology",
    "Unsupported": "craftc.errors",
    "VerificationFailed": "craftc.errors",
    "evaluate": "craftc.plans.evaluation",
    "inspect": "craftc.api",
    "load_model": "craftc.deployment.load_model",
    "optimize": "craftc.api",
    "plan": "craftc.api",
    "plan_per_phase": "craftc.api",
    "prepare": "craftc.deployment.prepare_model",
    "profile": "craftc.api",
    "read_loads": "craftc.loads.read_loads",
    "read_plan": "craftc.plans.file",
    "write_loads": "craftc.loads.file",
    "write_plan": "craftc.plans.file",
}
"""Public names by the module that has them, imported on first use: `import craftc` costs nothing."""


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'craftc' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
