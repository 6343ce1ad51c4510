"""Layers that keep a state of fixed size instead of a KV cache: linear attention, Mamba, short convolutions.

Sizes are those of transformers' modules. A state has the type that the config states (`mamba_ssm_cache_dtype`), else
four bytes a value, as SGLang keeps it; what a convolution keeps has two.
"""

from __future__ import annotations

from craftc.errors import BadInput, Unsupported
from craftc.models.attention_shape import HEADS, Mixer, head_size
from craftc.models.config_fields import MAX_SIZE, Config, number, present
from craftc.models.dense_matrix import DenseMatrix

_STATE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_CONVOLUTION_BYTES = 2
_LIGHTNING = ("minimax", "minimax_text_01")
"""Model types whose linear attention is lightning attention, which has no fields of its own."""


def recurrent_mixer(config: Config, model_type: str, hidden: int) -> Mixer:
    """A layer that keeps a state. Raises BadInput, Unsupported if its fields do not say how large it is."""
    if config.get("linear_num_value_heads") is not None:
        return _delta_net(config, hidden)
    if config.get("linear_num_heads") is not None or isinstance(config.get("linear_attn_config"), dict):
        return _kimi_delta(config, model_type, hidden)
    if present(config, ("mamba_num_heads", "mamba_n_heads")):
        return _mamba2(config, hidden)
    if config.get("mamba_d_state") is not None:
        return _mamba(config, hidden)
    if config.get("conv_L_cache") is not None:
        return _short_convolution(config, hidden)
    if model_type in _LIGHTNING:
        return _lightning(config, hidden)
    raise Unsupported(
        f"model_type {model_type!r}: no field that is known here says how large its layers without KV cache are "
        f"(linear_num_value_heads, linear_num_heads, mamba_num_heads, mamba_d_state, conv_L_cache)"
    )


def _delta_net(config: Config, hidden: int) -> Mixer:
    """Gated delta net (Qwen3-Next)."""
    key_heads, key = _size(config, "linear_num_key_heads"), _size(config, "linear_key_head_dim")
    heads, value = _size(config, "linear_num_value_heads"), _size(config, "linear_value_head_dim")
    mixed = 2 * key_heads * key + heads * value
    return Mixer(
        matrices=(
            DenseMatrix("linear_attn.in_proj_qkvz", mixed + heads * value, hidden),
            DenseMatrix("linear_attn.in_proj_ba", 2 * heads, hidden, is_plain=True),
            DenseMatrix("linear_attn.out_proj", hidden, heads * value),
            _convolution("linear_attn", mixed, _size(config, "linear_conv_kernel_dim")),
        ),
        state_bytes=_kept(config, heads * key * value, mixed, _size(config, "linear_conv_kernel_dim")),
    )


def _kimi_delta(config: Config, model_type: str, hidden: int) -> Mixer:
    """Kimi delta attention; gates of Ling are whole matrices, those of the others have the rank of a head."""
    inner = config.get("linear_attn_config")
    fields = config
    if isinstance(inner, dict):
        names = ("num_heads", "head_dim", "short_conv_kernel_size")
        sizes = ("linear_num_heads", "linear_head_dim", "linear_conv_kernel_dim")
        fields = {size: inner.get(name) for size, name in zip(sizes, names, strict=True)}
    heads, size = _size(fields, "linear_num_heads"), _size(fields, "linear_head_dim")
    kernel = _size(fields, "linear_conv_kernel_dim")
    width = heads * size
    gates = [("f", "forget_gate."), ("g", "")]
    whole = model_type == "bailing_hybrid"
    return Mixer(
        matrices=(
            *(DenseMatrix(f"self_attn.{name}_proj", width, hidden) for name in "qkv"),
            *(
                matrix
                for name, within in gates
                for matrix in (
                    (DenseMatrix(f"self_attn.{within}{name}_proj", width, hidden),)
                    if whole
                    else (
                        DenseMatrix(f"self_attn.{within}{name}_a_proj", size, hidden),
                        DenseMatrix(f"self_attn.{within}{name}_b_proj", width, size),
                    )
                )
            ),
            DenseMatrix("self_attn.b_proj", heads, hidden, is_plain=True),
            DenseMatrix("self_attn.o_proj", hidden, width),
            _convolution("self_attn", 3 * width, kernel),
        ),
        state_bytes=_kept(config, width * size, 3 * width, kernel),
    )


def _mamba2(config: Config, hidden: int) -> Mixer:
    """Mamba 2 (Nemotron-H, Granite 4)."""
    heads = number(config, ("mamba_num_heads", "mamba_n_heads"), MAX_SIZE)
    width = heads * number(config, ("mamba_head_dim", "mamba_d_head"), MAX_SIZE)
    state = number(config, ("ssm_state_size", "mamba_d_state"), MAX_SIZE)
    groups = number(config, ("n_groups", "mamba_n_groups"), MAX_SIZE)
    kernel = number(config, ("conv_kernel", "mamba_d_conv"), MAX_SIZE)
    mixed = width + 2 * groups * state
    return Mixer(
        matrices=(
            DenseMatrix("mamba.in_proj", width + mixed + heads, hidden),
            DenseMatrix("mamba.out_proj", hidden, width),
            _convolution("mamba", mixed, kernel),
        ),
        state_bytes=_kept(config, width * state, mixed, kernel),
    )


def _mamba(config: Config, hidden: int) -> Mixer:
    """Mamba (Jamba)."""
    width, state = _size(config, "mamba_expand") * hidden, _size(config, "mamba_d_state")
    rank = config.get("mamba_dt_rank")
    rank = -(-hidden // 16) if rank in (None, "auto") else _size(config, "mamba_dt_rank")
    kernel = _size(config, "mamba_d_conv")
    return Mixer(
        matrices=(
            DenseMatrix("mamba.in_proj", 2 * width, hidden),
            DenseMatrix("mamba.x_proj", rank + 2 * state, width),
            DenseMatrix("mamba.dt_proj", width, rank),
            DenseMatrix("mamba.out_proj", hidden, width),
            DenseMatrix("mamba.A_log", width, state, is_plain=True),
            _convolution("mamba", width, kernel),
        ),
        state_bytes=_kept(config, width * state, width, kernel),
    )


def _short_convolution(config: Config, hidden: int) -> Mixer:
    """A gated convolution over the last few tokens (LFM2)."""
    kernel = _size(config, "conv_L_cache")
    return Mixer(
        matrices=(
            DenseMatrix("conv.in_proj", 3 * hidden, hidden),
            DenseMatrix("conv.out_proj", hidden, hidden),
            DenseMatrix("conv.conv", hidden, kernel, is_plain=True),
        ),
        state_bytes=_kept(config, 0, hidden, kernel),
    )


def _lightning(config: Config, hidden: int) -> Mixer:
    """Lightning attention (MiniMax-Text-01)."""
    heads = number(config, HEADS, MAX_SIZE)
    size = head_size(config, heads, hidden)
    return Mixer(
        matrices=(
            DenseMatrix("self_attn.qkv_proj", 3 * heads * size, hidden),
            DenseMatrix("self_attn.output_gate", heads * size, hidden),
            DenseMatrix("self_attn.out_proj", hidden, heads * size),
        ),
        state_bytes=_kept(config, heads * size * size, 0, 1),
    )


def _convolution(block: str, channels: int, kernel: int) -> DenseMatrix:
    return DenseMatrix(f"{block}.conv1d", channels, kernel, is_plain=True)


def _kept(config: Config, state: int, channels: int, kernel: int) -> int:
    """Bytes of a state of so many values, and of the inputs that a convolution looks back at."""
    dtype = next((config[key] for key in ("mamba_ssm_cache_dtype", "mamba_ssm_dtype") if config.get(key)), "float32")
    value_bytes = _STATE_BYTES.get(str(dtype).removeprefix("torch."))
    if value_bytes is None:
        raise BadInput(f"mamba_ssm_cache_dtype must be one of {', '.join(_STATE_BYTES)}, got {dtype!r}")
    return state * value_bytes + channels * (kernel - 1) * _CONVOLUTION_BYTES


def _size(config: Config, key: str) -> int:
    return number(config, (key,), MAX_SIZE)
