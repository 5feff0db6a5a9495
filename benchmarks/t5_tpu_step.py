"""The plain training step of T5 v1.1, compiled for a TPU slice without a TPU (extra `tpu`).

    python benchmarks/t5_tpu_step.py                      # all cases: minutes each
    python benchmarks/t5_tpu_step.py --cases scan --effort -1
    python benchmarks/t5_tpu_step.py --cases unrolled --effort -1 --find-batch  # largest batch

The step has 128 tokens in encoder and decoder, 64 texts per chip, v5e:2x2, adafactor, bfloat16 and
no dropout. T5X's program of this step, compiled by the same compiler, needs 12.83 TFLOP, 150.9 GB
accessed and 8.44 GiB of temporaries per chip, after 480 s of compilation.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from flax import nnx  # noqa: E402

from flaxae.config import Config, OptimConfig, Optimizer, TaskConfig  # noqa: E402
from flaxae.data.config import TextDataConfig  # noqa: E402
from flaxae.lm.t5.modeling import T5, T5Config  # noqa: E402
from flaxae.task import Context, Loss, Task  # noqa: E402

REFERENCE = {"tflop": 12.83, "GB": 150.9, "temporaries_GiB": 8.44, "compile_s": 480.0}
CASES: dict[str, dict[str, Any]] = {
    # fields of T5Config by the name of the case
    "scan": {},
    "scan, 2 layers a turn": {"scan_unroll": 2},
    "unrolled": {"scan_unroll": 12},
    "scan, remat": {"remat": True},
}


@dataclasses.dataclass
class T5StepConfig(TaskConfig):
    """The config of `T5Step`."""

    t5: T5Config = dataclasses.field(default_factory=T5Config)

    def make(self, config: Config) -> "T5Step":
        """Return the task."""
        return T5Step(config)


class T5Step(Task):
    """A text-to-text task with teacher forcing."""

    def __init__(self, config: Config):
        from flaxae.models.t5_vae.task import T5VAETask

        self.config: Any = config
        self.t5: T5Config = self.config.task.t5
        self.sharding_rules = T5VAETask.sharding_rules

    def batch_spec(self) -> Any:
        """Return shapes and types of a batch."""
        import jax
        import numpy as np

        rows, length = self.config.data.batch_size, self.config.data.max_length
        ids = jax.ShapeDtypeStruct((rows, length), np.int32)
        return {"inputs": ids, "targets": ids}

    def init(self, rngs: nnx.Rngs) -> T5:
        """Return a T5 with random parameters."""
        return T5(self.t5, rngs=rngs)

    def loss(self, model: T5, batch: Any, ctx: Context) -> Loss:
        """Return the cross entropy of the targets."""
        import jax.numpy as jnp

        from flaxae.lm.t5 import generation
        from flaxae.losses import cross_entropy

        mask = (batch["inputs"] != 0).astype(jnp.dtype(self.t5.dtype))
        states = generation.encode(model, batch["inputs"], mask, ctx)
        scores = generation.logits(model, states, mask, batch["targets"], ctx)
        targets = batch["targets"].reshape(-1)
        weights = (targets != 0).astype(jnp.float32)
        total, correct = cross_entropy(scores.reshape(targets.size, -1), targets, weights)
        return Loss(total, weights.sum(), {"token_accuracy": (correct, weights.sum())})

    def flops(self, batch_spec: Any, hparams: dict[str, Any]) -> float:
        """Return the FLOPs of a step."""
        rows, length = batch_spec["inputs"].shape
        t5, tokens = self.t5, rows * length
        inner, gate = t5.num_heads * t5.d_kv, 3 * t5.d_model * t5.d_ff
        attention = 4 * t5.d_model * inner + 2 * inner * length
        layers = t5.num_layers * (attention + gate)
        layers += t5.num_decoder_layers * (2 * attention + gate)
        return 6.0 * tokens * (layers + t5.d_model * t5.vocab_size)


def make_config(args: argparse.Namespace, fields: dict[str, Any], chips: int) -> Config:
    """Return the config of a case."""
    from flaxae.lm.t5.sizes import t5_size

    t5 = dataclasses.replace(t5_size(args.size, dtype="bfloat16", remat=False), **fields)
    if args.layers:
        t5.num_layers = t5.num_decoder_layers = args.layers
    return Config(
        task=T5StepConfig(t5=t5),
        data=TextDataConfig(batch_size=args.rows * chips, max_length=args.length, num_buckets=1),
        optim=OptimConfig(name=Optimizer.ADAFACTOR, lr=1e-3),
    )


def main() -> None:
    """Compile all cases and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--size", default="t5-v1_1-base")
    parser.add_argument("--rows", type=int, default=64, help="texts per chip")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument(
        "--layers", type=int, default=0, help="layers per stack; 0: those of the size"
    )
    parser.add_argument("--effort", type=float, default=0.0, help="compiler effort, -1 to 0")
    parser.add_argument(
        "--find-batch", action="store_true", help="find the largest batch, starting from --rows"
    )
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    args = parser.parse_args()
    import jax

    jax.config.update("jax_platforms", "cpu")
    from flaxae import tpu_compile
    from flaxae.errors import ConfigError

    try:
        chips = len(tpu_compile.topology(args.topology))
    except ConfigError as error:
        print(f"not measured: {error}")
        print(json.dumps({"name": "t5_tpu_step", "cases": [], "why": str(error)}))
        return
    cases = []
    for name in args.cases:
        config = make_config(args, CASES[name], chips)
        try:
            make = tpu_compile.find_batch if args.find_batch else tpu_compile.analyse
            report = make(config, args.topology, effort=args.effort)
        except tpu_compile.DoesNotFit as error:
            print(f"{name}: does not fit ({error})", flush=True)
            continue
        case = {
            "name": name,
            "rows": report.rows_a_chip,
            "hbm_GiB": round(report.hbm_bytes / 2**30, 2),
            "MB_a_token": round(report.bytes_accessed / report.rows_a_chip / args.length / 1e6, 3),
            "mfu_bound": round(report.mfu_bound, 3),
            "ours": round(report.bytes_accessed / 1e9, 2),
            "theirs": None,
            "unit": "GB accessed per chip",
            "ratio": None,
            "tflop": round(report.flops / 1e12, 3),
            "task_tflop": round(report.task_flops / 1e12, 3),
            "temporaries_GiB": round(report.temporary_bytes / 2**30, 2),
            "sent_GB": round(sum(report.collective_bytes.values()) / 1e9, 3),
            "compile_s": round(report.compile_seconds, 1),
        }
        if not args.find_batch:  # the reference has the given batch
            ratio = round(REFERENCE["GB"] / (report.bytes_accessed / 1e9), 3)
            case |= {"theirs": REFERENCE["GB"], "ratio": ratio}
        cases.append(case)
        print(json.dumps(case), flush=True)
    print(
        json.dumps(
            {
                "name": "t5_tpu_step",
                "cases": cases,
                "reference": REFERENCE,
                "topology": args.topology,
                "size": args.size,
                "rows": args.rows,
                "length": args.length,
                "effort": args.effort,
                "machine": f"compiled, not run; jax {jax.__version__}",
            }
        )
    )


if __name__ == "__main__":
    main()
