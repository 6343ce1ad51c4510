"""CRAFT's artifact: a pickled tensor `[batches, layers, experts]`, by `torch.save` or by `pickle.dump`. Nothing in
the pickle is run.

Source: docs/servers.md (CRAFT_core at be4cb7a). Layers are decoder layers; those before `--first-moe-layer` are zero
and dropped.
"""

from __future__ import annotations

import io
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from craftc.errors import BadInput
from craftc.files.outside_documents import read_bytes
from craftc.files.torch_file import float_or_integer_array, is_torch_zip, load_torch_zip, why_refused
from craftc.loads.load_format import LoadFormat
from craftc.loads.load_profile import LoadProfile
from craftc.loads.recordings.folding import check_cells, profile_of_layers, refuse_idle_steps


def recognises(path: Path, head: bytes) -> bool:
    """A torch file, or a pickle of protocol 2 or later."""
    return is_torch_zip(head) or (head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"))


def read(path: Path) -> LoadProfile:
    """One step per batch. Refuses a pickle that holds anything but one tensor."""
    with path.open("rb") as file:
        head = file.read(1024)
    value = load_torch_zip(path) if is_torch_zip(head) else _unpickle(path)
    where = f"{path}: tensor"
    counts_SLE = float_or_integer_array(value, 3, where)
    check_cells(counts_SLE.shape, where)
    refuse_idle_steps(counts_SLE, [f"batch {step}" for step in range(len(counts_SLE))], str(path))
    return profile_of_layers(counts_SLE, list(range(counts_SLE.shape[1])), str(path))


def _unpickle(path: Path) -> Any:
    data = read_bytes(path)
    try:
        return _TensorUnpickler(io.BytesIO(data)).load()
    except pickle.UnpicklingError as error:
        raise BadInput(f"{path}: refused: {error}") from None
    except Exception as error:  # the unpickler raises all kinds of errors on a broken pickle
        raise BadInput(f"{path}: not a pickled tensor ({type(error).__name__})") from None


class _TensorUnpickler(pickle._Unpickler):
    """Python's own unpickler, which allocates nothing before it has read it, and can name nothing but the parts of a
    tensor.
    """

    # Without BUILD no object's state can be set, so nothing in the file reaches a method of a tensor.
    dispatch: ClassVar[dict[int, Any]] = {
        code: step for code, step in pickle._Unpickler.dispatch.items() if code != pickle.BUILD[0]
    }

    def find_class(self, module: str, name: str) -> Any:
        allowed: dict[tuple[str, str], Callable[..., Any]] = {
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch.storage", "_load_from_bytes"): _load_storage,
            ("collections", "OrderedDict"): OrderedDict,
            ("_codecs", "encode"): _latin_bytes,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it holds {f'{module}.{name}'[:80]}, not only a tensor")
        return allowed[module, name]


def _latin_bytes(text: str, encoding: str) -> bytes:
    """How pickles of protocol 2 write bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("it holds text in an encoding that bytes do not use")
    return text.encode("latin1")


def _load_storage(data: bytes) -> Any:
    """What a pickled tensor keeps its values in: a small torch file of the older kind."""
    import torch

    try:
        with warnings.catch_warnings(action="ignore"):  # about storages of the older kind
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise pickle.UnpicklingError(why_refused(error)) from None


def _rebuild_tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any) -> Any:
    import torch

    if not isinstance(storage, torch.storage.TypedStorage):
        raise pickle.UnpicklingError("its storage is not a torch storage")
    return torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage, offset, tuple(size), tuple(stride))


FORMAT = LoadFormat(
    name="craft",
    server="CRAFT_core be4cb7a",
    recognises=recognises,
    read=read,
)
