"""Efficiencies out of measured rows: which rows count, and what they come to."""

from importlib.util import find_spec

import pytest

from benchmarks.cluster_tables import (
    SOURCES,
    all_to_all_latency_ms,
    comparison,
    dense_efficiency,
    expert_efficiency,
    main,
    network_efficiency,
    streaming_efficiency,
)
from craftc.errors import BadInput
from craftc.serving.cluster import preset_names, read_cluster

A100 = next(source for source in SOURCES if source.preset == "a100-80g-ib")
CHIP = read_cluster("a100-80g-ib").chip
FLOPS_PER_TOKEN = 8 * 2 * 3 * 7168 * 2048


def expert_row(tokens: int, milliseconds: float, **others: object) -> dict[str, object]:
    row = {
        "kernel_source": "a kernel", "moe_dtype": "bfloat16", "num_tokens": tokens, "latency": milliseconds,
        "hidden_size": 7168, "inter_size": 2048, "topk": 8, "num_experts": 256, "moe_tp_size": 1, "moe_ep_size": 1,
        "distribution": "balanced",
    }  # fmt: skip
    return row | others


def test_experts_reach_the_best_of_the_rows():
    half_ms = 4096 * FLOPS_PER_TOKEN / (0.5 * 312e12) * 1e3
    found = expert_efficiency([expert_row(2048, half_ms), expert_row(4096, half_ms)], A100, CHIP)
    assert found.value == pytest.approx(0.5)
    assert found.row == "a kernel, 4096 tokens, 156 TFLOP/s"


@pytest.mark.parametrize(
    "other",
    [
        {"moe_ep_size": 8},
        {"moe_tp_size": 2},
        {"distribution": "power_law_1.2"},
        {"num_experts": 384},
        {"moe_dtype": "int4_wo"},
        {"hidden_size": 4096},
        {"inter_size": 1024},
        {"topk": 6},
    ],
)
def test_rows_of_other_kinds_do_not_count(other):
    slow, fast = expert_row(4096, 100.0), expert_row(4096, 1.0, **other)
    assert expert_efficiency([slow, fast], A100, CHIP) == expert_efficiency([slow], A100, CHIP)
    with pytest.raises(BadInput, match="the tables have no rows of a100_sxm with 256 experts in bfloat16"):
        expert_efficiency([fast], A100, CHIP)


def test_weights_are_streamed_where_every_expert_is_read_once():
    whole_ms = 384 * 3 * 7168 * 2048 * 2 / 2.04e12 * 1e3
    rows = [expert_row(tokens, whole_ms / 0.8, num_experts=384) for tokens in (48, 96)]
    too_few, too_many = (expert_row(tokens, whole_ms / 2, num_experts=384) for tokens in (47, 129))
    assert streaming_efficiency([*rows, too_few, too_many], A100, CHIP).value == pytest.approx(0.8)
    with pytest.raises(BadInput, match="48 to 128 tokens"):
        streaming_efficiency([too_few, too_many], A100, CHIP)


def test_dense_products_count_by_their_operations():
    def row(outputs: int, inputs: int, tflops: float, tokens: int = 4096) -> dict[str, object]:
        milliseconds = 2 * tokens * outputs * inputs / tflops / 1e9
        sizes = {"m": tokens, "n": outputs, "k": inputs, "latency": milliseconds}
        return sizes | {"gemm_dtype": "bfloat16", "kernel_source": "a kernel"}

    alone = [row(4096, 7168, 156.0), row(4096, 7168, 300.0, tokens=8192), row(4096, 4096, 300.0)]
    assert dense_efficiency(alone, A100, CHIP).value == pytest.approx(0.5)
    both = dense_efficiency([row(4096, 7168, 100.0), row(7168, 16384, 200.0)], A100, CHIP)
    assert both.value * 312 == pytest.approx((1 + 4) / (1 / 100 + 4 / 200))
    with pytest.raises(BadInput, match="matrices of DeepSeek"):
        dense_efficiency([row(4096, 4096, 300.0)], A100, CHIP)


def test_latency_and_efficiency_of_the_network_are_means_of_both_directions():
    row = {
        "node_num": 8, "num_token": 2, "hidden_size": 7168, "num_topk": 8, "num_experts": 256,
        "dispatch_avg_t_us": 25.0, "combine_avg_t_us": 35.0,
    }  # fmt: skip
    many = row | {"num_token": 256, "dispatch_avg_t_us": 256 * 8 * 7392 * 7 / 8 / 25e3, "combine_avg_t_us": 1e3}
    others = [row | {"node_num": 4, "combine_avg_t_us": 9e9}, many | {"num_experts": 384}]
    found = all_to_all_latency_ms([*others, row])
    assert (found.value, found.row) == (pytest.approx(0.03), "25 us there, 35 us back")
    back = 256 * 8 * 7 / 8 * 7168 * 2 / 1e6
    assert network_efficiency([*others, many], 400).value == pytest.approx((25 + back) / 2 / 50)
    with pytest.raises(BadInput, match="on 8 nodes with 2 tokens"):
        all_to_all_latency_ms(others)


def test_every_source_is_a_preset_of_its_chip():
    assert {source.preset for source in SOURCES} == set(preset_names()) - {"mi300x-ib"}
    for source in SOURCES:
        chip = read_cluster(source.preset).chip
        assert source.system.split("_")[0].upper() in chip.name
        assert f"{source.system}, SGLang {source.version}" in chip.expert_efficiency.source
        assert chip.peak(source.dtype) > 0


def test_without_the_package_it_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.cluster_tables.find_spec", lambda name: None)
    assert main() == 1
    assert capsys.readouterr().err == (
        "aiconfigurator-core is not installed: pip install 'craftc[tables]', or leave the presets as they are\n"
    )


def test_missing_tables_are_named(tmp_path):
    with pytest.raises(BadInput, match=r"a100_sxm/moe/sglang/0.5.10/moe_perf.parquet: no such table"):
        comparison(tmp_path)


@pytest.mark.skipif(
    find_spec("aiconfigurator_core") is None or find_spec("pyarrow") is None,
    reason="aiconfigurator-core is not installed (extra `tables`)",
)
def test_the_presets_hold_what_the_tables_say(capsys):
    assert main() == 0
    assert "in the tables" in capsys.readouterr().out
