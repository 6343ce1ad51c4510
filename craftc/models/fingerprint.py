"""Fingerprints of models: which weights a plan was made for."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing torch takes longer than most commands need
    from torch import nn


def fingerprint_model(model: nn.Module) -> str:
    """sha256, hex, over names, shapes, dtypes and (unless on the meta device) bytes of the state_dict's tensors."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not isinstance(tensor, torch.Tensor):
            continue
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}\n".encode())
        if not tensor.is_meta:
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
