from __future__ import annotations

import pytest

from craftc.deployment.model_reference import FILE, read_reference, reference_bytes
from craftc.errors import BadInput


@pytest.mark.parametrize("spec", ["model.py", "model.py:other_factory", "checkpoint", "config.json"])
def test_round_trip_also_after_moving_both(tmp_path, spec, monkeypatch):
    here = tmp_path / "here"
    out = here / "build" / "out"
    out.mkdir(parents=True)
    monkeypatch.chdir(here)
    (out / FILE).write_bytes(reference_bytes(spec, out))
    assert read_reference(out) == str(here / spec)
    here.rename(tmp_path / "there")
    assert read_reference(tmp_path / "there" / "build" / "out") == str(tmp_path / "there" / spec)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"No such file or directory; name the model instead: craftc\.load"),
        ("{", "not JSON"),
        ("[]", r"not a craftc\.model/1 file"),
        ('{"format": "craftc.model/2", "model": "m.py"}', r"not a craftc\.model/1 file"),
        ('{"format": "craftc.model/1"}', r"not a craftc\.model/1 file"),
    ],
)
def test_files_that_are_not_ours_are_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / FILE).write_text(text)
    with pytest.raises(BadInput, match=message):
        read_reference(tmp_path)
