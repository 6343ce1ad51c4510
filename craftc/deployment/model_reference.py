"""`model.json` in an output folder: which model the weights next to it belong to, so that it can be built again."""

from __future__ import annotations

import json
import os
from pathlib import Path

from craftc.errors import BadInput

FILE = "model.json"
FORMAT = "craftc.model/1"


def reference_bytes(spec: str, folder: Path) -> bytes:
    """The file for a model named `spec` (as on the command line), with its path relative to `folder`."""
    path, factory = split_factory(spec)
    relative = os.path.relpath(Path(path).resolve(), folder.resolve())
    document = {"format": FORMAT, "model": Path(relative).as_posix() + (f":{factory}" if factory else "")}
    return (json.dumps(document, indent=1) + "\n").encode()


def read_reference(folder: Path) -> str:
    """The argument for `load_model_source`. Raises BadInput if the file is missing or not ours."""
    path = folder / FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(
            f"{path}: {error.strerror}; name the model instead: craftc.load_model(folder, model=...)"
        ) from None
    except ValueError as error:
        raise BadInput(f"{path}: not JSON: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT or not isinstance(document.get("model"), str):
        raise BadInput(f"{path}: not a {FORMAT} file")
    name, factory = split_factory(document["model"])
    return str((folder / name).resolve()) + (f":{factory}" if factory else "")


def split_factory(spec: str) -> tuple[str, str]:
    """The two parts of `file.py:factory`; for anything else, the second part is empty."""
    name, _, factory = spec.rpartition(":")
    return (name, factory) if name.endswith(".py") else (spec, "")
