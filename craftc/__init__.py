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
    from craftc.models.model_config import ModelConfig, read_model_config
    from craftc.models.moe_layer import MoELayer
    from craftc.planning_options import PlanningOptions
    from craftc.plans.evaluation import Evaluation, evaluate
    from craftc.plans.file import read_plan, write_plan
    from craftc.plans.replication_plan import ReplicationPlan
    from craftc.serving.arm import Worth
    from craftc.serving.cluster import Cluster, read_cluster, write_cluster
    from craftc.serving.cluster_figures import Figure
    from craftc.serving.goodput_curve import GoodputCurve, goodput_curve
    from craftc.serving.serving_model import ServingModel
    from craftc.serving.simulate import simulate
    from craftc.serving.workload import Workload
    from craftc.topology import Topology

__version__ = "0.1.0"

__all__ = [
    "BadInput",
    "Cluster",
    "CraftcError",
    "Evaluation",
    "Figure",
    "GoodputCurve",
    "Infeasible",
    "Inspection",
    "LoadProfile",
    "MoELayer",
    "ModelConfig",
    "Optimized",
    "PhasePlan",
    "PlanningOptions",
    "ReplicationPlan",
    "ServingModel",
    "Topology",
    "Unsupported",
    "VerificationFailed",
    "Workload",
    "Worth",
    "__version__",
    "evaluate",
    "goodput_curve",
    "inspect",
    "load_model",
    "optimize",
    "plan",
    "plan_per_phase",
    "prepare",
    "profile",
    "read_cluster",
    "read_loads",
    "read_model_config",
    "read_plan",
    "simulate",
    "write_cluster",
    "write_loads",
    "write_plan",
]

_MODULE_OF = {
    "BadInput": "craftc.errors",
    "Cluster": "craftc.serving.cluster",
    "CraftcError": "craftc.errors",
    "Evaluation": "craftc.plans.evaluation",
    "Figure": "craftc.serving.cluster_figures",
    "GoodputCurve": "craftc.serving.goodput_curve",
    "Infeasible": "craftc.errors",
    "Inspection": "craftc.api",
    "LoadProfile": "craftc.loads.load_profile",
    "MoELayer": "craftc.models.moe_layer",
    "ModelConfig": "craftc.models.model_config",
    "Optimized": "craftc.api",
    "PhasePlan": "craftc.api",
    "PlanningOptions": "craftc.planning_options",
    "ReplicationPlan": "craftc.plans.replication_plan",
    "ServingModel": "craftc.serving.serving_model",
    "Topology": "craftc.topology",
    "Unsupported": "craftc.errors",
    "VerificationFailed": "craftc.errors",
    "Workload": "craftc.serving.workload",
    "Worth": "craftc.serving.arm",
    "evaluate": "craftc.plans.evaluation",
    "goodput_curve": "craftc.serving.goodput_curve",
    "inspect": "craftc.api",
    "load_model": "craftc.deployment.load_model",
    "optimize": "craftc.api",
    "plan": "craftc.api",
    "plan_per_phase": "craftc.api",
    "prepare": "craftc.deployment.prepare_model",
    "profile": "craftc.api",
    "read_cluster": "craftc.serving.cluster",
    "read_loads": "craftc.loads.read_loads",
    "read_model_config": "craftc.models.model_config",
    "read_plan": "craftc.plans.file",
    "simulate": "craftc.serving.simulate",
    "write_cluster": "craftc.serving.cluster",
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
