"""Sizes from headers of `.safetensors` files; the files here have headers and no weights behind them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from craftc.errors import BadInput
from craftc.models.checkpoint_headers import quantised_by_name, stored_expert_bytes
from craftc.models.model_config import read_model_config

Entries = dict[str, tuple[str, list[int], int]]


def write_header(path: Path, entries: Entries) -> None:
    """A file that is a header alone: name, dtype, shape and bytes of every tensor."""
    header, start = {}, 0
    for name, (dtype, shape, size) in entries.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, start + size]}
        start += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)


def write_index(folder: Path, files: dict[str, Entries]) -> None:
    weight_map = {name: file for file, entries in files.items() for name in entries}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    for file, entries in files.items():
        write_header(folder / file, entries)


def nvfp4_layer(index: int, experts: int = 4, root: str = "model.layers") -> Entries:
    """Per expert and matrix: 64 packed bytes, 8 of scales, 4 for each of two fp32 scales: 3 x 80."""
    return {
        f"{root}.{index}.mlp.experts.{expert}.{matrix}.{part}": entry
        for expert in range(experts)
        for matrix in ("gate_proj", "up_proj", "down_proj")
        for part, entry in {
            "weight": ("U8", [8, 8], 64), "weight_scale": ("F8_E4M3", [8, 1], 8),
            "weight_scale_2": ("F32", [], 4), "input_scale": ("F32", [], 4),
        }.items()
    }  # fmt: skip


def test_one_file_with_an_expert_per_tensor(tmp_path: Path) -> None:
    others: Entries = {
        "model.layers.1.mlp.shared_experts.gate_proj.weight": ("BF16", [8, 8], 128),
        "model.layers.1.mlp.gate.weight": ("BF16", [4, 8], 64),
        "model.layers.0.mlp.gate_proj.weight": ("BF16", [8, 8], 128),
        "model.visual.layers.1.mlp.experts.0.up_proj.weight": ("BF16", [8, 8], 128),
        "mtp.layers.1.mlp.experts.0.up_proj.weight": ("BF16", [8, 8], 128),
        "model.layers.1.self_attn.q_proj.weight": ("BF16", [8, 8], 128),
    }
    write_header(tmp_path / "model.safetensors", nvfp4_layer(1) | others)
    assert stored_expert_bytes(tmp_path, {1: 4, 2: 4}) == {1: 240}


@pytest.mark.parametrize(
    ("tensors", "size"),
    [
        (  # GPT-OSS: packed values, scales, biases
            {"mlp.experts.gate_up_proj_blocks": ("U8", [4, 16, 1, 16], 1024),
             "mlp.experts.gate_up_proj_scales": ("U8", [4, 16, 1], 64),
             "mlp.experts.gate_up_proj_bias": ("BF16", [4, 16], 128),
             "mlp.experts.down_proj_bias": ("BF16", [4, 8], 64)}, 320),
        (  # Granite, JetMoE
            {"block_sparse_moe.input_linear.weight": ("BF16", [4, 16, 8], 1024),
             "block_sparse_moe.output_linear.weight": ("BF16", [4, 8, 8], 512)}, 384),
        ({"moe.gate_proj.weight": ("BF16", [4, 8, 8], 512), "moe.down_proj.weight": ("BF16", [4, 8, 8], 512)}, 256),
        ({"ffn.experts.mlp.w1": ("BF16", [32, 8], 512), "ffn.experts.mlp.w2": ("BF16", [32, 8], 512)}, 256),  # DBRX
        ({f"mixer.experts.{e}.up_proj.weight": ("F8_E4M3", [8, 8], 64) for e in range(4)}, 64),  # Nemotron-H
        ({f"block_sparse_moe.experts.{e}.w1.weight": ("BF16", [8, 8], 128) for e in range(4)}, 128),  # Mixtral
        ({"experts.gate_up_proj": ("BF16", [4, 16, 8], 1024), "experts.input_scale": ("F32", [], 4)}, 256),  # Gemma 4
    ],
)  # fmt: skip
def test_other_ways_to_store_experts(tmp_path: Path, tensors: Entries, size: int) -> None:
    write_header(
        tmp_path / "model.safetensors",
        {f"language_model.model.layers.2.{name}": entry for name, entry in tensors.items()},
    )
    assert stored_expert_bytes(tmp_path, {2: 4}) == {2: size}


def test_layers_with_a_tensor_in_a_file_that_is_not_here_are_left_out(tmp_path: Path) -> None:
    first, second = nvfp4_layer(0), nvfp4_layer(1)
    moved = dict(list(second.items())[-1:])
    kept = dict(list(second.items())[:-1])
    write_index(tmp_path, {"a.safetensors": first | kept, "b.safetensors": moved, "c.safetensors": nvfp4_layer(2)})
    assert stored_expert_bytes(tmp_path, dict.fromkeys(range(3), 4)) == {0: 240, 1: 240, 2: 240}
    (tmp_path / "b.safetensors").unlink()
    (tmp_path / "c.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert stored_expert_bytes(tmp_path, dict.fromkeys(range(3), 4)) == {0: 240}


def test_a_folder_without_weights_says_nothing(tmp_path: Path) -> None:
    assert stored_expert_bytes(tmp_path, {0: 4}) == {}


def test_another_models_checkpoint_is_refused(tmp_path: Path) -> None:
    write_header(tmp_path / "model.safetensors", nvfp4_layer(0, experts=3))
    with pytest.raises(BadInput, match="decoder layer 0 holds 3 experts, the config has 4"):
        stored_expert_bytes(tmp_path, {0: 4})
    write_header(tmp_path / "model.safetensors", {"model.layers.0.mlp.experts.down_proj": ("BF16", [3, 8, 8], 384)})
    with pytest.raises(BadInput, match=r"has shape \[3, 8, 8\], the config has 4 experts"):
        stored_expert_bytes(tmp_path, {0: 4})


def test_experts_that_compute_nothing_do_not_count(tmp_path: Path) -> None:
    useless: Entries = {f"model.layers.0.mlp.experts.{e}.up_proj.weight": ("BF16", [8, 8], 128) for e in (4, 5)}
    write_header(tmp_path / "model.safetensors", nvfp4_layer(0) | useless)
    assert stored_expert_bytes(tmp_path, {0: 4}, identities=2) == {0: 240}
    with pytest.raises(BadInput, match="holds 5 experts, the config has 4"):
        stored_expert_bytes(tmp_path, {0: 4}, identities=1)


def test_experts_of_one_layer_must_have_one_size(tmp_path: Path) -> None:
    larger: Entries = {"model.layers.0.mlp.experts.2.up_proj.weight": ("BF16", [8, 8], 128)}
    write_header(tmp_path / "model.safetensors", nvfp4_layer(0) | larger)
    with pytest.raises(BadInput, match=r"expert 0 has 240 bytes, expert 2 has 304; .*--expert-bytes 0=SIZE"):
        stored_expert_bytes(tmp_path, {0: 4})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a .safetensors file, or cut off"),
        ((10**9).to_bytes(8, "little") + b"{}", "its header would have 1000000000 bytes"),
        ((2).to_bytes(8, "little") + b"{]", "its header is not JSON"),
        ((2).to_bytes(8, "little") + b"[]", "its header is not an object"),
        ((8).to_bytes(8, "little") + b'{"a": 1}', "tensor a has no shape"),
    ],
)
def test_broken_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(BadInput, match=message):
        stored_expert_bytes(tmp_path, {0: 4})


def test_numbered_files_without_an_index(tmp_path: Path) -> None:
    write_header(tmp_path / "model-00001-of-00002.safetensors", nvfp4_layer(0))
    half = dict(list(nvfp4_layer(1).items())[:20])
    write_header(tmp_path / "model-00002-of-00002.safetensors", half)
    with pytest.raises(BadInput, match="decoder layer 1 holds 2 experts, the config has 4"):
        stored_expert_bytes(tmp_path, {0: 4, 1: 4})
    (tmp_path / "model-00002-of-00002.safetensors").rename(tmp_path / "model-00002-of-00003.safetensors")
    (tmp_path / "model-00001-of-00002.safetensors").rename(tmp_path / "model-00001-of-00003.safetensors")
    assert stored_expert_bytes(tmp_path, {0: 4, 1: 4}) == {0: 240}


def test_names_in_an_index_without_its_files_must_bear_out_the_config(tmp_path: Path) -> None:
    config = {
        "model_type": "qwen3_moe", "num_hidden_layers": 1, "num_experts": 4, "num_experts_per_tok": 2,
        "hidden_size": 8, "moe_intermediate_size": 8, "dtype": "bfloat16",
    }  # fmt: skip
    fp8 = config | {"quantization_config": {"quant_method": "fp8"}}
    plain: Entries = {name: ("BF16", [8, 8], 128) for name in nvfp4_layer(0) if name.endswith(".weight")}
    for entries, right, wrong, size in ((plain, config, fp8, 3 * 64 * 2), (nvfp4_layer(0), fp8, config, 3 * 68)):
        write_index(tmp_path, {"model-00001-of-00002.safetensors": entries})
        (tmp_path / "model-00001-of-00002.safetensors").unlink()
        assert quantised_by_name(tmp_path) == {0: entries is not plain}
        (tmp_path / "config.json").write_text(json.dumps(right))
        assert [layer.expert_bytes for layer in read_model_config(tmp_path).layers] == [size]
        (tmp_path / "config.json").write_text(json.dumps(wrong))
        with pytest.raises(BadInput, match=r"by their names in the checkpoint's index, but .*--expert-bytes"):
            read_model_config(tmp_path)
