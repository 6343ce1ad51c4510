"""`--cluster` of the commands that plan: what the server is, and what a plan is made for if nothing else is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from craftc.cli.serving_options import PhaseChoice, given_server, given_workload

if TYPE_CHECKING:
    from torch import nn

    from craftc.loads.load_profile import LoadProfile
    from craftc.models.given_sizes import GivenSizes
    from craftc.models.model_config import ModelConfig
    from craftc.models.model_file import ModelSource
    from craftc.models.moe_layer import MoELayer
    from craftc.passes.base import Pass, Progress
    from craftc.passes.compilation import Compilation
    from craftc.planning_options import PlanningRequest
    from craftc.plans.replication_plan import PlanObjective
    from craftc.serving.cluster import Cluster
    from craftc.serving.goodput_curve import GoodputCurve
    from craftc.serving.measurements import Measurement
    from craftc.serving.serving_model import ServingModel


@dataclass(frozen=True)
class ServerOptions:
    """The options of the panel Serving."""

    cluster: str | None = None
    """Preset or file; None plans for no server."""
    calibrate: Path | None = None
    """Measurements of the server."""
    input: int = 4096
    """Tokens of a prompt."""
    output: int = 256
    """Tokens generated for a request."""
    chunk: int = 4096
    """Most tokens of a prompt in one step."""
    phase: PhaseChoice = PhaseChoice.mixed
    """What runs on the server."""
    batch: int | None = None
    """For decode: requests in flight per GPU."""
    slo_itl: str | None = None
    """Longest mean time between tokens."""

    def server(self, config: ModelConfig | None) -> ServingModel | None:
        """The model on the cluster, None without one. Raises BadInput for other options without `--cluster`."""
        from craftc.errors import BadInput

        if self.cluster is not None:
            workload = given_workload(self.input, self.output, self.chunk, self.phase, self.batch, None, self.slo_itl)
            return given_server(config, self.cluster, workload)
        if self != ServerOptions():
            raise BadInput(
                "--calibrate, --input, --output-tokens, --chunk, --phase, --batch and --slo-itl describe a server: "
                "give --cluster too"
            )
        return None


def config_of_model(model: str, given: GivenSizes) -> ModelConfig:
    """The config of MODEL, for a server. Raises BadInput if it is a Python file."""
    from craftc.errors import BadInput
    from craftc.models.model_config import read_model_config

    path = Path(model)
    if not path.is_dir() and path.suffix != ".json":
        raise BadInput(
            f"--cluster needs the config.json of the model, which {model} does not have: plan from its loads instead "
            f"(craftc profile, then craftc plan --model-config)"
        )
    return read_model_config(path, given)


def first_objective(objective: PlanObjective | None, planner: str, server: ServingModel | None) -> PlanObjective:
    """What to plan for: as given, else step time for a server if the planner can, else balancedness."""
    from craftc.solvers.planners.registry import planner_named

    if objective is not None:
        return objective
    return "step-time" if server is not None and "step-time" in planner_named(planner).objectives else "balancedness"


@dataclass(frozen=True)
class MadeForServer:
    """What is planned for a server, once the loads are known."""

    server: ServingModel
    """With its calibrated cluster."""
    request: PlanningRequest
    """With the tokens that a slot of the server is worth."""
    warnings: tuple[str, ...]
    """What was assumed or taken for something else, one line each."""


def made_for_server(
    server: ServingModel,
    request: PlanningRequest,
    loads: LoadProfile,
    layers: Sequence[MoELayer],
    objective: PlanObjective | None,
    measurements: Sequence[Measurement],
) -> MadeForServer:
    """What to plan, checked before the work begins.

    objective: as the user gave it; if none, slots count as they do on the server, unless a number is given.

    Raises BadInput if loads, layers and the model's config do not belong together, Infeasible if a server without
    replicas has no KV cache for a request.
    """
    from craftc.cli.calibrating import calibrated
    from craftc.serving.memory import even_bytes, require_cache
    from craftc.serving.objective import tokens_per_slot

    matched, topology, options, warnings = server.matched(loads), request.topology, request.options, server.notes
    server.check_sizes(layers)
    if measurements:
        fitted = calibrated(measurements, loads, None, server, topology)
        server, warnings = replace(server, cluster=fitted.cluster), (*warnings, *fitted.warnings)
    require_cache(server, topology, even_bytes(server, topology))
    if objective is None and options.objective == "step-time" and not options.tokens_per_slot:
        request = replace(request, options=replace(options, tokens_per_slot=tokens_per_slot(server, matched, topology)))
    return MadeForServer(server, request, (*warnings, *_assumed(server.cluster)))


def _assumed(cluster: Cluster) -> tuple[str, ...]:
    """A line that names the constants that nobody measured."""
    paths = [path for path, figure in cluster.figures if figure.origin == "assumed"]
    return (f"cluster {cluster.name}: assumed, not measured: {', '.join(paths)}",) if paths else ()


def planned_with(
    server: ServingModel | None,
    request: PlanningRequest,
    loads: LoadProfile,
    layers: Sequence[MoELayer],
    model: nn.Module | None,
    progress: Progress,
) -> tuple[Compilation, GoodputCurve | None]:
    """The plan, and the curve of goodput if that decided its budget."""
    from craftc.passes.pipelines import planned

    if server is None:
        return planned(request, loads, layers, model=model, on_pass=progress), None
    from craftc.serving.planning import planned_for

    made = planned_for(server, request, loads, layers, model=model, on_pass=progress)
    return made.compilation, made.curve


def optimized_with(
    server: ServingModel,
    request: PlanningRequest,
    source: ModelSource,
    profiling: Pass | None,
    loads: LoadProfile | None,
    objective: PlanObjective | None,
    measurements: Sequence[Measurement],
    progress: Progress,
) -> tuple[Compilation, GoodputCurve | None, tuple[str, ...]]:
    """The model of `source` optimised for a server, the curve of goodput if that decided the budget, and warnings.

    The loads must be known before the budget and the time of a slot are, so the pipeline runs in two parts.
    """
    from craftc.passes.base import Pipeline
    from craftc.passes.compilation import updated
    from craftc.passes.pipelines import analysis, joined, planning, rewriting, run_on_model
    from craftc.serving.planning import chosen_budget, with_goodput

    measuring = joined(analysis(), Pipeline(() if profiling is None else (profiling,)))
    known = run_on_model(measuring, source.model, source.inputs, loads, on_pass=progress)
    made = made_for_server(server, request, known.loads, known.layers, objective, measurements)
    request, curve = chosen_budget(made.server, made.request, known.loads, progress)
    done = joined(planning(request), rewriting()).run(known, progress)
    return updated(done, plan=with_goodput(done.plan, done.loads, made.server)), curve, made.warnings
