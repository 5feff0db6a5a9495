"""Random dictionaries of every forward pass, and their outputs by numpy."""

import jax
import jax.numpy as jnp
import numpy as np

from flaxae.sparse_autoencoder.modules import Activation, Normaliser, SAEConfig
from flaxae.sparse_autoencoder.parameters import build, shapes
from flaxae.task import Context

D, F, K = 6, 24, 4
TRANSCODER = {"transcoder": True, "subtract_b_dec": False, "d_out": 5}
CONFIGS = {
    "standard": {"subtract_b_dec": False},
    "tied_bias": {},
    "topk": {"activation": Activation.TOPK, "k": K},
    "topk_rescaled": {"activation": Activation.TOPK, "k": K, "rescale_by_decoder_norm": True},
    "batch_topk": {"activation": Activation.BATCH_TOPK, "k": 2.5, "rescale_by_decoder_norm": True},
    "jumprelu": {"activation": Activation.JUMPRELU},
    "gated": {"activation": Activation.GATED},
    "groupmax": {"activation": Activation.GROUPMAX, "k": K},
    "constant_norm": {"normaliser": Normaliser.CONSTANT_NORM},
    "layer_norm": {"activation": Activation.TOPK, "k": K, "normaliser": Normaliser.LAYER_NORM},
    "transcoder": TRANSCODER,
    "skip_transcoder": TRANSCODER | {"skip": True},
    "jumprelu_transcoder": TRANSCODER | {"activation": Activation.JUMPRELU},
    "jumprelu_skip_transcoder": TRANSCODER | {"activation": Activation.JUMPRELU, "skip": True},
    "topk_transcoder": TRANSCODER | {"activation": Activation.TOPK, "k": K},
}
X = np.random.default_rng(0).normal(size=(7, D)).astype(np.float32)


def arrays(config, seed=1):
    """Return random arrays of a dictionary; thresholds are positive."""
    rng = np.random.default_rng(seed)
    out = {n: rng.normal(size=s).astype(np.float32) * 0.5 for n, s in shapes(config).items()}
    if "threshold" in out:
        out["threshold"] = np.abs(out["threshold"])
    return out


def dictionary(kind, **fields):
    """Return a random dictionary."""
    config = SAEConfig(**{"d_in": D, "d_sae": F} | CONFIGS[kind] | fields)
    return build(config, arrays(config))


def context(train=False, **hparams):
    return Context(jax.random.key(0), jnp.int32(0), hparams=hparams, train=train)


def reference(sae, x):
    """Return latents and output outside training, by numpy and one row at a time."""
    c, raw = sae.config, np.asarray(x, np.float64)
    p = {name: np.asarray(getattr(sae, name)[...], np.float64) for name in shapes(c)}
    mean, scale, eps = 0.0, 1.0, 0.0
    if c.normaliser is Normaliser.CONSTANT_NORM:
        scale = np.sqrt((raw**2).sum(-1, keepdims=True) / D)
    if c.normaliser is Normaliser.LAYER_NORM:
        mean, scale, eps = raw.mean(-1, keepdims=True), raw.std(-1, keepdims=True, ddof=1), 1e-5
    x = (raw - mean) / (scale + eps)
    x = x - p["b_dec"] if c.subtract_b_dec else x
    norms = np.linalg.norm(p["w_dec"], axis=1) if c.rescale_by_decoder_norm else np.ones(F)
    z = (x @ p["w_enc"] + p["b_enc"]) * norms
    f = np.maximum(z, 0)
    if c.activation is Activation.TOPK:
        cut = np.sort(z, axis=-1)[:, -int(c.k)][:, None]
        f = f * (z >= cut)
    elif c.activation in (Activation.JUMPRELU, Activation.BATCH_TOPK):
        f = f * (z > p["threshold"])
    elif c.activation is Activation.GROUPMAX:
        groups = z.reshape(len(z), int(c.k), -1)
        f = f * (groups == groups.max(-1, keepdims=True)).reshape(z.shape)
    elif c.activation is Activation.GATED:
        f = (z > 0) * np.maximum(x @ p["w_enc"] * np.exp(p["r_mag"]) + p["b_mag"], 0)
    y = (f / norms) @ p["w_dec"] + p["b_dec"]
    if c.skip:
        y = y + raw @ p["w_skip"]
    return f, y if c.transcoder else y * scale + mean
