"""Tracing DeepSeek-V3 (671B parameters) on the meta device: seconds and memory of a fresh process, start-up included.

Run `python -m benchmarks.tracing`. Targets: under 15 s and 2 GiB. The baseline is the same process without tracing.
"""

from __future__ import annotations

import json
import subprocess
import sys

MEASURED = """
import json, resource, sys, time
import torch
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM
with torch.device("meta"):
    model = DeepseekV3ForCausalLM(DeepseekV3Config()).eval()
    inputs = {name: torch.ones(1, 32, dtype=torch.int64) for name in ("input_ids", "attention_mask")}
parameters = sum(parameter.numel() for parameter in model.parameters())
found = {"parameters": parameters}
if sys.argv[1] == "trace":
    from craftc.models.workload import WorkloadInputs
    from craftc.passes.pipelines import analysed
    compilation = analysed(model, WorkloadInputs(inputs))
    first = compilation.layers[0]
    found |= {"layers": len(compilation.layers), "nodes": len(compilation.graph.graph.nodes)}
    found |= {"experts": first.experts, "top_k": first.top_k, "expert_bytes": first.expert_bytes}
    found |= {timing.name: timing.seconds for timing in compilation.timings}
found["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps(found))
"""


def measure(what: str) -> dict[str, float]:
    """Figures of one fresh process; `what` is `build` (the baseline) or `trace`."""
    command = [
        sys.executable,
        "-c",
        "import time, sys; started = time.perf_counter()\n" + MEASURED + "\nprint(time.perf_counter() - started)",
        what,
    ]
    found, seconds = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-2:]
    return json.loads(found) | {"seconds": float(seconds)}


def main() -> None:
    build, trace = measure("build"), measure("trace")
    print(f"model       {build['parameters'] / 1e9:.1f}e9 parameters on the meta device")
    print(f"found       {trace['layers']} MoE layers, {trace['experts']} experts, top-{trace['top_k']}, ", end="")
    print(f"{trace['expert_bytes'] / 2**20:.1f} MiB an expert, {trace['nodes']} nodes")
    print(f"passes      trace {trace['trace']:.2f} s, find_moe_layers {trace['find_moe_layers']:.2f} s")
    print(f"build only  {build['seconds']:.1f} s, {build['peak_gib']:.2f} GiB")
    print(f"with passes {trace['seconds']:.1f} s ({trace['seconds'] / build['seconds']:.2f}x), ", end="")
    print(f"{trace['peak_gib']:.2f} GiB ({trace['peak_gib'] / build['peak_gib']:.2f}x); targets 15 s, 2 GiB")


if __name__ == "__main__":
    main()
