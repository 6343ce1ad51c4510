"""On one rank; several are in tests/integration/test_ranks_commands.py."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from craftc.errors import BadInput
from craftc.run import run
from examples.plain_moe import model as plain_moe
from tests.deployment.test_load_model import PLAIN, optimized
from tests.runtime.one_rank import one_rank  # noqa: F401


def test_outputs_are_the_original_models(one_rank, tmp_path):  # noqa: F811
    optimized(tmp_path / "out", str(PLAIN))
    tokens = torch.arange(12).reshape(3, 4)
    save_file({"tokens": tokens}, tmp_path / "x.safetensors")
    run(tmp_path / "out", tmp_path / "x.safetensors", tmp_path / "y.safetensors", one_rank)
    expected = plain_moe.build_model()(tokens)
    torch.testing.assert_close(
        load_file(tmp_path / "y.safetensors"), {"output": expected.detach()}, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("content", [None, b"not safetensors"])
def test_inputs_that_cannot_be_read_are_refused_before_the_model_is_built(one_rank, tmp_path, content):  # noqa: F811
    path = tmp_path / "x.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match=r"cannot read inputs .*x\.safetensors"):
        run(tmp_path / "nowhere", path, tmp_path / "y.safetensors", one_rank)
