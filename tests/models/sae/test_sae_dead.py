"""Dead latents: counted over real tokens, and resampled from badly reconstructed inputs."""

import jax
import jax.numpy as jnp
import numpy as np

from flaxae.models.sae.dead import activity, clear_moments, resample, updated_silence

D, F, P = 3, 6, 8
RESAMPLE = jax.jit(resample)


def test_silence_counts_tokens_and_ignores_padding():
    f = jnp.zeros((4, 3)).at[0, 0].set(1.0).at[3, 1].set(1.0)
    weights = jnp.asarray([1.0, 1, 1, 0])  # the latent of the padded row did not fire
    silent = updated_silence(jnp.asarray([7, 7, 2**30], jnp.int32), activity(f, weights))
    np.testing.assert_array_equal(silent, [0, 10, 2**30 + 3])
    # Leading padding does not hide what fires after it.
    silent = updated_silence(jnp.full(3, 5, jnp.int32), activity(f[::-1], weights[::-1]))
    np.testing.assert_array_equal(silent, [0, 8, 8])


def made(dead, losses, seed=0):
    rng = np.random.default_rng(1)
    shapes = {"w_enc": (D, F), "w_dec": (F, D), "b_enc": (F,), "b_dec": (D,)}
    old = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    pool = rng.normal(size=(P, D)).astype(np.float32)
    new, changed = RESAMPLE(old, dead, pool, losses, jax.random.key(seed))
    return old, pool, new, np.asarray(changed)


def test_resampled_latents_have_new_directions_and_the_norms_of_living_ones():
    dead = jnp.asarray([0, 1, 0, 1, 1, 0], bool)
    losses = jnp.ones(P).at[2].set(0)
    old, pool, new, changed = made(dead, losses)
    np.testing.assert_array_equal(changed, dead)
    living = ~np.asarray(dead)
    for name in old:
        same = np.asarray(new[name]) == np.asarray(old[name])
        kept = same if same.ndim == 1 else same.all(0 if name == "w_enc" else 1)
        np.testing.assert_array_equal(kept, np.ones(D, bool) if name == "b_dec" else living)
    # Norms of latents, not of features: columns of the encoder, rows of the decoder.
    encoder = np.linalg.norm(old["w_enc"], axis=0)[living].mean()
    np.testing.assert_allclose(
        np.linalg.norm(new["w_enc"], axis=0)[changed], 0.2 * encoder, rtol=1e-5
    )
    decoder = np.linalg.norm(old["w_dec"], axis=1)[living].mean()
    np.testing.assert_allclose(np.linalg.norm(new["w_dec"], axis=1)[changed], decoder, rtol=1e-5)
    assert not np.asarray(new["b_enc"])[changed].any()
    # Without replacement, and never an input of loss 0.
    directions = np.asarray(pool - old["b_dec"])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    cosine = np.asarray(new["w_dec"])[changed] / decoder @ directions.T
    drawn = cosine.argmax(1)
    np.testing.assert_allclose(cosine.max(1), 1, rtol=1e-5)
    assert len(set(drawn)) == 3 and 2 not in drawn


def test_inputs_are_drawn_by_their_squared_losses_and_may_be_too_few():
    one = jnp.asarray([0, 0, 0, 1, 0, 0], bool)
    losses = jnp.zeros(P).at[1].set(1.0).at[5].set(2.0)
    drawn = [np.asarray(made(one, losses, seed)[2]["w_dec"])[3] for seed in range(200)]
    share = np.mean([np.allclose(row, drawn[0]) for row in drawn])
    assert min(abs(share - 0.8), abs(share - 0.2)) < 0.1  # 4 of 5, or the other one
    *_, changed = made(jnp.ones(F, bool), losses)
    np.testing.assert_array_equal(changed, [1, 1, 0, 0, 0, 0])
    *_, changed = made(one, jnp.zeros(P))
    assert not changed.any()


def test_moments_of_changed_latents_become_zero():
    changed = jnp.asarray([1, 0, 0, 0, 0, 0], bool)
    moments = {"w_enc": jnp.ones((D, F)), "w_dec": jnp.ones((F, D)), "b_enc": jnp.ones(F)}
    out = clear_moments(moments, changed)
    np.testing.assert_array_equal(out["w_enc"].sum(0), [0, 3, 3, 3, 3, 3])
    np.testing.assert_array_equal(out["w_dec"].sum(1), [0, 3, 3, 3, 3, 3])
    np.testing.assert_array_equal(out["b_enc"], [0, 1, 1, 1, 1, 1])
