"""Runs the tiny family in a separate process: `python -m tests.tiny.main '{"workdir": ...}'`.

Keys: workdir, overrides, lanes, and faults: die_at (SIGKILL after that step's log), die_in_save
(SIGKILL that many milliseconds after the beginning of a save), die_from (the first step of such a
save), slow (seconds per step), stop_at (SIGSTOP after that step's log), hang_at (the training batch
of that step never arrives). Under "only": [process, {key: value}], keys for one of several
processes.
"""

import json
import os
import signal
import sys
import threading
import time

from flaxae.command import run_main
from flaxae.machine import distributed
from flaxae.storage.checkpoint import Checkpointer
from flaxae.training.loop import Loop, run
from tests.tiny.family import Problems, tiny_config


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(argv: list[str]) -> int:
    options = json.loads(argv[1])
    process, more = options.get("only", (None, {}))
    options |= more if str(process) == os.environ.get("JAX_PROCESS_ID") else {}
    distributed.initialize()
    log, save, make_batch = Loop._log, Checkpointer.save, Problems.batch

    def dying_log(self: Loop, end: int, metrics: object) -> None:
        log(self, end, metrics)
        time.sleep(options.get("slow", 0))
        if end == options.get("die_at"):
            die()
        if end == options.get("stop_at"):
            os.kill(os.getpid(), signal.SIGSTOP)

    def hanging_batch(self: Problems, step: int) -> object:
        if self.num_batches is None and step == options.get("hang_at"):
            time.sleep(3600)
        return make_batch(self, step)

    def dying_save(self: Checkpointer, step: int, *args: object, **kwargs: object) -> None:
        if options.get("die_in_save") is not None and step >= options.get("die_from", 0):
            threading.Timer(options["die_in_save"] / 1000, die).start()
        save(self, step, *args, **kwargs)  # pyright: ignore

    Loop._log, Checkpointer.save = dying_log, dying_save
    Problems.batch = hanging_batch
    config = tiny_config(**options.get("overrides", {}))
    result = run(config, options["workdir"], options.get("lanes"))
    return {"sigterm": 75, "sigint": 130}.get(result.status, 0)


if __name__ == "__main__":
    sys.exit(run_main(main))
