"""Trains a tiny dictionary, and dies: `... -m tests.models.sae.killed FOLDER CASE WORKDIR [STEP]`.

FOLDER contains the tiny model and its text. With STEP, the process kills itself after the log of
that step.
"""

import os
import signal
import sys
from pathlib import Path

from flaxae.command import run_main
from flaxae.training.loop import Loop, run
from tests.models.sae.tiny import config_of

# Case -> architecture, fields of the config.
CASES = {
    "topk": ("topk", {}),
    "batch_topk_cached": ("batch_topk", {"data.state_cache": "WORKDIR/cache"}),
    "vq": ("vq", {}),
    "resampled": ("standard", {"task.resample_every": 1, "task.dead_after": 32}),
}


def main(argv: list[str]) -> int:
    folder, case, workdir, *step = argv[1:]
    log = Loop._log

    def dying_log(self: Loop, end: int, metrics: object) -> None:
        log(self, end, metrics)
        if [str(end)] == step:
            os.kill(os.getpid(), signal.SIGKILL)

    Loop._log = dying_log
    architecture, fields = CASES[case]
    fields = {
        n: x.replace("WORKDIR", workdir) if n.startswith("data") else x for n, x in fields.items()
    }
    run(config_of(Path(folder), architecture, **fields), workdir)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
