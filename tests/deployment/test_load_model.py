"""`craftc.load` on one rank: several are in tests/integration/test_ranks_commands.py."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from craftc.deployment.load_model import load
from craftc.deployment.optimized_folder import write_optimized
from craftc.errors import BadInput
from craftc.loads.load_profile import LoadProfile
from craftc.models.model_file import load_model_source
from craftc.passes.base import Compilation
from craftc.pipelines import analysis_pipeline, run_pipeline
from craftc.plans.file import write_plan
from craftc.runtime.replicated_experts import ReplicatedExperts
from tests.model_families import FAMILIES
from tests.passes.traced import planned
from tests.places import ROOT
from tests.runtime.one_rank import one_rank  # noqa: F401

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
PLAIN = ROOT / "examples" / "plain_moe" / "model.py"


def optimized(folder: Path, spec: str) -> Any:
    """The source of `spec`, planned for one GPU and written to `folder`."""
    source = load_model_source(spec)
    found, _ = run_pipeline(analysis_pipeline(), Compilation(model=source.model, inputs=source.inputs), None)
    plan = planned(found, gpus=1, replicas=0).plan
    assert plan is not None
    loads = LoadProfile.from_counts(torch.ones(1, len(plan.layers), plan.layers[0].experts).numpy())
    write_optimized(folder, source.model, plan, loads, "report", spec)
    return source


def model_file(folder: Path, family: str) -> str:
    path = folder / f"{family}.py"
    path.write_text(MODEL_FILE.format(family=family))
    return str(path)


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3", "gpt_oss"])
def test_a_model_file_comes_back_with_its_weights(one_rank, tmp_path, family):  # noqa: F811
    source = optimized(tmp_path / "out", model_file(tmp_path, family))
    loaded: Any = load(tmp_path / "out", group=one_rank.process_group)
    assert type(loaded) is type(source.model)
    assert sum(isinstance(module, ReplicatedExperts) for module in loaded.modules()) == len(FAMILIES[family].layers)
    with torch.no_grad():
        expected = source.model(**source.inputs.example).logits
        torch.testing.assert_close(loaded(**source.inputs.example).logits, expected, rtol=1e-5, atol=1e-5)


def test_a_hugging_face_folder(one_rank, tmp_path):  # noqa: F811
    model: Any = FAMILIES["mixtral"].build()
    model.save_pretrained(tmp_path / "checkpoint")
    source = optimized(tmp_path / "out", str(tmp_path / "checkpoint"))
    loaded: Any = load(tmp_path / "out", group=one_rank.process_group)
    with torch.no_grad():
        expected = source.model(**source.inputs.example).logits
        torch.testing.assert_close(loaded(**source.inputs.example).logits, expected, rtol=1e-5, atol=1e-5)


def test_experts_in_module_lists_come_back_as_a_graph(one_rank, tmp_path):  # noqa: F811
    source = optimized(tmp_path / "out", str(PLAIN))
    loaded = load(tmp_path / "out", group=one_rank.process_group)
    assert isinstance(loaded, torch.fx.GraphModule)
    tokens = torch.arange(15).reshape(3, 5)
    torch.testing.assert_close(loaded(tokens=tokens), source.model(tokens), rtol=1e-5, atol=1e-5)


def test_tied_weights_stay_tied(one_rank, tmp_path):  # noqa: F811
    text = MODEL_FILE.format(family="mixtral").replace("EXTRA = {}", 'EXTRA = {"tie_word_embeddings": True}')
    (tmp_path / "tied.py").write_text(text)
    source = optimized(tmp_path / "out", str(tmp_path / "tied.py"))
    loaded: Any = load(tmp_path / "out", group=one_rank.process_group)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    with torch.no_grad():
        expected = source.model(**source.inputs.example).logits
        torch.testing.assert_close(loaded(**source.inputs.example).logits, expected, rtol=1e-5, atol=1e-5)


def test_nothing_is_left_behind_on_the_module_class(one_rank, tmp_path):  # noqa: F811
    optimized(tmp_path / "out", model_file(tmp_path, "mixtral"))
    before = torch.nn.Module.register_parameter
    load(tmp_path / "out", group=one_rank.process_group)
    assert torch.nn.Module.register_parameter is before


def test_weights_of_another_plan_are_refused(one_rank, tmp_path):  # noqa: F811
    source = optimized(tmp_path / "out", model_file(tmp_path, "mixtral"))
    found, _ = run_pipeline(analysis_pipeline(), Compilation(model=source.model, inputs=source.inputs), None)
    plan = planned(found, gpus=1, replicas=0).plan
    assert plan is not None
    turned = replace(plan.layers[0], placement=(tuple(reversed(plan.layers[0].placement[0])),))
    write_plan(replace(plan, layers=(turned, *plan.layers[1:])), tmp_path / "out" / "plan.json")
    with pytest.raises(BadInput, match=r"shared\.safetensors were written for another plan; run craftc optimize again"):
        load(tmp_path / "out", group=one_rank.process_group)


def test_a_model_that_has_changed_is_refused(one_rank, tmp_path):  # noqa: F811
    path = model_file(tmp_path, "mixtral")
    optimized(tmp_path / "out", path)
    Path(path).write_text(Path(path).read_text().replace(".eval()", ".eval().model"))
    with pytest.raises(BadInput, match="plan does not belong to this model"):
        load(tmp_path / "out", group=one_rank.process_group)


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
        load(tmp_path / "out", group=one_rank.process_group)


def test_missing_weights_are_named(one_rank, tmp_path):  # noqa: F811
    optimized(tmp_path / "out", model_file(tmp_path, "mixtral"))
    (tmp_path / "out" / "weights" / "gpu-00000.safetensors").unlink()
    with pytest.raises(BadInput, match=r"cannot read weights .*gpu-00000\.safetensors"):
        load(tmp_path / "out", group=one_rank.process_group)


def test_the_model_may_have_moved(one_rank, tmp_path):  # noqa: F811
    spec = model_file(tmp_path, "mixtral")
    optimized(tmp_path / "out", spec)
    Path(spec).rename(tmp_path / "moved.py")
    with pytest.raises(BadInput, match=r"mixtral\.py"):
        load(tmp_path / "out", group=one_rank.process_group)
    load(tmp_path / "out", group=one_rank.process_group, model=str(tmp_path / "moved.py"))
    assert json.loads((tmp_path / "out" / "model.json").read_text())["model"] == "../mixtral.py"


def test_a_model_file_that_looks_at_its_weights_works_and_says_what_it_costs(one_rank, tmp_path):  # noqa: F811
    path = tmp_path / "looking.py"
    path.write_text(
        "from tests.model_families import FAMILIES, example_inputs\n"
        "def build_model():\n    return FAMILIES['mixtral'].build()\n"
    )
    source = optimized(tmp_path / "out", str(path))
    with pytest.warns(UserWarning, match="built with all its weights, because without them .*build_model"):
        loaded: Any = load(tmp_path / "out", group=one_rank.process_group)
    with torch.no_grad():
        expected = source.model(**source.inputs.example).logits
        torch.testing.assert_close(loaded(**source.inputs.example).logits, expected, rtol=1e-5, atol=1e-5)
