"""Settings of all tests: 8 fake CPU devices, strict dtype promotion, no rank promotion."""

import gc
import os
import resource
from collections.abc import Iterator
from pathlib import Path

from tests.xla import COMPILE_FAST

ROOT = Path(__file__).resolve().parents[1]
DEVICES = "--xla_force_host_platform_device_count"

# All of this must be set before jax is imported, here and in the processes that tests start.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
for flag in (f"{DEVICES}=8", *COMPILE_FAST):
    if flag.split("=")[0] not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
# Also quick programs: many tests train the same tiny family anew, and the workers share the cache.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Tests must not use the network, and pytest-xdist's workers must not compete for threads.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import jax  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# The same examples in each run, so that a failure is seen again; a busy machine is not an error.
settings.register_profile("flaxae", derandomize=True, deadline=None, database=None, max_examples=50)
settings.load_profile("flaxae")


# Bytes above which a worker drops its compiled programs, so that the suite fits into 8 GB.
MOST_MEMORY = 2 * 10**9


def _memory() -> int:
    """Return the bytes of this process in memory; 0 on systems without /proc."""
    statm = Path("/proc/self/statm")
    pages = int(statm.read_text().split()[1]) if statm.exists() else 0
    return pages * resource.getpagesize()


@pytest.fixture(autouse=True, scope="module")
def drop_programs() -> Iterator[None]:
    """Free the compiled programs after a file of tests if they take too much memory."""
    yield
    if _memory() > MOST_MEMORY:
        jax.clear_caches()
        gc.collect()


def pytest_collection_finish() -> None:
    """Collect garbage less often: modules and tests stay, and tracing makes many small objects."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


@pytest.fixture
def split_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Split parameters of any size over fsdp; normally only large ones are split."""
    monkeypatch.setattr("flaxae.machine.sharding.MIN_SPLIT", 1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip parity tests if what they compare with is not installed."""
    import importlib.util

    for mark, module, way in (
        ("parity", "torch", "make env-parity"),
        ("sae_parity", "sae_lens", "make test-sae-parity"),
    ):
        if importlib.util.find_spec(module) is not None:
            continue
        skip = pytest.mark.skip(reason=f"needs {module}: {way}")
        for item in items:
            if mark in item.keywords:
                item.add_marker(skip)
