"""Memory and time, compiled for a TPU slice, of a dictionary beside the model that it reads.

    python benchmarks/sae_tpu.py --config=configs/sae/wide.py:million --topology=v5e:4x4
    python benchmarks/sae_tpu.py --config=configs/sae/smollm2_topk.py --rows=64 --tokens=8e6

Two programs are compiled, never run: the training step, and the pass of the language model up to
the layer that is read. They run one after the other, so that memory must be enough for the larger
of both with the arguments of the other one. Times are lower bounds by FLOPs, memory traffic and
messages, without the way of the states through the host. It needs libtpu and takes minutes.
"""

import argparse
import json
import runpy
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
EFFORT = -1.0


def main(argv: list[str]) -> None:
    """Compile both programs and print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", required=True, help="config file with its preset")
    parser.add_argument("--topology", default="v5e:2x4", help="chip and slice")
    parser.add_argument("--tokens", type=float, default=8e6, help="tokens of the training")
    parser.add_argument("--rows", type=int, default=0, help="data.model_rows; 0: the config's")
    args = parser.parse_args(argv)
    import jax

    jax.config.update("jax_platforms", "cpu")
    from flaxae import tpu_compile
    from flaxae.config import copy_config

    file, _, preset = args.config.partition(":")
    get_config = runpy.run_path(str(ROOT / file))["get_config"]
    config = get_config(preset) if preset else get_config()
    config = copy_config(config, {"data.model_rows": args.rows} if args.rows else {})
    step = tpu_compile.analyse(config, args.topology, effort=EFFORT)
    reading = read(config, args.topology)
    need = max(
        step.hbm_bytes + reading["argument_bytes"], step.argument_bytes + reading["hbm_bytes"]
    )
    size = config.data.batch_size
    seconds = {
        "step": step.step_seconds_bound * args.tokens / size,
        "reading": reading["seconds"] * args.tokens / reading["tokens"],
    }
    result = {
        "name": f"{args.config} on {args.topology}",
        "parameters": step.params,
        "hbm_gib": need / 2**30,
        "of_gib": step.hbm_capacity_bytes / 2**30,
        "fits": need < step.hbm_capacity_bytes,
        "step": {"states": size, "seconds": step.step_seconds_bound, "gib": step.hbm_bytes / 2**30},
        "reading": reading,
        "tokens": args.tokens,
        "seconds": seconds,
    }
    for name, value in result.items():
        print(f"{name:12} {value}")
    print(json.dumps(result))


def read(config: Any, topology: str) -> dict[str, Any]:
    """Return the costs of one pass of the language model, per chip."""
    from flaxae import tpu_compile
    from flaxae.config import MeshConfig
    from flaxae.machine.sharding import make_mesh
    from flaxae.tpu_compile.chips import chip_of
    from flaxae.tpu_compile.report import costs, peak_bytes

    task = config.task.make(config)
    mesh, length = make_mesh(MeshConfig(), tpu_compile.topology(topology)), config.data.max_length
    lowered = task.reader_on(mesh).lower(length)
    compiled = lowered.compile({"exec_time_optimization_effort": EFFORT})
    program, flops, accessed = costs(compiled)
    sent = sum(m.times * m.sent for m in program.collectives(dict(mesh.shape)))
    chip, memory = chip_of(topology), compiled.memory_analysis()
    bounds = {
        "compute": flops / chip.flops,
        "hbm": accessed / chip.hbm_bandwidth,
        "ici": sent / chip.ici_bandwidth,
    }
    return {
        "tokens": config.data.model_rows * length,
        "argument_bytes": memory.argument_size_in_bytes,
        "hbm_bytes": peak_bytes(memory) + memory.generated_code_size_in_bytes,
        "tflop": flops / 1e12,
        "seconds": max(bounds.values()),
        "bounds": bounds,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
