"""Requests: how a prompt is cut into chunks, and what is refused."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from craftc.errors import BadInput
from craftc.serving.workload import Workload

TOKENS = st.integers(1, 2**27)


@given(TOKENS, TOKENS)
def test_chunks_are_even_and_make_up_the_prompt(tokens: int, chunk: int):
    work = Workload(tokens, 1, chunk)
    assert work.chunk_tokens <= chunk
    assert work.chunks * work.chunk_tokens == pytest.approx(tokens)
    assert (work.chunks - 1) * chunk < tokens


def test_a_prompt_just_longer_than_a_chunk_takes_two_steps():
    assert (Workload(4097, 1, 4096).chunks, Workload(4097, 1, 4096).chunk_tokens) == (2, 2048.5)
    assert Workload(4096, 1, 4096).chunks == 1


def test_everything_is_stated():
    stated = Workload(10, 20, itl_limit_s=0.5).stated
    assert list(stated) == [field.name for field in fields(Workload)]
    assert (stated["input"], stated["itl_limit_s"], stated["batch"]) == (10, 0.5, None)


@pytest.mark.parametrize("name", ["input", "output", "chunk"])
@pytest.mark.parametrize("value", [0, -1, 2**27 + 1, 10**400, 1.0, math.nan, True, "4096", None])
def test_numbers_of_tokens_are_whole_and_believable(name, value):
    with pytest.raises(BadInput, match=f"{name} must be a number of tokens in 1..134217728, got "):
        Workload(**{name: value})


@pytest.mark.parametrize("value", [0, -5, math.inf, math.nan, "10s", True, [1]])
@pytest.mark.parametrize("name", ["ttft_limit_s", "itl_limit_s"])
def test_limits_are_seconds_above_0(name, value):
    with pytest.raises(BadInput, match=f"{name} must be above 0 seconds"):
        Workload(**{name: value})


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "8"])
def test_a_batch_is_at_least_one_request(value):
    with pytest.raises(BadInput, match="batch must be at least 1 request per GPU"):
        Workload(phase="decode", batch=value)


@pytest.mark.parametrize("phase", ["mixed", "prefill"])
def test_a_batch_is_for_decode_only(phase):
    with pytest.raises(BadInput, match=f"belongs to phase decode, not {phase}"):
        Workload(phase=phase, batch=8)


@pytest.mark.parametrize("phase", ["training", "", None, 3, []])
def test_phases_are_known(phase):
    with pytest.raises(BadInput, match="is unknown; choose mixed, prefill, decode"):
        Workload(phase=phase)


def test_a_limit_on_what_a_phase_does_not_do_is_refused():
    with pytest.raises(BadInput, match="ttft_limit_s does not belong to phase decode"):
        Workload(phase="decode", ttft_limit_s=1.0)
    with pytest.raises(BadInput, match="itl_limit_s does not belong to phase prefill"):
        Workload(phase="prefill", itl_limit_s=1.0)
