"""Sets of transcoders for circuit-tracer: config.yaml and one safetensors file per layer."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flaxae.errors import require
from flaxae.sparse_autoencoder import folding
from flaxae.sparse_autoencoder.modules import (
    Activation,
    Normaliser,
    SAEConfig,
    SparseAutoencoder,
)
from flaxae.sparse_autoencoder.parameters import values
from flaxae.sparse_autoencoder.tensors import write_safetensors
from flaxae.storage.paths import write_text

CONFIG = "config.yaml"
ACTIVATIONS = (Activation.RELU, Activation.JUMPRELU, Activation.BATCH_TOPK)  # the last as JumpReLU


def write(
    directory: Path,
    transcoders: Mapping[int, SparseAutoencoder],
    *,
    model: str,
    hook_in: str = "mlp.hook_in",
    hook_out: str = "hook_mlp_out",
) -> None:
    """Write a set of transcoders, to be put at the top or in a folder of a Hub repository.

    The config has no list of files: circuit-tracer then finds them by their names, beside it. It
    takes plain names of a list from the current directory.

    Args:
        directory: created if it does not exist.
        transcoders: layer -> its transcoder, with ReLU, JumpReLU or batch top-k (as JumpReLU); all
            layers from 0 on, of one size, with or without a skip connection.
        model: name of the language model.
        hook_in: name of the input's hook, without its layer.
        hook_out: name of the output's hook.

    Raises:
        ConfigError: if there is none, a layer is missing, one is not a transcoder, they differ in
            size or skip connection, or an activation does not exist there.
    """
    require(bool(transcoders), "a set of transcoders needs one")
    layers = sorted(transcoders)
    require(
        layers == list(range(len(layers))),
        f"circuit-tracer needs a transcoder for every layer from 0 on, not for {layers}",
    )
    for layer in layers:  # all are checked before the first one is written
        _check(layer, transcoders[layer].config, transcoders[0].config)
    for layer in layers:
        write_safetensors(directory / f"layer_{layer}.safetensors", _tensors(transcoders[layer]))
    # JSON strings are YAML strings.
    lines = [
        f"model_name: {json.dumps(model)}",
        "model_kind: transcoder_set",
        f"feature_input_hook: {json.dumps(hook_in)}",
        f"feature_output_hook: {json.dumps(hook_out)}",
    ]
    write_text(directory / CONFIG, "\n".join(lines) + "\n")


def _check(layer: int, config: SAEConfig, first: SAEConfig) -> None:
    """Raise ConfigError unless circuit-tracer can read a layer beside layer 0."""
    require(config.transcoder, f"layer {layer}: not a transcoder")
    require(
        config.d_in == config.d_out,
        f"layer {layer}: d_in={config.d_in} and d_out={config.d_out} must be equal",
    )
    require(
        (config.d_in, config.d_sae, config.skip) == (first.d_in, first.d_sae, first.skip),
        f"layer {layer} differs from layer 0 in its width, its number of latents, or in having "
        "a skip connection",
    )
    require(
        config.activation in ACTIVATIONS and config.normaliser is Normaliser.NONE,
        f"layer {layer}: circuit-tracer has ReLU and JumpReLU without a normaliser, not "
        f"{config.activation.value}",
    )


def _tensors(sae: SparseAutoencoder) -> dict[str, np.ndarray]:
    """Return the tensors of a layer by circuit-tracer's names."""
    if sae.config.activation is Activation.BATCH_TOPK:
        sae = folding.as_jump_relu(sae)
    arrays = values(sae)
    tensors = {
        "W_enc": arrays["w_enc"].T,  # (F, d)
        "W_dec": arrays["w_dec"],
        "b_enc": arrays["b_enc"],
        "b_dec": arrays["b_dec"],
    }
    if "threshold" in arrays:
        tensors["activation_function.threshold"] = arrays["threshold"]
    if "w_skip" in arrays:
        tensors["W_skip"] = arrays["w_skip"].T
    return tensors
