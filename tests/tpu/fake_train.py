"""A fake train.py, which follows `plan.json` for its attempt and worker, and logs its start.

The plan is {"ATTEMPT": {"WORKER or *": {...}}}, with the optional keys lines (to print), wait (for
a file), trained (wait for that number of starts), polls (wait for that number of the launcher's
polls), preempt (the TPU), and code (the exit code).
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

root = Path(os.environ["FAKE_GCLOUD"])
node, worker = os.environ["FAKE_NODE"], os.environ["FLAXAE_WORKER"]
attempt = os.environ["FLAXAE_ATTEMPT"]
plan = json.loads((root / "plan.json").read_text()).get(attempt, {})
todo = plan.get(f"{node}/{worker}") or plan.get(worker) or plan.get("*") or {}
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
note = {"node": node, "worker": worker, "attempt": attempt, "args": sys.argv[1:]}
note |= {"port": os.environ["JAX_COORDINATOR_PORT"], "token": os.environ.get("TOKEN")}
with open(root / "trained.jsonl", "a") as file:
    print(json.dumps(note), file=file)
for line in todo.get("lines", [f"step of attempt {attempt}"]):
    print(line, flush=True)


def polls() -> int:
    return (root / "calls.jsonl").read_text().count("worker.sh status")


before = polls()
while (
    ("wait" in todo and not (root / todo["wait"]).exists())
    or (root / "trained.jsonl").read_text().count("\n") < todo.get("trained", 0)
    or polls() < before + todo.get("polls", 0)
):
    time.sleep(0.01)
if todo.get("preempt"):
    fake = [sys.executable, "-IS", str(Path(os.environ["FAKE_SCRIPT"])), "preempt", node]
    # In a new session, because it kills this process.
    subprocess.Popen(fake, start_new_session=True)
    time.sleep(30)
sys.exit(todo.get("code", 0))
