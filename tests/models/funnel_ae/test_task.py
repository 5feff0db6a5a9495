"""The Funnel AE in the training loop."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flaxae
from flaxae.config import Optimizer
from flaxae.data.tokenizer import EOS, PAD
from flaxae.errors import ConfigError
from flaxae.models.funnel_ae import terms
from flaxae.models.funnel_ae.latents import Bottleneck, Encoding
from flaxae.models.funnel_ae.skips import Skip
from flaxae.models.funnel_ae.task import FunnelAETask
from flaxae.models.funnel_ae.upsampling import Upsampling
from flaxae.task import Context, Rows
from flaxae.training.loop import run
from tests.helpers import arrays_of, assert_same, log_of
from tests.models.funnel_ae.tiny import texts, tiny_funnel, toy

CTX = Context(key=jax.random.key(0), step=jnp.int32(0))
SKIP = {"task__skip__kind": Skip.LINEAR, "task__skip__finish_by": (3,)}
# Updates that are linear in the gradient: Adam's first ones turn rounding into whole steps.
SGD = {"optim__name": Optimizer.SGD, "optim__lr": 0.1, "eval__splits": ()}


def evaluated(config: Any, batch: Any, split: int = 0) -> tuple[dict[str, float], Any]:
    """Return the metrics of a batch of an untrained model, evaluated in parts of `split` rows."""
    config.freeze()
    task = config.task.make(config)
    model = task.init(nnx.Rngs(params=0, frozen=1))
    rows = len(batch["ids"])
    parts = [slice(i, i + (split or rows)) for i in range(0, rows, split or rows)]
    sums = [
        jax.jit(lambda x: task.eval_step(model, x, CTX))({k: v[p] for k, v in batch.items()})
        for p in parts
    ]
    total = {
        name: Rows(*(np.concatenate([x[name][i] for x in sums]) for i in (0, 1)))
        if name == "codes"
        else tuple(sum(np.asarray(x[name][i]) for x in sums) for i in (0, 1))
        for name in sums[0]
    }
    return task.finalize(total), total


def toy_batch(rows: int = 12) -> dict[str, np.ndarray]:
    return {"ids": np.random.default_rng(0).integers(2, 8, (rows, 4)).astype(np.int32)}


@pytest.mark.slow
def test_five_updates_on_eight_devices_equal_those_on_one(tmp_path: Path, split_small: Any) -> None:
    options = {"steps": 5, "data__batch_size": 16, **SGD, **SKIP}
    run(toy(mesh__fsdp=1, **options), tmp_path / "one")
    run(toy(mesh__replica=2, mesh__fsdp=2, mesh__model=2, **options), tmp_path / "eight")
    assert_same(arrays_of(tmp_path / "one"), arrays_of(tmp_path / "eight"), atol=1e-5)


def test_a_resumed_run_equals_one_that_never_stopped(tmp_path: Path) -> None:
    # One block: little to compile. The moments of random codes are in the carry. Batches are split.
    options = {"task__latent__encoding": Encoding.RANDOM, "eval__splits": (), "mesh__fsdp": 2}
    options["task__funnel"] = tiny_funnel(block_sizes=(1,))
    run(toy(**options), tmp_path / "whole")
    run(toy(**options, steps=2, optim__decay_steps=4), tmp_path / "parts")
    run(toy(**options, optim__decay_steps=4), tmp_path / "parts")
    assert_same(arrays_of(tmp_path / "whole"), arrays_of(tmp_path / "parts"))
    assert log_of(tmp_path / "whole")[-1] == log_of(tmp_path / "parts")[-1]


@pytest.mark.slow
def test_seeds_as_lanes_equal_single_runs(tmp_path: Path) -> None:
    run(toy(**SKIP, **SGD), tmp_path / "lanes", lanes=[{"seed": 0}, {"seed": 1}])
    run(toy(**SKIP, **SGD, seed=1), tmp_path / "single")
    both, one = arrays_of(tmp_path / "lanes"), arrays_of(tmp_path / "single")
    for name, value in one.items():
        if "params" in name:
            np.testing.assert_allclose(both[name][1], value, atol=1e-5, err_msg=name)


def test_the_metrics_of_a_split_do_not_depend_on_batches() -> None:
    options: dict[str, Any] = {
        "task__latent__kind": Bottleneck.MMD,
        "task__latent__weight": 2.0,
        "task__latent__noise": 0.3,
    }
    whole, parts = (evaluated(toy(**options), toy_batch(), n)[0] for n in (0, 5))
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        np.testing.assert_allclose(value, parts[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert whole["loss"] == pytest.approx(whole["recon"] + 2 * whole["mmd"], rel=1e-5)
    assert whole["perplexity"] == pytest.approx(math.exp(whole["recon"]))


def test_rows_that_pad_a_batch_do_not_count(tmp_path: Path) -> None:
    config = texts(tmp_path, task__latent__kind=Bottleneck.KL, task__latent__weight=0.1)
    ids = np.asarray([[5, 6, EOS, PAD, PAD, PAD, PAD, PAD], [7, 8, 9, 10, 11, 12, 13, EOS]])
    weight = np.ones(2, np.float32)
    real, _ = of_texts(config, ids, weight)
    more = np.concatenate([ids, ids[:1]])
    padded, sums = of_texts(config, more, np.asarray([1, 1, 0], np.float32))
    for name, value in real.items():
        np.testing.assert_allclose(value, padded[name], rtol=1e-5, err_msg=name)
    np.testing.assert_array_equal(sums["place_accuracy"][1], [2, 2, 2, 1, 1, 1, 1, 1])
    assert real["loss"] == pytest.approx(real["recon"] + 0.1 * real["kl"] * 2 / 11, rel=1e-5)


def of_texts(config: Any, ids: np.ndarray, weight: np.ndarray) -> tuple[dict[str, float], Any]:
    config.freeze()
    task = config.task.make(config)
    model = task.init(nnx.Rngs(params=0, frozen=1))
    batch = {"8": {"ids": ids.astype(np.int32), "weight": weight}}
    sums = jax.jit(lambda x: task.eval_step(model, x, CTX))(batch)
    return task.finalize(sums), sums


def test_texts_are_trained_evaluated_and_opened(tmp_path: Path) -> None:
    result = run(texts(tmp_path, **SKIP), tmp_path / "run")
    rows = log_of(tmp_path / "run")
    train = [row for row in rows if row["split"] == "train"]
    assert [row["skip_0"] for row in train] == pytest.approx([1, 2 / 3, 1 / 3, 0], abs=1e-6)
    assert "skip_0" not in next(row for row in rows if row["split"] == "dev")
    for name in ("exact_match", "first_token_accuracy", "perplexity", "token_accuracy"):
        assert math.isfinite(result.metrics[f"dev/{name}"])
    assert (tmp_path / "run" / "samples.jsonl").read_text()
    model = flaxae.FunnelAE.from_pretrained(tmp_path / "run")
    lines = ["import self", "return (x) value"]
    codes = model.encode(lines)
    assert codes.shape == (2, 4, 4)
    assert model.decode(codes) == model.reconstruct(lines)
    paths = model.interpolate(*lines, steps=5)
    assert [paths[0], paths[-1]] == model.reconstruct(lines)
    model.save_pretrained(tmp_path / "saved")
    again = flaxae.FunnelAE.from_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(again.encode(lines), codes)
    assert again.decode(codes) == model.decode(codes)


def test_a_frozen_encoder_is_not_trained_and_all_else_is() -> None:
    config = toy(task__latent__encoding=Encoding.FROZEN)
    config.freeze()
    task = config.task.make(config)
    model = nnx.eval_shape(lambda: task.init(nnx.Rngs(params=0, frozen=1)))
    trained, rest = nnx.state(model, task.trainable, ...)
    assert set(nnx.to_pure_dict(rest)) == {"encoder"}
    assert set(nnx.to_pure_dict(trained)) == {"embeddings", "latents", "decoder"}


def test_masked_inputs_keep_eos_and_padding() -> None:
    ids = jnp.asarray([[5, 6, 7, EOS, PAD]])
    train = Context(key=jax.random.key(0), step=jnp.int32(0), train=True)
    masked = np.asarray(terms.masked(jnp.tile(ids, (400, 1)), 0.3, train))
    np.testing.assert_array_equal(masked[:, 3:], np.tile([[EOS, PAD]], (400, 1)))
    share = (masked[:, :3] == terms.MASK_ID).mean()
    assert 0.25 < share < 0.35
    np.testing.assert_array_equal(terms.masked(ids, 0.3, CTX), ids)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"data__max_length": 6, "task__funnel": tiny_funnel(block_sizes=(1, 1, 1))}, "multiple"),
        ({"data__max_length": 8, "task__funnel": tiny_funnel(block_sizes=(1,) * 5)}, "multiple"),
        ({"task__funnel__separate_cls": True}, "separate_cls"),
        ({"task__detail_weight": 1.0, "task__upsampling": Upsampling.LINEAR}, "haar"),
        ({"task__share": True, "task__latent__encoding": Encoding.FROZEN}, "frozen"),
        ({"data__num_buckets": 2}, "num_buckets"),
        ({"task__skip__kind": Skip.LINEAR, "task__skip__finish_by": ()}, "finish_by"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    config = texts(tmp_path, **options)
    with pytest.raises(ConfigError, match=message):
        config.freeze()
        FunnelAETask(config)


def test_chunks_of_the_head_change_neither_loss_nor_gradient(tmp_path: Path) -> None:
    whole = texts(tmp_path)
    parts = texts(tmp_path, task__loss_chunks=4)
    found = []
    for config in (whole, parts):
        config.freeze()
        task = config.task.make(config)
        batch = task.data("train").batch(0)
        model = task.init(nnx.Rngs(params=0))
        ctx = dataclasses.replace(CTX, train=True)

        def loss(model: Any, task: Any = task, batch: Any = batch, ctx: Any = ctx) -> Any:
            loss = task.loss(model, batch, ctx)
            return loss.total, loss.metrics["token_accuracy"][0]

        found.append(nnx.jit(nnx.value_and_grad(loss, has_aux=True))(model))
    (one, grads), (other, others) = found
    np.testing.assert_allclose(one, other, rtol=1e-5)
    assert_same(nnx.to_pure_dict(grads), nnx.to_pure_dict(others), atol=1e-4)
