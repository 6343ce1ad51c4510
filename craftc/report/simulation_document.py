"""What replicas are worth in goodput, as JSON values: all of the text, and seconds part by part."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from craftc.report.balancing_answer import balancing_answer
from craftc.report.simulated_arms import SimulatedArm, SimulatedArms
from craftc.serving.cluster import Cluster
from craftc.serving.serving_model import ServingModel
from craftc.topology import Topology


def simulation_document(arms: SimulatedArms, server: ServingModel, topology: Topology) -> dict[str, Any]:
    """All rows, the choice, and what they follow from. Ratios are of closed forms; null where there is none."""
    chosen = {"arm": arms.best.name, "replicas_per_gpu": arms.best.worth.replicas_per_gpu, "rule": arms.rule}
    return {
        "answer": balancing_answer(arms, server.workload),
        "chosen" if arms.rule else "best": chosen,
        "arms": [_arm(arm, arms) for arm in arms.rows],
        "ceiling": _arm(arms.ceiling, arms),
        "limits": {
            "ttft_s": None if server.workload.phase == "decode" else arms.ttft_limit_s,
            "ttft_is_default": server.workload.ttft_limit_s is None,
            "itl_s": server.workload.itl_limit_s,
        },
        "workload": server.workload.stated,
        "steps": {
            "planned": arms.judged.planned.steps,
            "judged": arms.judged.judged.steps,
            "planned_sha256": arms.judged.planned.sha256,
            "judged_sha256": arms.judged.judged.sha256,
        },
        "topology": {**asdict(topology), "data_parallel_ranks": server.ranks(topology)},
        "model": {"model_type": server.model.model_type, "moe_layers": len(server.model.layers)},
        "cluster": cluster_document(server.cluster),
        "notes": list(server.notes),
    }


def cluster_document(cluster: Cluster) -> dict[str, Any]:
    """Name, fingerprint, and every constant by its dotted path with value, source and origin."""
    figures: dict[str, Any] = {
        path: {"value": figure.value, "source": figure.source, "origin": figure.origin}
        for path, figure in cluster.figures
    }
    copies = cluster.network.wire_copies
    origin = "assumed" if copies.source.startswith("assumed") else "stated"
    figures["network.wire_copies"] = {"value": copies.value, "source": copies.source, "origin": origin}
    return {
        "name": cluster.name,
        "chip": cluster.chip.name,
        "fingerprint": f"sha256:{cluster.fingerprint}",
        "constants": figures,
    }


def _arm(arm: SimulatedArm, arms: SimulatedArms) -> dict[str, Any]:
    served = arm.worth.goodput > 0
    return {
        "arm": arm.name,
        "asked_replicas_per_gpu": arm.asked,
        **asdict(arm.worth),
        "kv_lost": arms.kv_lost(arm),
        "against_none": arms.against_none(arm) if served else None,
        "against_eplb": arms.against_eplb(arm) if served else None,
        "event_simulation": None if arm.confirmation is None else asdict(arm.confirmation),
        "chosen": arm is arms.best,
        "within_1_percent": arm.in_band,
    }
