"""Bytes of every expert as a checkpoint stores them, from the headers of its `.safetensors` files: a few kilobytes at
the start of each, never the weights.

Files that are not there (a partial download) leave the layers out whose experts are in them; of these, the index of the
checkpoint still has the names.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from craftc.errors import BadInput
from craftc.files.outside_documents import parse_json, read_bytes

_MAX_HEADER = 256 * 2**20
_INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"-of-(\d+)\.safetensors$")
_QUANTISED = re.compile(r"qweight|qzeros|scale|packed|blocks|absmax|g_idx|zero_point")
"""Parts of the names of tensors that only quantised weights have."""
_GIT_POINTER = b"version https://git-lfs"
_LAYER = re.compile(r"(?:^|\.)(?:layers|blocks|h)\.(\d+)\.(.+)$")
_EXPERT = re.compile(r"(?:^|\.)experts\.(?:expert_)?(\d+)\.(.+)$")
_FUSED = re.compile(r"(?:^|\.)experts\.(?!\d)(.+)$")
_FUSED_BLOCK = re.compile(
    r"(?:^|\.)(?:block_sparse_moe|mlp|moe)\.((?:input|output)_linear|(?:gate_up|gate|up|down)_proj)\."
)
_OTHER_MODELS = re.compile(r"(?:^|[._])(?:vision|visual|vit|image|audio|talker|mtp|draft|self_attn|self_attention)")


@dataclass(frozen=True)
class _Tensor:
    """One entry of a header."""

    shape: tuple[int, ...]
    size_bytes: int


def stored_expert_bytes(folder: Path, experts_by_layer: Mapping[int, int], identities: int = 0) -> dict[int, int]:
    """Bytes of one expert by decoder layer, for the layers whose experts are all in files of `folder`.

    experts_by_layer: routed experts of each MoE layer, as the config has it.
    identities: experts after these that compute nothing (LongCat); what files hold of them does not count.

    Raises BadInput if a file is broken, does not have that many experts, or experts of one layer differ in size.
    """
    tensors, missing = _tensors(folder)
    unnamed = not missing and _lacks_shards(folder)
    by_layer: dict[int, dict[str, _Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        place = _place(name)
        if place is None or place[0] not in experts_by_layer:
            continue
        number = _EXPERT.search(place[1])
        after = -1 if number is None else int(number.group(1)) - experts_by_layer[place[0]]
        if not 0 <= after < identities:
            by_layer[place[0]][place[1]] = tensor
    incomplete = {place[0] for name in missing if (place := _place(name)) is not None}
    if unnamed:
        incomplete |= {index for index, inside in by_layer.items() if not _has_all(inside, experts_by_layer[index])}
    sizes = {}
    for index, inside in sorted(by_layer.items()):
        if index not in incomplete:
            size = _layer_size(inside, experts_by_layer[index], f"{folder}: decoder layer {index}")
            if size is not None:
                sizes[index] = size
    return sizes


def stored_bytes_beside_experts(
    folder: Path, experts_by_layer: Mapping[int, int], identities: int, decoder_layers: int
) -> int | None:
    """Bytes of all that the files of `folder` hold beside routed experts, or None if they do not hold all of a model.

    experts_by_layer: routed experts of each MoE layer.
    identities: as for `stored_expert_bytes`.
    decoder_layers: layers of the model; what files hold of later ones (multi-token prediction) does not count.

    Raises BadInput if a file is broken, or does not fit the model.
    """
    tensors, missing = _tensors(folder)
    sizes = {} if missing or _lacks_shards(folder) else stored_expert_bytes(folder, experts_by_layer, identities)
    if sizes.keys() != experts_by_layer.keys():
        return None
    kept = 0
    for name, tensor in tensors.items():
        layer = _LAYER.search(name)
        is_later = layer is not None and int(layer.group(1)) >= decoder_layers and not _OTHER_MODELS.search(name)
        kept += 0 if is_later or re.search(r"(?:^|\.)mtp", name) else tensor.size_bytes
    return kept - sum(sizes[index] * experts for index, experts in experts_by_layer.items())


def quantised_by_name(folder: Path) -> dict[int, bool]:
    """Whether the experts of a decoder layer are quantised, by their names in the checkpoint's index, for layers in it.

    Raises BadInput for a broken index.
    """
    found: dict[int, bool] = {}
    for name in _files_by_name(folder):
        if (place := _place(name)) is not None:
            found[place[0]] = found.get(place[0], False) or _QUANTISED.search(place[1]) is not None
    return found


def _has_all(inside: Mapping[str, _Tensor], experts: int) -> bool:
    """Whether all experts of a layer are among its tensors, with the same parts."""
    parts: dict[int, set[str]] = defaultdict(set)
    for name in inside:
        if (match := _EXPERT.search(name)) is not None:
            parts[int(match.group(1))].add(match.group(2))
    return not parts or (len(parts) == experts and len(set(map(frozenset, parts.values()))) == 1)


def _place(name: str) -> tuple[int, str] | None:
    """Decoder layer and the rest of the name, if a tensor may be of routed experts."""
    layer = _LAYER.search(name)
    if layer is None or _OTHER_MODELS.search(name):
        return None
    inside = layer.group(2)
    if not (_EXPERT.search(inside) or _FUSED.search(inside) or _FUSED_BLOCK.search(inside)):
        return None
    return int(layer.group(1)), inside


def _layer_size(inside: Mapping[str, _Tensor], experts: int, where: str) -> int | None:
    """Bytes of one expert of a layer, or None if it has no routed experts."""
    sizes: dict[int, int] = defaultdict(int)
    fused = 0
    for name, tensor in inside.items():
        if (match := _EXPERT.search(name)) is not None:
            sizes[int(match.group(1))] += tensor.size_bytes
        elif tensor.shape and tensor.shape[0] % experts == 0 and (_FUSED.search(name) or len(tensor.shape) == 3):
            fused += tensor.size_bytes // experts
        elif len(tensor.shape) == 3 or (_FUSED.search(name) and tensor.size_bytes > 64):
            raise BadInput(f"{where}: {name} has shape {list(tensor.shape)}, the config has {experts} experts")
    if not sizes:
        return fused or None
    if len(sizes) != experts:
        raise BadInput(f"{where} holds {len(sizes)} experts, the config has {experts}: they are not of one model")
    if len(set(sizes.values())) > 1:
        small, large = min(sizes, key=lambda e: sizes[e]), max(sizes, key=lambda e: sizes[e])
        raise BadInput(
            f"{where}: expert {small} has {sizes[small]} bytes, expert {large} has {sizes[large]}; experts of a layer "
            f"must have one size: give it with --expert-bytes {where.rpartition(' ')[2]}=SIZE"
        )
    return fused + next(iter(sizes.values()))


def _tensors(folder: Path) -> tuple[dict[str, _Tensor], set[str]]:
    """Entries of all headers that are there, and the names of tensors in files that are not, if there is an index."""
    files_by_name = _files_by_name(folder)
    if files_by_name:
        there = {file for file in set(files_by_name.values()) if _is_there(folder / Path(file).name)}
        files = [folder / Path(file).name for file in sorted(there)]
        missing = {name for name, file in files_by_name.items() if file not in there}
    else:
        files, missing = [file for file in _shards(folder) if _is_there(file)], set()
    return {name: tensor for file in files for name, tensor in _header(file)}, missing


def _files_by_name(folder: Path) -> dict[str, str]:
    """The file of every tensor, as the index says; empty without an index."""
    index = folder / _INDEX
    if not index.is_file():
        return {}
    document = parse_json(read_bytes(index), str(index))
    files_by_name = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(files_by_name, dict) or any(not isinstance(file, str) for file in files_by_name.values()):
        raise BadInput(f"{index}: weight_map must be an object of file names")
    return files_by_name


def _shards(folder: Path) -> list[Path]:
    """The files of a checkpoint without an index: one, or all that are numbered."""
    single = folder / "model.safetensors"
    return (
        [single]
        if single.is_file()
        else sorted(file for file in folder.glob("*.safetensors") if _SHARD.search(file.name))
    )


def _lacks_shards(folder: Path) -> bool:
    """Whether files are missing of a checkpoint without an index, as their numbers say."""
    shards = [match for file in _shards(folder) if (match := _SHARD.search(file.name)) is not None]
    return bool(shards) and len(shards) < int(shards[0].group(1))


def _is_there(path: Path) -> bool:
    """Whether there is a file, and not only Git's pointer to one."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_GIT_POINTER)) != _GIT_POINTER


def _header(path: Path) -> Iterator[tuple[str, _Tensor]]:
    """Entries of one file's header."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_MAX_HEADER, path.stat().st_size):
                raise BadInput(f"{path}: not a .safetensors file, or cut off (its header would have {length} bytes)")
            header = json.loads(file.read(length))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:
        raise BadInput(f"{path}: not a .safetensors file: its header is not JSON") from None
    if not isinstance(header, dict):
        raise BadInput(f"{path}: not a .safetensors file: its header is not an object")
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            start, end = entry["data_offsets"]
            tensor = _Tensor(tuple(map(int, entry["shape"])), int(end) - int(start))
        except (TypeError, ValueError, KeyError):
            raise BadInput(f"{path}: tensor {name} has no shape or no offsets in the header") from None
        yield name, tensor
