"""Noticing preemption and joining, in one process and in two."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading

import pytest

from flaxae.errors import ConfigError
from flaxae.machine import distributed, watchdog
from flaxae.machine.preemption import Preemption


def test_sigterm_and_ctrl_c_set_a_flag_and_handlers_are_restored():
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    for number, name in ((signal.SIGTERM, "sigterm"), (signal.SIGINT, "sigint")):
        with Preemption() as preemption:
            assert preemption.check() is None
            os.kill(os.getpid(), number)
            assert preemption.check() == name and preemption.check() == name
        assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == before


def test_the_second_ctrl_c_interrupts():
    with pytest.raises(KeyboardInterrupt), Preemption() as preemption:
        os.kill(os.getpid(), signal.SIGINT)
        assert preemption.check() == "sigint"
        os.kill(os.getpid(), signal.SIGINT)
        preemption.check()
    assert signal.getsignal(signal.SIGINT) is not preemption._notice


def test_ctrl_c_after_sigterm_lets_the_run_save():
    with Preemption() as preemption:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
            assert preemption.noticed == preemption.check() is not None


def test_handlers_are_restored_after_an_exception():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError), Preemption():
        raise RuntimeError
    assert signal.getsignal(signal.SIGTERM) is before


def test_no_handler_is_installed_outside_of_the_main_thread():
    seen = []

    def body():
        with Preemption() as preemption:
            seen.append((preemption.check(), signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [(None, before)]


def test_a_single_process_does_not_initialize(monkeypatch):
    for name in (*distributed.VARIABLES, "SLURM_STEP_NODELIST", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(distributed, "_tpu_vm", lambda: False)

    def fail(*_, **__):
        raise AssertionError("initialized")

    monkeypatch.setattr(distributed.jax.distributed, "initialize", fail)
    distributed.initialize()
    assert distributed.is_main()
    distributed.sync("nothing to wait for")
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node[1-2]")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    with pytest.raises(AssertionError, match="initialized"):
        distributed.initialize()


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("UNKNOWN: Gloo all-reduce failed: Connection closed by peer", True),
        ("UNAVAILABLE: the coordination service is gone", True),
        ("FAILED_PRECONDITION: Buffer Definition Event: Gloo context failed", True),
        ("RESOURCE_EXHAUSTED: Out of memory, needed by jit(step)/optimization_barrier", False),
        ("INVALID_ARGUMENT: barrier of another task", False),
        ("INTERNAL: something else", False),
    ],
)
def test_only_errors_about_other_processes_mean_that_one_is_gone(text: str, lost: bool):
    error = watchdog.jax.errors.JaxRuntimeError(text)
    assert bool(watchdog._lost(error)) == lost
    outer = RuntimeError("barrier")
    outer.__cause__ = error
    assert bool(watchdog._lost(outer)) == lost


def test_some_of_the_variables_without_the_others_is_an_error(monkeypatch):
    for name in distributed.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    with pytest.raises(ConfigError, match="JAX_NUM_PROCESSES is set, but JAX_COORDINATOR_ADDRESS"):
        distributed.initialize()
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    monkeypatch.setenv("JAX_PROCESS_ID", "first")
    with pytest.raises(ConfigError, match="must be numbers"):
        distributed.initialize()


TWO = """
    import sys, time
    from flaxae.machine import distributed, watchdog
    distributed.initialize()
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    from flaxae.machine.preemption import Preemption
    from flaxae.storage.checkpoint import Checkpointer, steps_on_disk
    from flaxae.config import SaveConfig

    assert jax.process_count() == 2 and distributed.is_main() == (jax.process_index() == 0)
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, P("x"))
    make = jax.jit(lambda v: {"x": jnp.arange(8.0) + v, "ema": {}}, out_shardings=rows)
    mean = jax.jit(lambda s: s["x"].mean() - 3.5, out_shardings=NamedSharding(mesh, P()))
    abstract = {"x": jax.ShapeDtypeStruct((8,), jnp.float32, sharding=rows), "ema": {}}
    checkpointer = Checkpointer(sys.argv[1], SaveConfig(keep=5))
    assert checkpointer.restore(abstract) is None
    for step in (1, 2, 3, 6):
        checkpointer.save(step, make(step), {"at": step})
        checkpointer.save_best(step, make(step), {}, float(-step))
    checkpointer.wait()
    distributed.sync("saved")
    if distributed.is_main():
        import pathlib
        for path in (pathlib.Path(sys.argv[1]) / "latest" / "6" / "state").rglob("d/*"):
            path.write_bytes(b"")
    distributed.sync("torn")
    found = checkpointer.restore(abstract)
    assert found.step == 3 and found.extra == {"at": 3} and float(mean(found.state)) == 3
    assert not steps_on_disk(checkpointer.workdir / "best")  # step 6 was set aside
    checkpointer.save(6, make(6), {}, wait=True)
    with Preemption() as preemption:
        for step in range(0, 4000, 16):  # as with steps_per_call=16
            time.sleep(0.05)
            found = preemption.check()
            if step == 64:
                print("ready", flush=True)
            if found:
                checkpointer.save(step, make(step), {}, wait=True)
                print(found, step, flush=True)
                break
    checkpointer.close()
"""


def test_two_processes_restore_together_and_stop_at_the_same_step(tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    children = []
    for i in range(2):
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
        environment |= {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_PLATFORMS": "cpu"}
        environment |= {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(i)}
        environment |= {"PYTHONPATH": os.getcwd()}
        children.append(
            subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(TWO), str(tmp_path)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        # Gloo prints its own lines; the iteration ends if the child does.
        if any(line.strip() == "ready" for line in iter(children[1].stdout.readline, "")):
            children[1].send_signal(signal.SIGTERM)
        results = [child.communicate(timeout=90) for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], [e[-2000:] for _, e in results]
    stops = {out.splitlines()[-1] for out, _ in results}
    assert len(stops) == 1 and stops.pop().startswith("sigterm "), results
    assert "latest/6 is not readable" in results[0][1]
