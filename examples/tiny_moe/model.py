"""A small Mixtral language model of Python source, trained by train.py: what craftc needs to know of it.

Bytes are the tokens. The text is this Python's own standard library: files are held out of training by a hash of their
path, and only held-out files are used here. Axes: B sequences of a batch, T bytes of a sequence.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import MixtralConfig, MixtralForCausalLM

HERE = Path(__file__).parent
PAD = 0
"""Pads short sequences: byte 0 is in no Python source."""
CONTEXT = 256
"""Longest sequence, bytes; the model was trained on sequences of this length."""
BATCH = 8
"""Sequences in a calibration batch."""
CALIBRATION_BATCHES = 24
HELD_OUT_PERCENT = 10
_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "__pycache__"}
"""Not everywhere the same, or (encodings) generated tables that repeat each other."""


def build_model() -> MixtralForCausalLM:
    """The trained model in float32, ready to evaluate (the file stores bfloat16)."""
    model = MixtralForCausalLM(MixtralConfig.from_pretrained(HERE))
    weights = load_file(HERE / "model.safetensors")
    model.load_state_dict({name: weight.float() for name, weight in weights.items()})
    return model.eval()


def example_inputs() -> dict[str, torch.Tensor]:
    """One small batch; the second sequence is padded."""
    return padded_batch([b"def build_model():\n    return None\n", b"import torch\n"])


def calibration_inputs() -> Iterator[dict[str, torch.Tensor]]:
    """The ends of held-out files, one file a batch, so that steps differ; the last sequence is padded."""
    batches = 0
    for path in source_files(held_out=True):
        text = path.read_bytes()
        pieces = [text[start : start + CONTEXT] for start in range(0, len(text), CONTEXT)]
        if len(pieces) < BATCH:
            continue
        yield padded_batch(pieces[-BATCH:])
        batches += 1
        if batches == CALIBRATION_BATCHES:
            return


def padded_batch(pieces: list[bytes]) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask`, both int64 [B, T], short pieces padded on the right."""
    length = max(len(piece) for piece in pieces)
    input_ids_BT = torch.tensor([list(piece.ljust(length, bytes([PAD]))) for piece in pieces])
    return {"input_ids": input_ids_BT, "attention_mask": (input_ids_BT != PAD).long()}


def source_files(*, held_out: bool) -> list[Path]:
    """The standard library's source files on one side of the split, in an order that depends on their paths alone."""
    root = Path(sysconfig.get_path("stdlib"))
    files = [path for path in root.rglob("*.py") if not _SKIPPED_FOLDERS & set(path.relative_to(root).parts)]
    digest_of = {path: hashlib.sha256(path.relative_to(root).as_posix().encode()).digest() for path in files}
    chosen = [path for path in files if (digest_of[path][0] * 100 < HELD_OUT_PERCENT * 256) == held_out]
    return sorted(chosen, key=lambda path: digest_of[path])
