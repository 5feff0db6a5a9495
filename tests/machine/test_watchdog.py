"""The watchdog's patience, the causes it knows, and the programs that are kept on disk."""

import jax
import pytest

from flaxae.machine import compile_cache, distributed
from flaxae.machine.watchdog import Watchdog, _lost


def test_the_steps_after_a_slow_one_have_the_longer_limit_too() -> None:
    dog = Watchdog()
    limits = []
    for slow in (True, *[False] * 5, True, False):
        dog.at("step", slow)
        limits.append(dog._doing[1])
    assert limits == [True, True, True, True, False, False, True, True]


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (jax.errors.JaxRuntimeError("UNAVAILABLE: Connection reset by peer"), True),
        (jax.errors.JaxRuntimeError("Gloo AllReduce failed: Read error"), True),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), False),
        (RuntimeError("connection closed"), False),  # not an error of JAX
        (None, False),
    ],
)
def test_errors_of_jax_about_other_processes_are_told_apart(
    error: BaseException | None, lost: bool
) -> None:
    assert bool(_lost(error)) == lost
    outer = RuntimeError("while saving")
    outer.__cause__ = error
    assert bool(_lost(outer)) == lost


def test_programs_are_kept_in_the_folder_that_the_user_chose() -> None:
    before = jax.config.jax_compilation_cache_dir  # pyright: ignore
    seconds = jax.config.jax_persistent_cache_min_compile_time_secs  # pyright: ignore
    assert before  # set for the tests
    compile_cache.keep_programs("elsewhere")
    assert jax.config.jax_compilation_cache_dir == before  # pyright: ignore
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        compile_cache.keep_programs("elsewhere")
        assert jax.config.jax_compilation_cache_dir == "elsewhere"  # pyright: ignore
        assert jax.config.jax_persistent_cache_min_compile_time_secs == 0.5  # pyright: ignore
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)


@pytest.mark.parametrize(
    ("variables", "several"),
    [
        ({}, False),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"SLURM_STEP_NODELIST": "n1", "SLURM_NTASKS": "1"}, False),
        ({"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2"}, True),
        ({"SLURM_NTASKS": "2"}, False),  # the shell of an allocation
    ],
)
def test_schedulers_are_recognised(
    variables: dict[str, str], several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_STEP_NODELIST", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert distributed._scheduler() == several


@pytest.mark.parametrize(
    ("platforms", "chips", "tpu"),
    [("", True, True), ("tpu,cpu", True, True), ("cpu", True, False), ("tpu", False, False)],
)
def test_a_tpu_machine_needs_chips_and_the_platform(
    platforms: str, chips: bool, tpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr(distributed.glob, "glob", lambda _: ["/dev/accel0"] if chips else [])
    monkeypatch.setattr(distributed.importlib.util, "find_spec", lambda name: name == "libtpu")
    assert distributed._tpu_vm() == tpu
