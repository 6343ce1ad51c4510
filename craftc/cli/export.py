"""craftc export: a plan as the file that a server loads, and the server flags that go with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from craftc.cli.options import OutputFormat, Plan
from craftc.cli.outcome import Format, Result

if TYPE_CHECKING:
    from craftc.manifests.export import Export
    from craftc.manifests.padding import PaddingCost


def export(
    plan: Plan,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="sglang, trtllm, vllm-ascend, vllm, vllm-list, omni, csv, onnx, or another package's format.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="PATH", help="The file to write.")],
    pad: Annotated[
        bool,
        typer.Option(
            "--pad", help="Pad every layer to as many slots as the largest one has, if the server needs that."
        ),
    ] = False,
    loads: Annotated[
        Path | None,
        typer.Option(
            "--loads",
            metavar="FILE",
            help="With --pad: measured loads; the added slots get the copies that help most on them.",
            show_default=False,
        ),
    ] = None,
    model_config: Annotated[
        Path | None,
        typer.Option(
            "--model-config",
            metavar="FILE",
            help="A Hugging Face config.json: gives the number of decoder layers.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="MODEL", help="The model to write, for onnx.", show_default=False),
    ] = None,
    format: OutputFormat = Format.text,
) -> Result:
    """Write a plan in a server's format, read it back to check it, and print the flags that go with it.

    Example:
      craftc export plan.json --to sglang --pad --loads loads.npz -o placement.json
    """
    from craftc.errors import BadInput
    from craftc.loads.read_loads import read_loads
    from craftc.manifests.export import export_plan
    from craftc.manifests.padding import pad_plan, padding_cost
    from craftc.manifests.registry import placement_format
    from craftc.manifests.slots import fits
    from craftc.models.given_sizes import GivenSizes
    from craftc.models.model_config import read_model_config
    from craftc.models.model_file import load_model_source
    from craftc.plans.file import read_plan

    server_format = placement_format(to)
    rule = server_format.slots
    if loads is not None and not pad:
        raise BadInput("--loads says what to pad with: give --pad as well")
    if (model is not None) != server_format.needs_model:
        needs = "needs --model MODEL, the model to write" if server_format.needs_model else "takes no --model"
        raise BadInput(f"--to {to} {needs}")
    written = read_plan(plan)
    cost = padding_cost(written, rule) if pad and not fits(written, rule) else None
    if cost is not None:
        written = pad_plan(written, None if loads is None else read_loads(loads), rule)
    source = None if model is None else load_model_source(model)
    # The number of layers is all that is asked for here: any size does.
    config = None if model_config is None else read_model_config(model_config, GivenSizes(1))
    exported = export_plan(
        written,
        to,
        output,
        hidden_layers=None if config is None else config.hidden_layers,
        mtp_layers=0 if config is None else config.mtp_left_out,
        model=None if source is None else source.model,
        example=None if source is None else source.inputs.example,
    )
    return Result(_document(exported, cost), _text(exported, cost), format)


def _document(exported: Export, cost: PaddingCost | None) -> dict[str, object]:
    padding = None
    if cost is not None:
        padding = {
            "slots": list(cost.slots_L),
            "added_replicas": cost.added_replicas,
            "plan_bytes_per_gpu": cost.plan_bytes_per_gpu,
            "padded_bytes_per_gpu": cost.padded_bytes_per_gpu,
        }
    return {
        "files": [str(exported.path)],
        "format": exported.format,
        "server": exported.server,
        "flags": list(exported.flags),
        "notes": list(exported.notes),
        "padding": padding,
    }


def _text(exported: Export, cost: PaddingCost | None) -> str:
    lines = [f"wrote {exported.path} for {exported.server}, read back and equal to the plan slot by slot"]
    if cost is not None:
        lines.append(f"padded: {cost}")
    lines += [f"note: {note}" for note in exported.notes]
    if exported.flags:
        lines += ["", "give the server:", *(f"  {flag}" for flag in exported.flags)]
    return "\n".join(lines)
