"""Helpers of the tests of byte networks."""

from typing import Any

import numpy as np
from flax import nnx

from flaxae.config import Config, DataConfig
from flaxae.models.byte_lm.network import ByteNetwork
from flaxae.models.byte_lm.streaming import Reader
from flaxae.models.byte_lm.streams import ByteDataConfig
from flaxae.models.byte_lm.task import ByteLMConfig
from flaxae.training.hparams import make_hparams


def hparams_of(options: ByteLMConfig) -> dict[str, Any]:
    """Return the traced values of a network's config."""
    data: DataConfig = ByteDataConfig()
    config = Config(task=options, data=data)
    return make_hparams(options.make(config), [config], lanes=False)


def build(options: ByteLMConfig, streams: int = 2, seed: int = 0) -> ByteNetwork:
    """Return a new network."""
    return options.network(streams, nnx.Rngs(params=seed, frozen=seed + 1))


def reader_of(options: ByteLMConfig, seed: int = 0) -> Reader:
    """Return a new network as a Reader."""
    return Reader.of(build(options, seed=seed), hparams_of(options))


def text(streams: int = 2, length: int = 128, seed: int = 0) -> np.ndarray:
    """Return random bytes, (streams, length)."""
    return np.random.default_rng(seed).integers(0, 256, (streams, length)).astype(np.int32)


def read(reader: Reader, x: np.ndarray, chunk: int = 0) -> np.ndarray:
    """Return the logits after each byte of new streams, which are read in chunks.

    Args:
        reader: the network.
        x: the bytes, (B, T).
        chunk: bytes per call; 0: all at once.
    """
    state, out = reader.zero(len(x)), []
    for start in range(0, x.shape[1], chunk or x.shape[1]):
        logits, state = reader.read(state, x[:, start : start + (chunk or x.shape[1])])
        out.append(np.asarray(logits))
    return np.concatenate(out, 1)


def size(options: ByteLMConfig) -> int:
    """Return the number of trained parameters of a network."""
    network = nnx.eval_shape(lambda: build(options, streams=1))
    return sum(x.get_value().size for _, x in nnx.to_flat_state(nnx.state(network, nnx.Param)))
