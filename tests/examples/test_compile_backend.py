from __future__ import annotations

import re
import subprocess
import sys

from tests.places import ROOT

EXAMPLE = ROOT / "examples" / "compile_backend.py"


def test_every_call_is_the_models():
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--inner", "eager"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert [re.search(r"\((\w+)\)", line)[1] for line in lines] == ["counted"] * 3 + ["replicated"] * 2  # type: ignore[index]
    assert all(float(line.rsplit(" ", 1)[1]) < 1e-4 for line in lines)
