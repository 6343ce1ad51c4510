from pathlib import Path

from craftc.report.optimize_report import files_list


def test_the_files_of_many_gpus_are_one_line(tmp_path: Path):
    (tmp_path / "weights").mkdir()
    names = ["plan.json", *(f"weights/gpu-{gpu:05d}.safetensors" for gpu in range(4)), "weights/shared.safetensors"]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(b"x" * (1024 + 512 * (number == 2)))
    assert files_list(tmp_path, names).splitlines() == [
        "wrote",
        f"  {tmp_path}/plan.json  1.00 KiB",
        f"  {tmp_path}/weights/gpu-00000.safetensors ... gpu-00003.safetensors  1.00 KiB to 1.50 KiB each",
        f"  {tmp_path}/weights/shared.safetensors  1.00 KiB",
    ]
