"""Models as users name them: `file.py`, `file.py:factory`, a Hugging Face folder, or a `config.json` alone.

Mistakes in a model file are for the user to fix: one line says which file, which line of it, and what happened.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from craftc.errors import BadInput, one_line
from craftc.models.fingerprint import fingerprint_model
from craftc.models.hugging_face import load_checkpoint, load_config
from craftc.models.workload import WorkloadInputs

if TYPE_CHECKING:  # importing torch takes longer than most commands need
    from torch import nn

_FORMS = "give file.py, file.py:factory, a Hugging Face checkpoint folder, or a config.json"


@dataclass(frozen=True, eq=False)
class ModelSource:
    """A model and everything that is needed to run and name it."""

    model: nn.Module
    """The model in evaluation mode."""
    inputs: WorkloadInputs
    """Its example inputs, and calibration inputs if the model file has them."""
    name: str
    """Short name for reports: the file's stem, or the folder's name."""
    fingerprint: str
    """See `fingerprint_model`."""
    on_meta: bool
    """Whether the model has shapes but no weights, so that it can be planned for, but not run."""


def load_model_source(spec: str) -> ModelSource:
    """The model that `spec` names. Raises BadInput, or Unsupported if transformers does not know the model type."""
    path, factory = _path_and_factory(spec)
    if path.suffix == ".py":
        return _load_python(path, factory)
    if path.is_dir():
        return _source(*load_checkpoint(path), model_name(spec))
    if path.suffix == ".json" and path.is_file():
        return _source(*load_config(path), model_name(spec))
    raise BadInput(f"model {spec!r}: {'not a kind of model file' if path.exists() else 'no such file'}; {_FORMS}")


def model_name(spec: str) -> str:
    """Short name of the model that `spec` names: the stem, or the folder's name if the stem says nothing (`tiny_moe`
    for `examples/tiny_moe/model.py`)."""
    path = _path_and_factory(spec)[0].resolve()
    return path.parent.name if path.stem in ("model", "config") else path.stem


def _path_and_factory(spec: str) -> tuple[Path, str]:
    file, separator, factory = spec.rpartition(":")
    return (Path(file), factory) if separator and file.endswith(".py") else (Path(spec), "build_model")


def _load_python(path: Path, factory: str) -> ModelSource:
    if not path.is_file():
        raise BadInput(f"model {path}: no such file; {_FORMS}")
    with _importable_folder(path.parent):
        module = _import_file(path)
        model = _checked_model(path, factory, _call(path, module, factory))
        if not hasattr(module, "example_inputs"):
            raise BadInput(
                f"{path}: no example_inputs(); define it to return the keyword arguments of one forward call"
            )
        example = _keyword_inputs(path, model, _call(path, module, "example_inputs"))
    calibration = getattr(module, "calibration_inputs", None)
    if calibration is not None and not callable(calibration):
        raise BadInput(f"{path}: calibration_inputs must be a function that yields batches, got {_kind(calibration)}")
    stream = None if calibration is None else _quiet_stream(path, calibration)
    return _source(model, WorkloadInputs(example, stream), model_name(str(path)))


def _source(model: nn.Module, inputs: WorkloadInputs, name: str) -> ModelSource:
    on_meta = any(parameter.is_meta for parameter in model.parameters())
    return ModelSource(model.eval(), inputs, name, fingerprint_model(model), on_meta)


@contextlib.contextmanager
def _importable_folder(folder: Path) -> Iterator[None]:
    """While inside, a file can import the other modules of its folder, as with `python file.py`; its prints go to
    stderr."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(entry)


def _import_file(path: Path) -> ModuleType:
    name = f"craftc_model_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up by name
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _explained(path, "cannot be imported", error) from error
    return module


def _call(path: Path, module: ModuleType, function: str) -> Any:
    if not hasattr(module, function):
        raise BadInput(f"{path}: no {function}(); define it, or name another factory: {path}:factory")
    if not callable(getattr(module, function)):
        raise BadInput(f"{path}: {function} must be a function, got {_kind(getattr(module, function))}")
    try:
        return getattr(module, function)()
    except (Exception, SystemExit) as error:
        raise _explained(path, f"{function}() failed", error) from error


def _explained(path: Path, what: str, error: BaseException) -> BadInput:
    """One line: what failed, the last line of the user's own file that was running, and the reason."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if _same_file(frame.filename, path)]
    line = (
        error.lineno if isinstance(error, SyntaxError) and _same_file(error.filename, path) else (lines or [None])[-1]
    )
    where = f"{path}, line {line}" if line else str(path)
    shown = type(error)(error.msg) if isinstance(error, SyntaxError) else error  # the full text repeats the place
    return BadInput(f"{where}: {what}: {one_line(shown)}")


def _same_file(filename: str | None, path: Path) -> bool:
    return filename is not None and Path(filename).resolve() == path.resolve()


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__


def _checked_model(path: Path, factory: str, model: object) -> nn.Module:
    from torch import nn

    if isinstance(model, nn.Module):
        return model
    raise BadInput(f"{path}: {factory}() must return a torch.nn.Module, got {_kind(model)}")


def _keyword_inputs(path: Path, model: nn.Module, inputs: object) -> dict[str, Any]:
    """Example inputs by the names of forward's arguments; a tuple holds them by position. Tracing checks the values."""
    if isinstance(inputs, dict):
        return dict(inputs)
    if not isinstance(inputs, tuple):
        raise BadInput(
            f"{path}: example_inputs() must return a dict of forward's arguments (or a tuple), got {_kind(inputs)}"
        )
    signature = inspect.signature(model.forward)
    try:
        return dict(signature.bind(*inputs).arguments)
    except TypeError as error:
        takes = ", ".join(signature.parameters)
        raise BadInput(
            f"{path}: example_inputs() does not fit {type(model).__name__}.forward({takes}): {error}"
        ) from error


def _quiet_stream(path: Path, calibration: Callable[[], Iterable[Any]]) -> Callable[[], Iterator[Any]]:
    """The calibration stream, which can import the other modules of its folder; its prints go to stderr."""

    def stream() -> Iterator[Any]:
        end = object()
        try:
            with _importable_folder(path.parent):
                batches = iter(calibration())
            while True:
                with _importable_folder(path.parent):
                    batch = next(batches, end)
                if batch is end:
                    return
                yield batch
        except (Exception, SystemExit) as error:
            raise _explained(path, "calibration_inputs() failed", error) from error

    return stream
