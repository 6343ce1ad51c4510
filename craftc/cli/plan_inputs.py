"""What craftc plan plans for: layers with sizes, loads with names, and the model if there is one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from craftc.cli.given_config import given_config

if TYPE_CHECKING:
    from torch import nn

    from craftc.cli.progress import ShownProgress
    from craftc.loads.load_profile import LoadProfile
    from craftc.models.given_sizes import GivenSizes
    from craftc.models.model_config import ModelConfig
    from craftc.models.moe_layer import MoELayer
    from craftc.planning_options import PlanningOptions


def config_beside_model(
    model: str | None, model_config: Path | None, given: GivenSizes, mtp: bool
) -> ModelConfig | None:
    """The model's config, if it is given. Raises BadInput if the model is given twice."""
    from craftc.errors import BadInput

    if model is not None and model_config is not None:
        raise BadInput("give MODEL or --model-config, not both: each knows the layers and the size of their experts")
    return given_config(model_config, given, mtp)


def bytes_of(size: str | None) -> int | None:
    """A size in bytes, if one is given."""
    from craftc.units import parse_size

    return None if size is None else parse_size(size)


def loads_and_layers(
    loads: LoadProfile,
    model: str | None,
    config: ModelConfig | None,
    given: GivenSizes,
    options: PlanningOptions,
    progress: ShownProgress,
) -> tuple[LoadProfile, tuple[MoELayer, ...], nn.Module | None]:
    """Loads with the model's names, its MoE layers, and the model itself if there is one."""
    from craftc.loads.name_layers import layers_of_loads, name_layers, recorded_layers
    from craftc.models.given_sizes import resized, sized

    if model is not None:
        return (loads, *_model_and_layers(model, given, progress))
    if config is not None:
        return name_layers(loads, config), recorded_layers(loads, config), None
    if options.current_plan is not None:
        return loads, resized(options.current_plan.moe_layers, given), None
    return loads, sized(layers_of_loads(loads, 1), given), None


def _model_and_layers(model: str, given: GivenSizes, progress: ShownProgress) -> tuple[tuple[MoELayer, ...], nn.Module]:
    from craftc.models.model_file import load_model_source
    from craftc.models.model_sizes import true_sizes
    from craftc.passes.compilation import require_moe_layers
    from craftc.passes.pipelines import analysed

    progress("load model")
    source = load_model_source(model)
    found = analysed(source.model, source.inputs, on_pass=progress)
    require_moe_layers(found)
    return true_sizes(model, found.layers, given), source.model
