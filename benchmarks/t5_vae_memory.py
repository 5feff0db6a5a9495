"""Peak memory of a T5-VAE's training step with and without `jax.checkpoint` on the stacks.

    python benchmarks/t5_vae_memory.py                       # T5 base, 16 x 128 tokens, float32
    python benchmarks/t5_vae_memory.py --size t5-v1_1-large --rows 8

The step is only compiled: nothing is allocated and nothing runs. The numbers are XLA's buffer
assignment for this machine's device: temporaries (activations saved for the backward pass,
gradients, workspace) and arguments (parameters, optimizer state, batch), which the outputs replace.
Compilers of other devices assign buffers differently.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="t5-base", help="name of a size in flaxae/lm/t5/sizes.py")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--loss-chunks", type=int, default=0, help="see T5VAEConfig.loss_chunks")
    parser.add_argument(
        "--layers", type=int, default=0, help="layers per stack; 0: those of the size"
    )
    return parser.parse_args()


def make_config(args: argparse.Namespace, remat: bool) -> Any:
    """Return the config, with or without recomputed blocks."""
    from flaxae.config import Config, MeshConfig, OptimConfig
    from flaxae.data.config import TextDataConfig
    from flaxae.lm.t5.sizes import t5_size
    from flaxae.models.t5_vae.bottlenecks import Bottleneck, LatentConfig
    from flaxae.models.t5_vae.task import T5VAEConfig

    t5 = t5_size(args.size, dtype=args.dtype, remat=remat)
    if args.layers:
        t5.num_layers = t5.num_decoder_layers = args.layers
    # Without injection and noise, the T5 dominates.
    latent = LatentConfig(
        bottleneck=Bottleneck.MEAN, dim=768, memory_tokens=16, injection=False, positions=False
    )
    return Config(
        task=T5VAEConfig(t5=t5, latent=latent, loss_chunks=args.loss_chunks),
        data=TextDataConfig(batch_size=args.rows, max_length=args.length, num_buckets=1),
        optim=OptimConfig(lr=1e-4),
        mesh=MeshConfig(fsdp=1),
    )


def measure(args: argparse.Namespace, remat: bool) -> dict[str, Any]:
    """Compile the step and return its memory."""
    import jax

    from flaxae.tpu_compile import compile_step

    began = time.perf_counter()
    _, _, compiled = compile_step(make_config(args, remat), jax.devices())
    memory = compiled.memory_analysis()
    return {
        "remat": remat,
        "temporaries_GB": round(memory.temp_size_in_bytes / 1e9, 3),
        "arguments_GB": round(memory.argument_size_in_bytes / 1e9, 3),
        "aliased_GB": round(memory.alias_size_in_bytes / 1e9, 3),
        "compile_s": round(time.perf_counter() - began, 1),
    }


def main() -> None:
    """Compile both variants and print the JSON line."""
    args = _arguments()
    import jax

    print(
        f"{args.size}, {args.rows} x {args.length} tokens, {args.dtype},"
        f" {jax.devices()[0].device_kind}, jax {jax.__version__}",
        flush=True,
    )
    results = []
    for remat in (False, True):
        results.append(measure(args, remat))
        print(json.dumps(results[-1]), flush=True)
    ratio = results[0]["temporaries_GB"] / results[1]["temporaries_GB"]
    print(f"temporaries without / with jax.checkpoint: {ratio:.2f}")
    print(json.dumps({"name": "t5_vae_memory", "ratio": round(ratio, 3), "cases": results}))


if __name__ == "__main__":
    main()
