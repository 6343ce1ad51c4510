"""Entries of lists of modules, and the experts' matrices that they cover or do not."""

from __future__ import annotations

import pytest

from craftc.errors import BadInput, Unsupported
from craftc.models.expert_shape import ExpertShape, block_paths
from craftc.models.family_facts import FAMILIES
from craftc.models.module_patterns import ModulePatterns

SHAPE = ExpertShape(hidden=4, width=2, gated=True, biased=False)


def covered(entry: str, layer: int = 1, family: str | None = "qwen3_moe", expert: int = 0) -> str:
    """The first letters of the matrices (gate, up, down) that `entry` covers."""
    facts = None if family is None else FAMILIES[family]
    matrices = SHAPE.matrices(block_paths(layer, facts), expert, facts is not None)
    patterns = ModulePatterns([entry], "ignore")
    return "".join(
        letter for letter, matrix in zip("gud", matrices, strict=True) if patterns.entry_for(matrix) == entry
    )


@pytest.mark.parametrize(
    ("entry", "matrices"),
    [
        ("mlp.experts", "gud"),
        ("experts", "gud"),
        ("model.layers.1.", "gud"),
        ("model.layers.1", "gud"),
        ("layers.1.mlp", "gud"),
        ("model.language_model.layers.1.mlp.experts", "gud"),
        ("language_model.model.layers.1.mlp.experts.0.down_proj", "d"),
        ("thinker.model.layers.1.mlp.experts.0.up_proj.weight", "u"),
        ("model.layers.1.mlp.experts.gate_up_proj", "gu"),
        ("down_proj", "d"),
        ("w2", "d"),
        ("mlp.gate.", ""),
        ("gate", ""),
        ("mlp.gate", ""),
        ("model.layers.10", ""),
        ("model.layers.11.", ""),
        ("shared_expert", ""),
        ("mlp.shared_experts", ""),
        ("visual.layers.1.mlp", ""),
        ("lm_head", ""),
        ("*", "gud"),
        ("*experts*", "gud"),
        ("*.shared_experts*", ""),
        ("model.layers.*.mlp.experts*", "gud"),
        ("model.layers.*.mlp.experts", "gud"),
        ("model.layers.1*", "gud"),
        ("model.layers.[0-3].mlp.experts*", "gud"),
        ("model.layers.[2-3].mlp.experts*", ""),
        ("model.layers.*.self_attn", ""),
        ("model.layers.*.mlp.gate", ""),
        ("*language_model.layers.1.*", "gud"),
        ("*.down_proj", "d"),
        ("*up_proj", "u"),
        ("re:.*up_proj", "u"),
        ("re:.*gate_up_proj", "gu"),
        ("vision_tower*", ""),
        ("re:.*mlp.experts.*", "gud"),
        ("re:.*experts$", "gud"),
        (r"re:.*layers\.[0-3]\..*", "gud"),
        (r"re:.*layers\.[2-3]\..*", ""),
        (r"re:model\.language_model\.layers\.1\.mlp\.experts\.\d+\.(gate|up)_proj", "gu"),
        (r"re:.*mlp\.(gate|up|gate_up|down)_proj.*", ""),
        (r"re:.*mlp.gate$", ""),
        ("re:^(?!.*experts).*", ""),
        (r".*\.mlp\.experts\..*", "gud"),
        (r"^model\.layers\.1\.", "gud"),
    ],
)
def test_what_an_entry_covers(entry: str, matrices: str) -> None:
    assert covered(entry) == matrices


def test_a_number_of_a_layer_is_that_layer_alone() -> None:
    assert [layer for layer in range(25) if covered("model.layers.1.", layer)] == [1]
    assert [layer for layer in range(25) if covered("layers.2", layer)] == [2]


@pytest.mark.parametrize(
    ("family", "entry"),
    [
        ("mixtral", "re:.*block_sparse_moe.experts.*"),
        ("mixtral", "model.layers.1.block_sparse_moe.experts.0.w1"),
        ("mixtral", "model.layers.1.mlp.experts"),
        ("granitemoe", "model.layers.1.block_sparse_moe.input_linear"),
        ("llama4_text", "language_model.model.layers.1.feed_forward.experts"),
        ("nemotron_h", "backbone.layers.1.mixer.experts.0.up_proj"),
        ("dbrx", "transformer.blocks.1.ffn.experts"),
        ("gemma4_text", "model.layers.1.experts"),
        (None, "*.whatever.experts.*"),
        (None, "model.layers.1.block_sparse_moe.experts"),
    ],
)
def test_blocks_have_the_names_of_their_family_and_of_its_checkpoints(family: str | None, entry: str) -> None:
    assert bool(covered(entry, family=family)) == ("whatever" not in entry)


def test_an_entry_for_one_expert_covers_no_other() -> None:
    assert covered("model.layers.1.mlp.experts.7.gate_proj", expert=7) == "g"
    assert covered("model.layers.1.mlp.experts.7.gate_proj", expert=17) == ""


def test_an_entry_that_depends_on_the_name_of_an_unknown_block_is_refused() -> None:
    with pytest.raises(Unsupported, match=r"ignore: 're:\.\*mlp.*depending on what this model calls its MoE blocks"):
        covered("re:.*mlp.*", family=None)


def test_a_broken_pattern_is_named() -> None:
    with pytest.raises(BadInput, match=r"ignore: 're:\(' is not a pattern"):
        covered("re:(")
