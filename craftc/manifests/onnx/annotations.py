"""ONNX's multi-device annotations (IR version 11 and later) for experts in slots: written, validated, read back.

`onnx.checker` checks none of this. ONNX shards into equal parts only, so copies are entries of an axis of physical
slots: axis 0, in GPU order, sharded over the devices. Which expert is in which slot is written in the node's metadata.
Source: `onnx.proto` of onnx 1.23, messages DeviceConfigurationProto to SimpleShardedDimProto.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from onnx import ModelProto, NodeProto, ShardedDimProto, ShardingSpecProto

from craftc.errors import BadInput
from craftc.files.outside_documents import parse_json
from craftc.manifests.slots import join_row, split_row
from craftc.plans.replication_plan import LayerPlan
from craftc.solvers.problem import Placement

DOMAIN = "craftc"
"""Domain of the nodes that each stand for the experts of one MoE layer."""
CONFIGURATION = "craftc"
"""Name of the model's device configuration: one device per GPU of the plan."""
MIN_IR_VERSION = 11
_LAYER, _SLOTS = "craftc.layer_index", "craftc.expert_of_slots"


def annotate(model: ModelProto, node: NodeProto, layer: LayerPlan, sharded_inputs: list[str]) -> None:
    """Shard `sharded_inputs` of `node`, tensors whose axis 0 is slots, over the GPUs, and note the placement."""
    gpus = len(layer.placement)
    row = join_row(layer.placement)
    if not any(configuration.name == CONFIGURATION for configuration in model.configuration):
        model.configuration.add(name=CONFIGURATION, num_devices=gpus, device=[f"gpu:{gpu}" for gpu in range(gpus)])
    model.ir_version = max(model.ir_version, MIN_IR_VERSION)
    on_devices = node.device_configurations.add(configuration_id=CONFIGURATION)
    for name in sharded_inputs:
        dim = ShardedDimProto(axis=0)
        dim.simple_sharding.add(dim_value=len(row), num_shards=gpus)
        on_devices.sharding_spec.append(ShardingSpecProto(tensor_name=name, device=range(gpus), sharded_dim=[dim]))
    node.metadata_props.add(key=_LAYER, value=str(layer.index))
    node.metadata_props.add(key=_SLOTS, value=json.dumps(row))


def violations(model: ModelProto) -> tuple[str, ...]:
    """Everything in the annotations that the description of the IR forbids, in words; empty if they are sound."""
    return tuple(_violations(model))


def placements_of(model: ModelProto, gpus: int) -> dict[int, Placement]:
    """Placement by decoder index. Raises BadInput if slots, devices and metadata disagree."""
    sizes = {initializer.name: list(initializer.dims) for initializer in model.graph.initializer}
    found: dict[int, Placement] = {}
    for node in model.graph.node:
        if node.domain != DOMAIN:
            continue
        where = f"onnx: node {(node.name or node.op_type)!r}"
        metadata = {entry.key: entry.value for entry in node.metadata_props}
        index, row = (_whole(metadata.get(key), f"{where}: {key}") for key in (_LAYER, _SLOTS))
        if type(index) is not int or not isinstance(row, list) or not all(type(expert) is int for expert in row):
            raise BadInput(f"{where}: {_LAYER} must be a number and {_SLOTS} a list of expert ids")
        if index in found:
            raise BadInput(f"{where}: layer {index} already has another node")
        sharded = [spec for configuration in node.device_configurations for spec in configuration.sharding_spec]
        if not sharded:
            raise BadInput(f"{where}: none of its inputs is sharded")
        for spec in sharded:
            if len(spec.device) != gpus or list(spec.device) != list(range(gpus)):
                raise BadInput(
                    f"{where}: {spec.tensor_name!r} is on {len(spec.device)} devices, expected 0..{gpus - 1}"
                )
            if len(spec.sharded_dim) != 1 or spec.sharded_dim[0].axis != 0:
                raise BadInput(f"{where}: {spec.tensor_name!r} is not sharded on axis 0 (its slots) alone")
            if sizes.get(spec.tensor_name, [0])[0] != len(row):
                raise BadInput(f"{where}: {spec.tensor_name!r} has no axis 0 of {len(row)} slots")
        found[index] = split_row(row, gpus, where)
    return found


def _violations(model: ModelProto) -> Iterator[str]:
    annotated = [node for node in _nodes(model) if node.device_configurations]
    if not annotated and not model.configuration:
        return
    if model.ir_version < MIN_IR_VERSION:
        yield f"model: ir_version {model.ir_version}, annotations need {MIN_IR_VERSION} or later"
    devices: dict[str, int] = {}
    for configuration in model.configuration:
        name = configuration.name
        if not name or name in devices:
            yield f"configuration {name!r}: name missing or repeated"
        if configuration.num_devices < 1:
            yield f"configuration {name!r}: {configuration.num_devices} devices"
        if configuration.device and len(configuration.device) != configuration.num_devices:
            yield f"configuration {name!r}: {len(configuration.device)} names for {configuration.num_devices} devices"
        devices[name] = configuration.num_devices
    shapes = {initializer.name: tuple(initializer.dims) for initializer in model.graph.initializer}
    for node in annotated:
        for configuration in node.device_configurations:
            where = f"node {(node.name or node.op_type)!r}"
            if configuration.configuration_id not in devices:
                yield f"{where}: configuration {configuration.configuration_id!r} is not the model's"
                continue
            yield from _spec_violations(node, configuration, devices[configuration.configuration_id], shapes, where)


def _spec_violations(
    node: NodeProto, on_devices: Any, devices: int, shapes: dict[str, tuple[int, ...]], where: str
) -> Iterator[str]:
    tensors = {*node.input, *node.output} - {""}
    seen: set[str] = set()
    for spec in on_devices.sharding_spec:
        here = f"{where}: {spec.tensor_name!r}"
        if spec.tensor_name not in tensors:
            yield f"{here} is no input or output of the node"
        if spec.tensor_name in seen:
            yield f"{here} is sharded twice"
        seen.add(spec.tensor_name)
        groups = {entry.key: list(entry.value) for entry in spec.index_to_device_group_map}
        used = [device for index in spec.device for device in groups.get(index, [index])]
        outside = sorted({device for device in used if not 0 <= device < devices})
        if not used:
            yield f"{here} is on no device"
        if outside:
            yield f"{here}: device {outside[0]} is not in 0..{devices - 1}"
        if len(set(used)) != len(used):
            yield f"{here}: a device is named twice"
        yield from _dim_violations(spec, shapes.get(spec.tensor_name), here)


def _dim_violations(spec: ShardingSpecProto, shape: tuple[int, ...] | None, here: str) -> Iterator[str]:
    axes: set[int] = set()
    shards = 1
    for dim in spec.sharded_dim:
        axis = dim.axis
        if shape is not None:
            if not -len(shape) <= axis < len(shape):
                yield f"{here}: axis {axis} of a tensor of {len(shape)} axes"
                continue
            axis %= len(shape)
        if axis in axes:
            yield f"{here}: axis {axis} is sharded twice"
        axes.add(axis)
        if not dim.simple_sharding:
            yield f"{here}: axis {axis} names no shards"
        for simple in dim.simple_sharding:
            if simple.num_shards < 1:
                yield f"{here}: axis {axis} has {simple.num_shards} shards"
                continue
            shards *= simple.num_shards
            if simple.HasField("dim_value") and simple.dim_value % simple.num_shards:
                yield f"{here}: axis {axis} of {simple.dim_value} does not divide into {simple.num_shards} equal shards"
        fixed = [simple.dim_value for simple in dim.simple_sharding if simple.HasField("dim_value")]
        if shape is not None and len(fixed) == len(dim.simple_sharding) and math.prod(fixed) != shape[axis]:
            yield f"{here}: axis {axis} is {shape[axis]} long, the annotation says {math.prod(fixed)}"
    if shards != len(spec.device):
        yield f"{here}: {shards} shards for {len(spec.device)} devices"


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    yield from model.graph.node
    for function in model.functions:
        yield from function.node


def _whole(text: str | bytes | None, where: str) -> Any:
    """The JSON of a metadata value; protobuf returns bytes if a text is not UTF-8."""
    if text is None:
        raise BadInput(f"{where} is missing")
    return parse_json(text.encode() if isinstance(text, str) else text, where)
