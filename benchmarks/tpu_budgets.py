"""Compile the full-size programs and record their memory and traffic as budgets.

    python benchmarks/tpu_budgets.py            # tests/tpu_compile/budgets.json, minutes
    python benchmarks/tpu_budgets.py --names large 3b --dry-run

The file lists the programs. Review the difference before committing it.
"""

import argparse
import importlib.metadata
import json
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
FILE = ROOT / "tests/tpu_compile/budgets.json"


def main() -> None:
    """Compile the programs, print their numbers and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", nargs="+", default=[""], help="parts of the programs' names")
    parser.add_argument("--dry-run", action="store_true", help="print without writing")
    args = parser.parse_args()
    import jax

    jax.config.update("jax_platforms", "cpu")
    from flaxae import tpu_compile
    from flaxae.config import copy_config

    budgets = json.loads(FILE.read_text())
    budgets |= {"jax": jax.__version__, "libtpu": importlib.metadata.version("libtpu")}
    for program in budgets["programs"]:
        if not any(name in program["name"] for name in args.names):
            continue
        path, _, variant = program["config"].partition(":")
        config = runpy.run_path(str(ROOT / path))["get_config"](variant)
        changes = program["overrides"].items()
        config = copy_config(
            config, {k: tuple(v) if isinstance(v, list) else v for k, v in changes}
        )
        found = tpu_compile.analyse(config, program["topology"], effort=-1.0)
        program |= {
            "hbm_bytes": found.hbm_bytes,
            "bytes_accessed": round(found.bytes_accessed),
            "tflop": round(found.flops / 1e12, 3),
            "compile_seconds": round(found.compile_seconds),
        }
        print(
            json.dumps(
                {
                    **program,
                    "mfu_bound": round(found.mfu_bound, 3),
                    "of_task_flops": round(found.flops / found.task_flops, 3),
                    "collective_gb": {
                        k: round(v / 1e9, 3) for k, v in found.collective_bytes.items()
                    },
                }
            ),
            flush=True,
        )
        if not args.dry_run:
            FILE.write_text(json.dumps(budgets, indent=1) + "\n")


if __name__ == "__main__":
    main()
