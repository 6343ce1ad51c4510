"""Output folders of `craftc optimize`, as tests of what reads them need them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from craftc.deployment.optimized_folder import write_optimized
from craftc.loads.load_profile import LoadProfile
from craftc.models.model_file import load_model_source
from craftc.passes.pipelines import analysed
from tests.passes.traced import planned

MODEL_FILE = """
import torch
import transformers
from tests.model_families import COMMON, FAMILIES, example_inputs

def build_model():
    torch.manual_seed(0)
    family = FAMILIES["{family}"]
    config = getattr(transformers, family.config_class)(**(COMMON | family.options | EXTRA))
    return getattr(transformers, family.model_class)(config).eval()

EXTRA = {{}}
"""
"""A model file: a family to fill in, and options that a test may replace."""


def optimized(folder: Path, spec: str) -> Any:
    """The source of `spec`, planned for one GPU and written to `folder`."""
    source = load_model_source(spec)
    plan = planned(analysed(source.model, source.inputs), gpus=1, replicas=0).plan
    loads = LoadProfile.from_counts(torch.ones(1, len(plan.layers), plan.layers[0].experts).numpy())
    write_optimized(folder, source.model, plan, loads, "report", spec)
    return source


def model_file(folder: Path, family: str) -> str:
    path = folder / f"{family}.py"
    path.write_text(MODEL_FILE.format(family=family))
    return str(path)
