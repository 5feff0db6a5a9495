"""The saved encoder of a Funnel AE, opened by transformers (PyTorch)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flaxae
from flaxae.data.tokenizer import train
from flaxae.models.funnel_ae.latents import LatentConfig
from flaxae.models.funnel_ae.skips import SkipConfig
from flaxae.task import Context
from tests.models.funnel_ae.tiny import texts, tiny_funnel

pytestmark = pytest.mark.parity
LINES = [f"{word} = {i}" for i in range(6) for word in ("x", "y", "name", "import os", "self")]
CTX = Context(key=jax.random.key(0), step=jnp.int32(0))


def test_transformers_opens_the_saved_encoder_with_the_same_states(tmp_path):
    import torch
    import transformers

    config = texts(
        tmp_path,
        data__vocab_size=280,
        task__funnel=tiny_funnel(block_sizes=(1, 2, 1)),
        task__latent=LatentConfig(dim=4),
        task__skip=SkipConfig(),
    )
    config.freeze()
    model = config.task.make(config).init(nnx.Rngs(params=0, frozen=1))
    ae = flaxae.FunnelAE(model, config, train(LINES, 270))
    ae.save_encoder(tmp_path / "encoder")
    theirs, info = transformers.FunnelBaseModel.from_pretrained(
        tmp_path / "encoder", output_loading_info=True
    )
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    # Whole pairs of padding only: transformers pools a pair of both kinds in another way.
    ids = np.random.default_rng(0).integers(3, 270, (3, 8)).astype(np.int32)
    ids[2, 4:] = 0
    mask = (ids != 0).astype(np.int64)
    with torch.no_grad():
        ids_there, mask_there = torch.tensor(ids.astype(np.int64)), torch.tensor(mask)
        want = theirs.eval()(input_ids=ids_there, attention_mask=mask_there).last_hidden_state
    encoded = jax.jit(lambda ids: model.encoded(ids, CTX).states)(jnp.asarray(ids))
    real = mask[:, ::4].astype(bool)  # states of real pairs of pairs
    np.testing.assert_allclose(np.asarray(encoded)[real], want.numpy()[real], atol=1e-4)
