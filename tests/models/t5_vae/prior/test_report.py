"""A T5-VAE, its flow and the comparison of priors, at a tiny size and by the commands."""

import json
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxae.config import Config, DataConfig, EvalConfig, LogConfig, OptimConfig, SaveConfig
from flaxae.errors import ConfigError
from flaxae.models.t5_vae.prior import report
from flaxae.models.t5_vae.prior.codes import Codes
from flaxae.models.t5_vae.prior.report import round_trip
from flaxae.models.t5_vae.prior.task import FlowConfig
from flaxae.storage import workdir as workdir_lib
from flaxae.storage.checkpoint import Checkpointer
from flaxae.text_autoencoder.priors import FlowPrior, GMMPrior, load_prior
from flaxae.training.layout import init_model
from flaxae.training.loop import run
from flaxae.training.report import evaluate
from tests.models.t5_vae.test_loop import config_for
from tests.text_autoencoder.priors.planted import bumps


def save_untrained(config: Config, workdir: Path) -> None:
    """Write a run's folder as the loop does, without compiling a train step."""
    config = workdir_lib.prepare(config, workdir, None, True)
    task = config.task.make(config)
    task.save_assets(str(workdir))
    model = jax.jit(lambda: init_model(task, jnp.uint32(0), 0))()
    carry = {"once": model["once"], "stream": model["stream"]}
    state = {"step": jnp.int32(1), "params": model["params"], "ema": {}, "carry": carry}
    checkpointer = Checkpointer(workdir, config.save)
    checkpointer.save(1, state, {"data": task.data("train").fingerprint}, wait=True)
    checkpointer.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a T5-VAE into vae/, and its flow of four steps into flow/."""
    folder = tmp_path_factory.mktemp("runs")
    save_untrained(config_for(folder), folder / "vae")
    config = Config(
        task=FlowConfig(codes_from=str(folder / "vae"), num_lines=300, width=16, depth=1),
        data=DataConfig(batch_size=32, cache=str(folder / "cache")),
        optim=OptimConfig(lr=1e-3),
        log=LogConfig(every=1, tensorboard=False, progress=False),
        eval=EvalConfig(num_samples=2),
        save=SaveConfig(every=4),
        steps=4,
    )
    config.mesh.fsdp = 1
    run(config, folder / "flow")
    return folder


def test_report_compares_all_priors(folder: Path) -> None:
    result = evaluate(folder / "flow")
    assert result == json.loads((folder / "flow" / "report" / "report.json").read_text())
    assert list(result["priors"]) == ["N(0, I)", "Gaussian", "GMM-10", "flow"]
    for row in result["priors"].values():
        found = row["samples"]["validity"]
        assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1
        assert row["round_trip"]["error"] < 0.02
        assert row["interpolation"]["pairs"] > 0
    assert result["references"].keys() == {"real codes", "slerp", "lerp"}
    text = (folder / "flow" / "report" / "report.txt").read_text()
    assert "GMM-10" in text and "round trip" in text
    kept = load_prior(folder / "flow" / "report" / "flow")
    np.testing.assert_array_equal(kept.sample(3), FlowPrior.from_workdir(folder / "flow").sample(3))


def test_a_report_of_one_line_leaves_out_what_needs_more(folder: Path) -> None:
    """One line has neither a path nor an MMD, and few codes have no mixture of ten."""
    codes, codec = np.ones((1, 8), np.float32), cast(Any, None)
    assert np.isnan(report.distance(codes, np.ones((5, 8), np.float32)))
    found = report.path_scores(codec, cast(Any, None), codes)
    assert found["pairs"] == 0 and np.isnan(found["validity"]["value"])
    result = json.loads((folder / "flow" / "report" / "report.json").read_text())
    del result["priors"]["GMM-10"]
    result["left_out"] = {"GMM-10": "9 codes are too few"}
    nothing = {"value": np.nan, "low": np.nan, "high": np.nan}
    for row in (*result["priors"].values(), *result["references"].values()):
        row.setdefault("interpolation", {}).update(validity=nothing, distinct=np.nan)
    assert "GMM-10 is left out: 9 codes are too few" in report.describe(result)


def test_codes_are_encoded_once(folder: Path, monkeypatch: Any) -> None:
    first = Codes(str(folder / "vae"), 300, 0, str(folder / "cache"))
    again = Codes(str(folder / "vae"), 300, 0, str(folder / "cache"))
    direct = first.codec.encode(first.lines("train")[:5]).reshape(5, -1)
    monkeypatch.setattr(again, "codec", None)  # the cache has them
    codes = again.codes("train")
    assert codes.shape == (300, first.dim) and codes.dtype == np.float32
    np.testing.assert_allclose(codes[:5], direct, atol=1e-5)
    other = Codes(str(folder / "vae"), 200, 0, str(folder / "cache"))
    assert other.fingerprint("train") != first.fingerprint("train")
    assert set(first.lines("train")).isdisjoint(first.lines("dev"))
    # An incomplete file is written again.
    path = folder / "cache" / f"codes-{first.fingerprint('train')}.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    np.testing.assert_array_equal(first.codes("train"), codes)


def test_flow_opens_after_its_data_changed_but_is_not_evaluated(
    folder: Path, monkeypatch: Any
) -> None:
    lines = folder / "lines.txt"
    kept = lines.read_text()
    try:
        lines.write_text("\n".join(f"other words {i} of {i * 7}" for i in range(600)))
        with pytest.raises(ConfigError, match="data"):
            evaluate(folder / "flow", folder / "report")
        assert FlowPrior.from_workdir(folder / "flow").sample(2).shape == (2, 8)
    finally:
        lines.write_text(kept)


def test_round_trip_of_a_mixture_uses_one_component() -> None:
    codes = bumps(200)
    mixture = GMMPrior.fit(bumps(2000), components=4)
    np.testing.assert_allclose(round_trip(mixture, codes)[1], codes, atol=1e-5)
