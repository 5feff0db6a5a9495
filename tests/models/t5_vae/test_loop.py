"""A tiny T5-VAE in the training loop: equal on 1 and 8 devices, loading, texts of a file."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import flaxae
from flaxae.config import (
    Config,
    EvalConfig,
    LogConfig,
    MeshConfig,
    OptimConfig,
    SaveConfig,
    copy_config,
)
from flaxae.data.config import TextDataConfig
from flaxae.data.tokenizer import Tokenizer
from flaxae.errors import ConfigError
from flaxae.lm.t5.modeling import T5Config
from flaxae.models.t5_vae.bottlenecks import LatentConfig
from flaxae.models.t5_vae.task import T5VAEConfig
from flaxae.text_autoencoder.kl import WeightSchedule
from flaxae.training.loop import run
from tests.helpers import arrays_of, assert_same, log_of
from tests.xla import COMPILE_WELL

WORDS = ["import", "return", "self", "value", "= 0", "(x)", "if", "else:", "for", "in"]


def config_for(tmp_path: Path, **overrides: Any) -> Config:
    rng = np.random.default_rng(0)
    lines = {" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(600)}
    (tmp_path / "lines.txt").write_text("\n".join(sorted(lines)) + "\n")
    t5 = T5Config(d_model=16, d_ff=32, d_kv=8, num_heads=2, num_layers=1, num_decoder_layers=1)
    config = Config(
        task=T5VAEConfig(t5=t5, latent=LatentConfig(dim=8, memory_tokens=2, noise_end=0.1)),
        data=TextDataConfig(
            path=str(tmp_path / "lines.txt"),
            batch_size=32,
            max_length=16,
            vocab_size=300,
            num_buckets=2,
            cache=str(tmp_path / "cache"),
        ),
        optim=OptimConfig(lr=3e-3),
        log=LogConfig(every=1, tensorboard=False, progress=False),
        eval=EvalConfig(splits=("dev",), num_samples=2),
        save=SaveConfig(every=5),
        mesh=MeshConfig(fsdp=1),
        steps=5,
    )
    for name, value in overrides.items():
        flaxae.config.set_field(config, name.replace("__", "."), value)
    return config


SPACE = {
    "task__latent__channel": "preserving",
    "task__latent__noise_end": 0.0,
    "task__latent__target_bits": 20.0,
    "task__latent__reads_noise": True,
    "task__noise__shuffle": 0.5,
    "task__noise__swap": 1,
    "task__noise__share": 0.5,
}


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, SPACE], ids=["default", "space"])
def test_five_steps_on_eight_devices_equal_those_on_one(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Sums in the order of tests' own quick code are 1e-5 apart after the fifth update, not 3e-6.
    monkeypatch.setattr(jax, "jit", partial(jax.jit, compiler_options=COMPILE_WELL))
    one = config_for(tmp_path, mesh__fsdp=1, **options)
    eight = config_for(tmp_path, mesh__replica=2, mesh__fsdp=2, mesh__model=2, **options)
    run(one, tmp_path / "one")
    run(eight, tmp_path / "eight")
    a, b = log_of(tmp_path / "one"), log_of(tmp_path / "eight")
    train = [[r["loss"] for r in rows if r["split"] == "train"] for rows in (a, b)]
    np.testing.assert_allclose(*train, rtol=1e-5)
    assert_same(arrays_of(tmp_path / "one"), arrays_of(tmp_path / "eight"), atol=1e-5)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Config]:
    """Train a run; return its folder, its result and its config."""
    folder = tmp_path_factory.mktemp("finished")
    bar = {"task__mmd_schedule": WeightSchedule.BAR, "task__mmd_start": 0.0, "task__bar": 100.0}
    config = config_for(folder, **bar, task__mmd_weight=7.0, eval__every=5, optim__ema=0.5)
    return folder, run(config, folder / "w"), config


def test_evaluation_uses_the_weights_of_training(finished: tuple[Path, Any, Config]) -> None:
    """The bar is passed at the first step, after which the whole weight counts, also in dev."""
    rows = [row for row in log_of(finished[0] / "w") if row["split"] != "sample"]
    assert rows[-1]["split"] == "dev"
    for row in rows:
        waits = row["split"] == "train" and row["step"] == 1
        assert row["mmd_weighted"] == pytest.approx(0.0 if waits else 7 * row["mmd"], rel=1e-5)


def test_load_returns_the_model_and_the_workdir_names_its_origin(
    finished: tuple[Path, Any, Config],
) -> None:
    folder, result, _ = finished
    loaded = flaxae.load(folder / "w")
    assert loaded.step == 5 and loaded.config.task.latent.dim == 8
    table = loaded.model.t5.embedding.table[...]
    np.testing.assert_array_equal(table, result.state["ema"]["t5"]["embedding"]["table"])
    names = {p.name for p in (folder / "w").iterdir()}
    assert {"config.json", "versions.json", "tokenizer.json", "metrics.jsonl", "latest"} <= names
    assert (folder / "w" / "samples.jsonl").read_text()
    assert 0 <= result.metrics["dev/exact_match"] <= 1


def test_run_keeps_its_tokenizer_when_the_corpus_changes(
    finished: tuple[Path, Any, Config], tmp_path: Path
) -> None:
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    stored = tmp_path / "w" / "config.json"
    stored.write_text(stored.read_text().replace(str(finished[0]), str(tmp_path)))
    kept = (tmp_path / "w" / "tokenizer.json").read_text()
    lines = [f"other words {i} of {i * 7}" for i in range(600)]
    (tmp_path / "lines.txt").write_text("\n".join(lines) + "\n")
    loaded = flaxae.load(tmp_path / "w")
    assert (
        loaded.task.text.tokenizer.fingerprint
        == Tokenizer.load(tmp_path / "w" / "tokenizer.json").fingerprint
    )
    # The held-out texts are unknown now: evaluating and resuming fail, and nothing is lost.
    with pytest.raises(ConfigError, match="data"):
        loaded.task.report(loaded, str(tmp_path / "report"))
    paths = {"data.path": str(tmp_path / "lines.txt"), "data.cache": str(tmp_path / "cache")}
    config = copy_config(finished[2], {**paths, "steps": 6, "optim.decay_steps": 6})
    with pytest.raises(ConfigError, match="0 of 579 texts are left"):
        run(config, tmp_path / "w")
    assert (tmp_path / "w" / "tokenizer.json").read_text() == kept
