"""benchmarks/accelerator_step.py on tiny sizes, with too little memory and without accelerator."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import pytest

from flaxae.machine import sharding

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "accelerator_step.py"


@pytest.fixture
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("accelerator_step", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def last_line(capsys: pytest.CaptureFixture) -> tuple[str, dict[str, Any]]:
    out = capsys.readouterr().out.rstrip()
    return out, json.loads(out.splitlines()[-1])


def test_without_an_accelerator_nothing_is_measured(
    bench: ModuleType, capsys: pytest.CaptureFixture
) -> None:
    assert bench.main([]) == 0
    out, result = last_line(capsys)
    assert out.splitlines()[0] == "no accelerator: not measured" and len(out.splitlines()) == 2
    assert result["name"] == "accelerator_step" and result["measured"] is False


def test_a_tiny_t5_vae_is_measured_on_the_cpu(
    bench: ModuleType, capsys: pytest.CaptureFixture
) -> None:
    options = ["--tiny", "--platform=cpu", "--rounds=2", "--steps=1", "--cases=t5_base_vae"]
    assert bench.main([*options, "--set", "mesh.fsdp=1"]) == 0
    out, result = last_line(capsys)
    assert "MFU unknown peak" in out
    case = result["cases"][0]
    assert case["tokens"] == 32 * 16 and case["unit"] == "s/step"
    assert case["tokens_per_second"] == pytest.approx(512 / case["ours"])
    assert case["mfu"] is None and case["ratio"] is None and case["tflop"] > 0
    # At least float32 parameters and two moments.
    assert case["program_bytes"] > 12 * case["parameters"] > 1e5


def test_batches_grow_until_one_does_not_fit_and_the_best_is_reported(
    bench: ModuleType, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def measure(case: Any, config: Any, args: Any) -> dict[str, Any]:
        batch, remat = config.data.batch_size, config.task.t5.remat
        assert config.task.t5.dtype == "bfloat16" and config.task.loss_chunks == 2
        tried.append((batch, remat))
        if batch > (512 if remat else 256):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")
        mfu = 0.3 if remat else 0.5 if batch == 256 else 0.4
        return {
            "batch": batch,
            "seconds": 0.5,
            "tokens": 10,
            "tokens_per_second": 20.0,
            "mfu": mfu,
            "tflop": 1.0,
            "devices": 1,
            "peak_memory_bytes": None,
            "program_bytes": 2e9,
            "compile_seconds": 3.0,
            "parameters": 7e6,
        }

    monkeypatch.setattr(bench, "measure", measure)
    options = ["--platform=cpu", "--variants", "plain", "remat", "--set", "task.loss_chunks=2"]
    options.append("--cases=t5_base_vae")
    assert bench.main(options) == 0
    out, result = last_line(capsys)
    sizes = bench.CASES["t5_base_vae"].batches
    assert tried == [(b, False) for b in sizes[:3]] + [(b, True) for b in sizes[:4]]
    assert out.count("does not fit") == 2
    assert "best: plain, batch 256: 20 tokens/s, MFU 50.0%" in out
    case = result["cases"][0]
    assert case["mfu"] == 0.5 and case["ratio"] == pytest.approx(0.5 / bench.GOAL, abs=1e-3)
    assert case["theirs"] == pytest.approx(0.5 * 0.5 / bench.GOAL)


def test_other_errors_than_too_little_memory_are_raised(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*_: Any) -> Any:
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(bench, "measure", measure)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        bench.main(["--platform=cpu"])


def test_an_adapter_has_positions_in_its_batch_and_a_random_base(bench: ModuleType) -> None:
    case = bench.CASES["smollm2_lora"]
    config = bench.make_config(case, 2, {}, tiny=True)
    task = config.task.make(config)
    batch = bench.random_batch(task.batch_spec(), 256, case)
    assert batch["where"].tolist() == batch["positions"].tolist() == [[*range(16)]] * 2
    assert (batch["segment_ids"] == 1).all() and 3 <= batch["ids"].min() < batch["ids"].max() < 256
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
    frozen = bench.draw_frozen(task, config, mesh)
    assert all(bool((x != 0).any()) for x in jax.tree.leaves(frozen["blocks"]))


def test_a_tiny_looped_model_draws_its_batch(
    bench: ModuleType, capsys: pytest.CaptureFixture
) -> None:
    options = ["--tiny", "--platform=cpu", "--rounds=1", "--steps=1", "--cases=looped"]
    assert bench.main([*options, "--set", "mesh.fsdp=1"]) == 0
    case = last_line(capsys)[1]["cases"][0]
    assert case["name"] == "looped step, float32" and case["variant"] == "remat"
    assert case["tokens"] == 32 * 2 * 4 and case["tflop"] > 0


def test_a_tiny_byte_model_reads_random_bytes(
    bench: ModuleType, capsys: pytest.CaptureFixture
) -> None:
    options = ["--tiny", "--platform=cpu", "--rounds=1", "--steps=1", "--cases=byte_lm"]
    assert bench.main([*options, "--set", "mesh.fsdp=1"]) == 0
    case = last_line(capsys)[1]["cases"][0]
    assert case["name"] == "byte_lm step, float32" and case["variant"] == "plain"
    assert case["tokens"] == 32 * 8 and case["tflop"] > 0


def test_a_tiny_dictionary_reads_random_states(
    bench: ModuleType, capsys: pytest.CaptureFixture
) -> None:
    options = ["--tiny", "--platform=cpu", "--rounds=1", "--steps=1", "--cases=sae_topk"]
    assert bench.main([*options, "--set", "mesh.fsdp=1"]) == 0
    case = last_line(capsys)[1]["cases"][0]
    assert case["tokens"] == 32 and case["parameters"] == 2 * 32 * 64 + 32 + 64
    assert case["tflop"] > 0
