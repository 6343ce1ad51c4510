"""The compile backend: `torch.compile(model, backend="craftc", options={...})`."""

from craftc.backend.compiler import craftc
from craftc.backend.options import CompileOptions

__all__ = ["CompileOptions", "craftc"]
