"""Runs the tiny family in a process of its own: `python -m tests.tiny.main '{"workdir": ...}'`.

Keys: workdir, overrides, lanes, and what to do to itself: die_at (SIGKILL after that step's log),
die_in_save (SIGKILL so many milliseconds after a save has begun), slow (seconds a step).
"""

import json
import os
import signal
import sys
import threading
import time

from flaxae import distributed
from flaxae.checkpoint import Checkpointer
from flaxae.train_loop import Loop, run
from tests.tiny.family import tiny_config


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    options = json.loads(sys.argv[1])
    distributed.initialize()
    digest, save = Loop._digest, Checkpointer.save

    def dying_digest(self: Loop, end: int, metrics: object) -> None:
        digest(self, end, metrics)
        time.sleep(options.get("slow", 0))
        if end == options.get("die_at"):
            die()

    def dying_save(self: Checkpointer, step: int, *args: object, **kwargs: object) -> None:
        if options.get("die_in_save") is not None and step >= options.get("die_from", 0):
            threading.Timer(options["die_in_save"] / 1000, die).start()
        save(self, step, *args, **kwargs)  # pyright: ignore

    Loop._digest, Checkpointer.save = dying_digest, dying_save
    config = tiny_config(**options.get("overrides", {}))
    result = run(config, options["workdir"], options.get("lanes"))
    return {"sigterm": 75, "sigint": 130}.get(result.status, 0)


if __name__ == "__main__":
    sys.exit(main())
