"""Trains a tiny dictionary, and dies: `python -m tests.models.sae.killed FOLDER WORKDIR [STEP]`.

FOLDER contains the tiny model and its text. With STEP, the process kills itself after the log of
that step.
"""

import os
import signal
import sys
from pathlib import Path

from flaxae.command import run_main
from flaxae.training.loop import Loop, run
from tests.models.sae.test_sae_task import config_of


def main(argv: list[str]) -> int:
    folder, workdir, *step = argv[1:]
    log = Loop._log

    def dying_log(self: Loop, end: int, metrics: object) -> None:
        log(self, end, metrics)
        if [str(end)] == step:
            os.kill(os.getpid(), signal.SIGKILL)

    Loop._log = dying_log
    run(config_of(Path(folder)), workdir)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
