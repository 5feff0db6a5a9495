"""Small dictionaries that SAELens and sparsify write, with what they return for some states.

They are in `foreign/`. Write them again in the environment of `make test-sae-parity`:

    .venv-sae/bin/python -m tests.sparse_autoencoder.foreign_files
"""

import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

D, F, OUT, K, ROWS = 8, 16, 6, 4, 5
FOLDER = Path(__file__).parent / "foreign"
RECORD = "record.safetensors"  # x, latents, output
RAW = {"apply_b_dec_to_input": False}
TRANSCODER = RAW | {"d_out": OUT}
FACTOR, WHITENING = (
    {"normalize_activations": name} for name in ("expected_average_only_in", "covariance_whitening")
)
LAYER_NORM = {"normalize_activations": "layer_norm"}
RESCALED = {"k": K, "rescale_acts_by_decoder_norm": True}
HEADS = {
    "reshape_activations": "hook_z",
    "metadata": {"hook_name": "blocks.3.attn.hook_z", "model_name": "m"},
}
# name -> (SAELens' architecture, fields of its config)
SAELENS = {
    "standard": ("standard", {}),
    "standard_raw": ("standard", RAW),
    "standard_constant_norm": ("standard", {"normalize_activations": "constant_norm_rescale"}),
    "standard_layer_norm": ("standard", LAYER_NORM),
    "standard_factor": ("standard", FACTOR),
    "standard_whitening": ("standard", WHITENING),
    "standard_hook_z": ("standard", HEADS | RAW),
    "gated": ("gated", {}),
    "gated_raw": ("gated", RAW | LAYER_NORM),
    "gated_whitening": ("gated", RAW | WHITENING),
    "topk": ("topk", {"k": K}),
    "topk_rescaled": ("topk", RESCALED | RAW),
    "topk_layer_norm": ("topk", RESCALED | LAYER_NORM),
    "topk_factor": ("topk", RESCALED | FACTOR),
    "topk_whitening": ("topk", RESCALED | WHITENING),
    "jumprelu": ("jumprelu", {}),
    "jumprelu_raw": ("jumprelu", RAW),
    "jumprelu_factor": ("jumprelu", FACTOR),
    "jumprelu_whitening": ("jumprelu", RAW | WHITENING),
    "jumprelu_hook_z": ("jumprelu", HEADS),
    "transcoder": ("transcoder", TRANSCODER),
    "transcoder_layer_norm": ("transcoder", TRANSCODER | LAYER_NORM),
    "skip_transcoder": ("skip_transcoder", TRANSCODER),
    "jumprelu_transcoder": ("jumprelu_transcoder", TRANSCODER),
    "jumprelu_skip_transcoder": ("jumprelu_skip_transcoder", TRANSCODER),
}
# Those of the training registry, saved by SAELens for inference.
TRAINED = {
    "trained_standard": ("standard", {}),
    "trained_gated": ("gated", {}),
    "trained_topk": ("topk", {"k": K}),
    "trained_batch_topk": ("batchtopk", {"k": 2.5}),
    "trained_batch_topk_free": ("batchtopk", {"k": 2.5, "rescale_acts_by_decoder_norm": False}),
    "trained_matryoshka": ("matryoshka_batchtopk", {"k": 2.5, "matryoshka_widths": [4, F]}),
    "trained_jumprelu": ("jumprelu", {}),
}
SPARSIFY = {
    "sparsify_topk": {},
    "sparsify_groupmax": {"activation": "groupmax"},
    "sparsify_transcoder": {"transcode": True},
    "sparsify_skip": {"transcode": True, "skip_connection": True},
}


def normal(shape, seed=0, scale=0.5):
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


X = normal((ROWS, D), 1, 2.0)


def randomise(module, seed):
    """Draw the parameters of a torch module; thresholds are positive."""
    import torch

    with torch.no_grad():
        for i, (name, x) in enumerate(module.named_parameters()):
            value = normal(tuple(x.shape), [seed, i])
            x.copy_(torch.from_numpy(np.abs(value) if name == "threshold" else value))
        if hasattr(module, "topk_threshold"):
            module.topk_threshold.fill_(0.4)


def scaler_of(fields, seed):
    """Return SAELens' scaler of states with fixed statistics, estimated from some states."""
    import torch
    from sae_lens.training.activation_scaler import ActivationScaler

    found, kind = ActivationScaler(), fields.get("normalize_activations")
    data = iter([torch.from_numpy(normal((64, D), seed, 3.0) + 1)])
    if kind == "expected_average_only_in":
        found.estimate_scaling_factor(D, data, 1)
    if kind == "covariance_whitening":
        found.estimate_whitening(D, data, 1)
    return found


def run(sae, scaler=None, heads=False):
    """Return what SAELens' dictionary returns for X."""
    import torch

    with torch.no_grad():
        x = torch.from_numpy(X)
        x = x if scaler is None else scaler.scale(x)
        x = x.reshape(ROWS, 2, -1) if heads else x
        latents, output = sae.encode(x), sae(x)
        output = output.reshape(ROWS, -1)
        output = output if scaler is None else scaler.unscale(output)
    return {"x": X, "latents": latents.numpy(), "output": output.numpy()}


def write_saelens(directory, name, seed=0):
    """Write a dictionary with SAELens; return what it returns for X."""
    import sae_lens

    architecture, fields = SAELENS[name]
    sae = sae_lens.SAE.from_dict({"architecture": architecture, "d_in": D, "d_sae": F} | fields)
    randomise(sae, seed)
    sae.save_model(directory)
    scaler = scaler_of(fields, seed)
    if fields.get("normalize_activations") in ("expected_average_only_in", "covariance_whitening"):
        scaler.save(str(directory / "activation_scaler.json"))
    return run(sae, scaler, "reshape_activations" in fields)


def write_trained(directory, name, seed=0):
    """Write a dictionary of SAELens' training for inference; return what it then returns for X."""
    from benchmarks.torch_sae_lens import save_inference, training_sae

    architecture, fields = TRAINED[name]
    sae = training_sae(architecture, d_in=D, d_sae=F, **fields)
    randomise(sae, seed)
    return run(save_inference(sae, directory))


def run_sparsify(sae):
    """Return what sparsify's dictionary returns for X."""
    import torch

    with torch.no_grad():
        x = torch.from_numpy(X)
        found = sae.encode(x)
        latents = torch.zeros(ROWS, F).scatter_(-1, found.top_indices, found.top_acts)
        return {"x": X, "latents": latents.numpy(), "output": sae(x).sae_out.numpy()}


def write_sparsify(directory, name, seed=0):
    """Write a dictionary with sparsify; return what it returns for X."""
    from sparsify import SparseCoder, SparseCoderConfig

    config = SparseCoderConfig(num_latents=F, k=K, **SPARSIFY[name])
    sae = SparseCoder(D, config)
    randomise(sae, seed)
    sae.save_to_disk(directory)
    return run_sparsify(sae)


def writers():
    """Return name -> the function that writes it."""
    return (
        dict.fromkeys(SAELENS, write_saelens)
        | dict.fromkeys(TRAINED, write_trained)
        | dict.fromkeys(SPARSIFY, write_sparsify)
    )


def read_record(directory):
    return load_file(directory / RECORD)


if __name__ == "__main__":
    shutil.rmtree(FOLDER, ignore_errors=True)
    for case, write in writers().items():
        (FOLDER / case).mkdir(parents=True)
        record = write(FOLDER / case, case)
        save_file({n: np.ascontiguousarray(x) for n, x in record.items()}, FOLDER / case / RECORD)
        print(case)
