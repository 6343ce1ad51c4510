"""Hugging Face models: a checkpoint folder, or the shapes that a `config.json` alone describes.

Of a multimodal model only the text part is built: that is where the experts are.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from craftc.errors import BadInput, CraftcError, one_line
from craftc.models.transformers_config import read_text_config, text_model_class
from craftc.models.workload import WorkloadInputs

if TYPE_CHECKING:  # importing torch takes longer than most commands need
    from torch import nn

_EXAMPLE_SHAPE = (2, 16)
"""Sequences and tokens of the example batch."""


def load_checkpoint(folder: Path) -> tuple[nn.Module, WorkloadInputs]:
    """The model of a folder with config.json and .safetensors files, in their dtype. Raises BadInput, Unsupported."""
    if not (folder / "config.json").is_file():
        raise BadInput(f"model {folder}: no config.json in this folder")
    if not any(folder.glob("*.safetensors")):
        raise BadInput(
            f"model {folder}: no .safetensors file in this folder; to plan without weights give its config.json"
        )
    with _transformers_errors(str(folder)), _quiet_transformers():
        config = read_text_config(folder / "config.json")
        model, info = text_model_class(config, str(folder)).from_pretrained(
            folder,
            config=config,
            dtype="auto",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, in one line
        )
    bad = sorted({*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])})
    if bad:
        raise BadInput(
            f"model {folder}: {len(bad)} weights are missing from its .safetensors files, or have another shape there; "
            f"the first is {bad[0]}"
        )
    return model, _token_inputs(config.vocab_size, "cpu")


def load_config(path: Path) -> tuple[nn.Module, WorkloadInputs]:
    """The model of a bare config.json on the meta device: shapes and dtypes alone. Raises BadInput, Unsupported."""
    import torch

    with _transformers_errors(str(path)):
        config = read_text_config(path)
        with torch.device("meta"):
            model = text_model_class(config, str(path))._from_config(config, dtype=config.dtype)
    return model, _token_inputs(config.vocab_size, "meta")


@contextlib.contextmanager
def _transformers_errors(where: str) -> Iterator[None]:
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except CraftcError:
        raise
    except ModuleNotFoundError as error:
        raise BadInput(f"model {where}: {error}; install it: pip install 'craftc[hf]'") from error
    except Exception as error:
        reason = one_line(error).partition(" For details look at")[0]  # at a report we do not show
        raise BadInput(f"model {where}: transformers cannot load it: {reason}") from error


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """While inside, transformers prints neither a progress bar nor a report of what did not load: craftc reports that
    in one line.
    """
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _token_inputs(vocab_size: int, device: str) -> WorkloadInputs:
    """Seeded random tokens.

    A mask is included, because without one, mask code reads values, which meta tensors do not have.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    input_ids_BT = torch.randint(vocab_size, _EXAMPLE_SHAPE, generator=generator)
    return WorkloadInputs(
        {"input_ids": input_ids_BT.to(device), "attention_mask": torch.ones_like(input_ids_BT).to(device)}
    )
