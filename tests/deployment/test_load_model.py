"""`craftc.load_model` on one rank: several are in tests/integration/test_ranks_commands.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from craftc.deployment.load_model import load_model
from craftc.errors import BadInput
from craftc.runtime.replicated_experts import ReplicatedExperts
from tests.deployment.outputs import MODEL_FILE, model_file, optimized
from tests.model_families import FAMILIES
from tests.passes.analysis.tracing.dispatch_styles import tokens
from tests.places import ROOT
from tests.runtime.one_rank import one_rank  # noqa: F401

PLAIN = ROOT / "examples" / "plain_moe" / "model.py"


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3", "gpt_oss"])
def test_a_model_file_comes_back_with_its_weights(one_rank, tmp_path, family):  # noqa: F811
    source = optimized(tmp_path / "out", model_file(tmp_path, family))
    loaded: Any = load_model(tmp_path / "out", group=one_rank.process_group)
    assert type(loaded) is type(source.model)
    assert sum(isinstance(module, ReplicatedExperts) for module in loaded.modules()) == len(FAMILIES[family].layers)
    with torch.no_grad():
        expected = source.model(**source.inputs.example).logits
        torch.testing.assert_close(loaded(**source.inputs.example).logits, expected, rtol=1e-5, atol=1e-5)


def test_a_hugging_face_folder(one_rank, tmp_path):  # noqa: F811
    model: Any = FAMILIES["mixtral"].build()
    model.save_pretrained(tmp_path / "checkpoint")
    source = optimized(tmp_path / "out", str(tmp_path / "checkpoint"))
    loaded: Any = load_model(tmp_path / "out", group=one_rank.process_group)
    with torch.no_grad():
        expected = source.model(**source.inputs.example).logits
        torch.testing.assert_close(loaded(**source.inputs.example).logits, expected, rtol=1e-5, atol=1e-5)


def test_experts_in_module_lists_come_back_as_a_graph(one_rank, tmp_path):  # noqa: F811
    source = optimized(tmp_path / "out", str(PLAIN))
    loaded = load_model(tmp_path / "out", group=one_rank.process_group)
    assert isinstance(loaded, torch.fx.GraphModule)
    tokens = torch.arange(15).reshape(3, 5)
    torch.testing.assert_close(loaded(tokens=tokens), source.model(tokens), rtol=1e-5, atol=1e-5)


READ = """
from tests.passes.analysis.tracing.{module} import {style}
from tests.passes.analysis.tracing.dispatch_styles import tokens
from tests.passes.analysis.tracing.style_table import build


def build_model():
    return build({style})


def example_inputs():
    return tokens(2, 16)
"""
"""A model whose blocks' own code is read, because fx cannot trace it."""


@pytest.mark.parametrize(
    ("module", "style"),
    [
        *(("block_styles", style) for style in ("NormInside", "FunctionalNorm", "ExpertDict", "Groups")),
        *(("stacked_styles", style) for style in ("Buffers", "Counted", "Gathered", "NormAfter", "Weighing")),
    ],
)
def test_blocks_that_are_read_come_back_too(one_rank, tmp_path, module, style):  # noqa: F811
    (tmp_path / "read.py").write_text(READ.format(module=module, style=style))
    source = optimized(tmp_path / "out", str(tmp_path / "read.py"))
    loaded = load_model(tmp_path / "out", group=one_rank.process_group)
    inputs = tokens(3, 11, seed=5)
    torch.testing.assert_close(loaded(**inputs), source.model(**inputs), rtol=1e-5, atol=1e-5)


def test_tied_weights_stay_tied(one_rank, tmp_path):  # noqa: F811
    text = MODEL_FILE.format(family="mixtral").replace("EXTRA = {}", 'EXTRA = {"tie_word_embeddings": True}')
    (tmp_path / "tied.py").write_text(text)
    source = optimized(tmp_path / "out", str(tmp_path / "tied.py"))
    loaded: Any = load_model(tmp_path / "out", group=one_rank.process_group)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    with torch.no_grad():
        expected = source.model(**source.inputs.example).logits
        torch.testing.assert_close(loaded(**source.inputs.example).logits, expected, rtol=1e-5, atol=1e-5)


def test_nothing_is_left_behind_on_the_module_class(one_rank, tmp_path):  # noqa: F811
    optimized(tmp_path / "out", model_file(tmp_path, "mixtral"))
    before = torch.nn.Module.register_parameter
    load_model(tmp_path / "out", group=one_rank.process_group)
    assert torch.nn.Module.register_parameter is before


def test_a_model_that_has_changed_is_refused(one_rank, tmp_path):  # noqa: F811
    path = model_file(tmp_path, "mixtral")
    optimized(tmp_path / "out", path)
    Path(path).write_text(Path(path).read_text().replace(".eval()", ".eval().model"))
    with pytest.raises(BadInput, match="plan does not belong to this model"):
        load_model(tmp_path / "out", group=one_rank.process_group)


def test_the_model_may_have_moved(one_rank, tmp_path):  # noqa: F811
    spec = model_file(tmp_path, "mixtral")
    optimized(tmp_path / "out", spec)
    Path(spec).rename(tmp_path / "moved.py")
    with pytest.raises(BadInput, match=r"mixtral\.py"):
        load_model(tmp_path / "out", group=one_rank.process_group)
    load_model(tmp_path / "out", group=one_rank.process_group, model=str(tmp_path / "moved.py"))
    assert json.loads((tmp_path / "out" / "model.json").read_text())["model"] == "../mixtral.py"


def test_a_model_file_that_looks_at_its_weights_works_and_says_what_it_costs(one_rank, tmp_path):  # noqa: F811
    path = tmp_path / "looking.py"
    path.write_text(
        "from tests.model_families import FAMILIES, example_inputs\n"
        "def build_model():\n    return FAMILIES['mixtral'].build()\n"
    )
    source = optimized(tmp_path / "out", str(path))
    with pytest.warns(
        UserWarning, match="built with all its weights, because building without them failed: .*build_model"
    ):
        loaded: Any = load_model(tmp_path / "out", group=one_rank.process_group)
    with torch.no_grad():
        expected = source.model(**source.inputs.example).logits
        torch.testing.assert_close(loaded(**source.inputs.example).logits, expected, rtol=1e-5, atol=1e-5)
