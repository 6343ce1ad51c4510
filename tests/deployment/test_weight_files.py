"""Weights files that do not fit: each is refused in one line."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from craftc.deployment.load_model import load_model
from craftc.errors import BadInput
from craftc.passes.pipelines import analysed
from craftc.plans.file import write_plan
from tests.deployment.outputs import model_file, optimized
from tests.passes.traced import planned
from tests.runtime.one_rank import one_rank  # noqa: F401


def test_weights_of_another_plan_are_refused(one_rank, tmp_path):  # noqa: F811
    source = optimized(tmp_path / "out", model_file(tmp_path, "mixtral"))
    plan = planned(analysed(source.model, source.inputs), gpus=1, replicas=0).plan
    turned = replace(plan.layers[0], placement=(tuple(reversed(plan.layers[0].placement[0])),))
    write_plan(replace(plan, layers=(turned, *plan.layers[1:])), tmp_path / "out" / "plan.json")
    with pytest.raises(BadInput, match=r"shared\.safetensors were written for another plan; run craftc optimize again"):
        load_model(tmp_path / "out", group=one_rank.process_group)


@pytest.mark.parametrize(
    ("change", "message"), [("less", r"have nothing for lm_head\.weight of the model"), ("more", "hold extra")]
)
def test_weights_of_another_model_are_refused(one_rank, tmp_path, change, message):  # noqa: F811
    optimized(tmp_path / "out", model_file(tmp_path, "mixtral"))
    path = tmp_path / "out" / "weights" / "shared.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    if change == "less":
        del tensors["lm_head.weight"]
    else:
        tensors["extra"] = torch.zeros(1)
    save_file(tensors, path, metadata)
    with pytest.raises(BadInput, match=message):
        load_model(tmp_path / "out", group=one_rank.process_group)


def test_missing_weights_are_named(one_rank, tmp_path):  # noqa: F811
    optimized(tmp_path / "out", model_file(tmp_path, "mixtral"))
    (tmp_path / "out" / "weights" / "gpu-00000.safetensors").unlink()
    with pytest.raises(BadInput, match=r"cannot read weights .*gpu-00000\.safetensors"):
        load_model(tmp_path / "out", group=one_rank.process_group)
