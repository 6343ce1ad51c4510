"""Model files: every form that loads, and one clear line for every mistake in one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from craftc.errors import BadInput
from craftc.models.model_file import fingerprint_model, load_model_source

GOOD = """\
import torch
from torch import nn

def build_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Dropout(), nn.Linear(3, 2))

def example_inputs():
    return {"input": torch.ones(1, 3)}
"""


@pytest.fixture
def write(tmp_path):
    """Writes a model file and returns its path."""

    def write_file(text: str, name: str = "toy.py") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write_file


def refusal(spec: object) -> str:
    """The one line that loading `spec` raises."""
    with pytest.raises(BadInput) as caught:
        load_model_source(str(spec))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_file_gives_its_model_in_evaluation_mode_with_inputs_and_name(write):
    source = load_model_source(str(write(GOOD)))
    assert isinstance(source.model, nn.Sequential)
    assert not source.model.training
    assert source.inputs.example["input"].tolist() == [[1, 1, 1]]
    assert source.inputs.calibration is None
    assert source.name == "toy"
    assert not source.on_meta


def test_a_file_called_model_is_named_after_its_folder(write):
    assert load_model_source(str(write(GOOD, "sparse/model.py"))).name == "sparse"


def test_a_factory_replaces_build_model(write):
    path = write(GOOD + "\ndef wide():\n    return nn.Linear(3, 9)\n")
    assert load_model_source(f"{path}:wide").model.out_features == 9


def test_a_file_imports_the_modules_beside_it(write):
    write("WIDTH = 5\n", "toy_sizes_beside.py")
    path = write(GOOD.replace("nn.Linear(3, 2)", "nn.Linear(3, toy_sizes_beside.WIDTH)") + "import toy_sizes_beside\n")
    before = list(sys.path)
    assert load_model_source(str(path)).model.get_submodule("1").out_features == 5
    assert sys.path == before


def test_dataclasses_and_future_annotations_work_in_a_model_file(write):
    header = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass C:\n    n: int\n"
    assert load_model_source(str(write(header + GOOD))).name == "toy"


def test_a_tuple_of_example_inputs_gets_the_names_of_forward(write):
    path = write(GOOD.replace('{"input": torch.ones(1, 3)}', "(torch.ones(1, 3),)"))
    assert list(load_model_source(str(path)).inputs.example) == ["input"]


def test_what_a_model_file_prints_goes_to_stderr(write, capsys):
    calibration = "def calibration_inputs():\n    print('from calibration')\n    yield {'input': torch.ones(2, 3)}\n"
    source = load_model_source(str(write("print('from import')\n" + GOOD + calibration)))
    assert source.inputs.calibration is not None
    assert [batch["input"].shape[0] for batch in source.inputs.calibration()] == [2]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.split("\n")[:2] == ["from import", "from calibration"]


def test_the_calibration_stream_starts_again_on_every_call(write):
    calibration = "def calibration_inputs():\n    for n in (1, 2):\n        yield {'input': torch.ones(n, 3)}\n"
    stream = load_model_source(str(write(GOOD + calibration))).inputs.calibration
    assert stream is not None
    assert [len(list(stream())) for _ in range(2)] == [2, 2]


def test_a_failing_calibration_stream_names_its_line(write):
    path = write(GOOD + "\ndef calibration_inputs():\n    yield {}\n    raise OSError('disk full')\n")
    stream = load_model_source(str(path)).inputs.calibration
    assert stream is not None
    with pytest.raises(BadInput, match=r"toy\.py, line 13: calibration_inputs\(\) failed: OSError: disk full$"):
        list(stream())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = (\n", "toy.py, line 1: cannot be imported: SyntaxError: '(' was never closed"),
        ("\nimport no_such_package\n", "toy.py, line 2: cannot be imported: ModuleNotFoundError: No module named"),
        ("\n\nraise ValueError('a\\n  b')\n", "toy.py, line 3: cannot be imported: ValueError: a b"),
        ("import sys\nsys.exit(3)\n", "toy.py, line 2: cannot be imported: SystemExit: 3"),
        ("x = 1\n", "toy.py: no build_model()"),
        ("build_model = 3\n", "toy.py: build_model must be a function, got int"),
        ("def build_model():\n    return 1 / 0\n", "toy.py, line 2: build_model() failed: ZeroDivisionError"),
        ("def build_model(size):\n    return 1\n", "toy.py: build_model() failed: TypeError: build_model() missing 1"),
        ("def build_model():\n    pass\n", "toy.py: build_model() must return a torch.nn.Module, got None"),
        (GOOD.replace("example_inputs", "inputs"), "toy.py: no example_inputs(); define it"),
        (GOOD + "def example_inputs():\n    raise KeyError('x')\n", "toy.py, line 11: example_inputs() failed: KeyErr"),
        (GOOD + "def example_inputs():\n    return 7\n", "example_inputs() must return a dict of forward's arguments"),
        (GOOD + "def example_inputs():\n    return 1, 2\n", "does not fit Sequential.forward(input): too many"),
        (GOOD + "calibration_inputs = []\n", "calibration_inputs must be a function that yields batches, got list"),
    ],
)
def test_a_mistake_in_a_model_file_is_one_line_that_says_where(write, text, expected):
    message = refusal(write(text))
    assert expected in message
    assert str(write(text)) in message


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("missing.py", "model missing.py: no such file; give file.py, file.py:factory"),
        ("missing.py:f", "model missing.py: no such file"),
        ("missing", "model 'missing': no such file"),
        ("missing.json", "model 'missing.json': no such file"),
        (__file__ + ":no_such", "no no_such()"),
        ("", "no config.json in this folder"),
    ],
)
def test_a_spec_that_names_nothing_is_refused(tmp_path, monkeypatch, spec, expected):
    monkeypatch.chdir(tmp_path)
    assert expected in refusal(spec or tmp_path)


def test_another_kind_of_file_is_refused(write):
    assert "not a kind of model file" in refusal(write("", "weights.bin"))


def test_the_fingerprint_follows_names_shapes_dtypes_and_content(write):
    path = str(write(GOOD))
    model = load_model_source(path).model
    assert load_model_source(path).fingerprint == fingerprint_model(model)
    seen = {fingerprint_model(model)}
    with torch.no_grad():
        model.get_parameter("1.bias")[1] += 1e-7
    seen.add(fingerprint_model(model))
    seen.add(fingerprint_model(model.bfloat16()))
    seen.add(fingerprint_model(nn.ModuleDict({"renamed": model})))
    seen.add(fingerprint_model(nn.Sequential(nn.Dropout(), nn.Linear(2, 3, dtype=torch.bfloat16))))
    seen.add(fingerprint_model(model.to("meta")))
    assert len(seen) == 6


def test_importing_model_file_does_not_import_torch():
    code = "import sys, craftc.models.model_file; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
