"""Files of SAELens, Gemma Scope and sparsify: layouts, round trips, one clear error each."""

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import flaxae
from flaxae.errors import ConfigError
from flaxae.sparse_autoencoder import circuit_tracer, files, folding, saelens, sparsify
from flaxae.sparse_autoencoder.modules import Activation
from flaxae.sparse_autoencoder.origin import Origin, lens_name, parse_hook
from flaxae.sparse_autoencoder.parameters import values
from tests.sparse_autoencoder.tiny_dictionaries import CONFIGS, D, F, K, X, dictionary, reference

ORIGIN = Origin(
    model="smollm2-135m",
    fingerprint="0123",
    hook="resid_out",
    layer=15,
    factor=0.25,
    normaliser="expected_norm",
    context_size=256,
    prepend_bos=False,
    skip_first=1,
    other={"dataset_path": "texts"},
)
SAELENS = [k for k in CONFIGS if k not in ("groupmax", "topk_transcoder")]
rng = np.random.default_rng(7)


def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)


def write_saelens(directory: Path, cfg: dict, tensors: dict) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "cfg.json").write_text(json.dumps({"d_in": D, "d_sae": F} | cfg))
    save_file(tensors, directory / "sae_weights.safetensors")
    return directory


def tensors(**more):
    base = {"W_enc": normal(D, F), "W_dec": normal(F, D), "b_enc": normal(F), "b_dec": normal(D)}
    return base | more


def standard(directory, **cfg):
    return write_saelens(directory, {"architecture": "standard"} | cfg, tensors())


@pytest.mark.parametrize("kind", SAELENS)
def test_saelens_round_trip(kind, tmp_path):
    sae = dictionary(kind)
    saelens.write(tmp_path, sae, ORIGIN)
    back, origin = files.load(tmp_path, hook="resid_out", layer=15, fingerprint="0123")
    assert origin == ORIGIN
    want = folding.as_jump_relu(sae) if sae.config.activation is Activation.BATCH_TOPK else sae
    assert back.config == want.config
    for name, x in values(want).items():
        np.testing.assert_array_equal(x, values(back)[name], err_msg=name)


def test_saelens_files_have_its_names_and_fields(tmp_path):
    sae = flaxae.SAE(dictionary("jumprelu_skip_transcoder"), ORIGIN)
    sae.save_saelens(tmp_path)
    raw = json.loads((tmp_path / "cfg.json").read_text())
    assert raw["architecture"] == "jumprelu_skip_transcoder" and raw["d_out"] == 5
    assert raw["apply_b_dec_to_input"] is False and raw["normalize_activations"] == "none"
    assert raw["reshape_activations"] == "none" and raw["dtype"] == "float32"
    metadata = raw["metadata"]
    assert int(metadata["sae_lens_version"].split(".")[0]) >= 6
    assert metadata["hook_name"] == "blocks.15.hook_resid_post"
    assert metadata["hf_hook_name"] == "model.layers.15"
    assert metadata["model_name"] == "smollm2-135m" and metadata["dataset_path"] == "texts"
    shapes = {n: x.shape for n, x in load_file(tmp_path / "sae_weights.safetensors").items()}
    assert shapes == {
        "W_enc": (D, F),
        "W_dec": (F, 5),
        "b_enc": (F,),
        "b_dec": (5,),
        "threshold": (F,),
        "W_skip": (5, D),
    }
    saelens.write(tmp_path, dictionary("gated"), ORIGIN)
    names = set(load_file(tmp_path / "sae_weights.safetensors"))
    assert names == {"W_enc", "W_dec", "b_dec", "b_gate", "r_mag", "b_mag"}
    saelens.write(tmp_path, dictionary("topk_rescaled"), ORIGIN)
    raw = json.loads((tmp_path / "cfg.json").read_text())
    assert raw["k"] == K and raw["rescale_acts_by_decoder_norm"] is True
    with pytest.raises(ConfigError, match="SAELens has no autoencoder with activation groupmax"):
        saelens.write(tmp_path, dictionary("groupmax"), ORIGIN)


def test_the_facade_encodes_and_decodes(tmp_path):
    flaxae.SAE(dictionary("layer_norm"), ORIGIN).save_saelens(tmp_path)
    sae = flaxae.SAE.from_pretrained(tmp_path / "sae_weights.safetensors", layer=15)
    f, y = reference(sae.module, X)
    np.testing.assert_allclose(sae.encode(X), f, rtol=0, atol=1e-5)
    np.testing.assert_allclose(sae(X), y, rtol=0, atol=1e-5)
    assert "d_sae=24, topk, model='smollm2-135m', hook='resid_out', layer=15" in repr(sae)


def test_files_of_older_versions_are_read(tmp_path):
    old = {"hook_point": "blocks.3.hook_mlp_out", "hook_point_layer": 3, "model_name": "m"}
    old |= {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}, "prepend_bos": True}
    raw = tensors(scaling_factor=np.full(F, 2, np.float32))
    sae, origin = files.load(write_saelens(tmp_path, old | {"normalize_activations": None}, raw))
    assert sae.config.activation is Activation.TOPK and sae.config.k == 3
    assert (origin.hook, origin.layer, origin.model) == ("mlp_out", 3, "m")
    np.testing.assert_allclose(values(sae)["w_dec"], 2 * raw["W_dec"])
    raw = tensors(log_threshold=normal(F))
    sae, _ = files.load(write_saelens(tmp_path, {"architecture": "jumprelu"}, raw))
    np.testing.assert_allclose(values(sae)["threshold"], np.exp(raw["log_threshold"]), rtol=1e-6)


def test_a_pending_factor_is_folded_or_refused(tmp_path):
    standard(tmp_path, normalize_activations="expected_average_only_in", metadata={})
    with pytest.raises(ConfigError, match="the factor is not in the weights"):
        files.load(tmp_path)
    (tmp_path / "activation_scaler.json").write_text('{"scaling_factor": 4.0}')
    sae, origin = files.load(tmp_path)
    raw = load_file(tmp_path / "sae_weights.safetensors")
    assert origin.factor == 4 and origin.normaliser == "expected_norm"
    np.testing.assert_allclose(values(sae)["w_enc"], 4 * raw["W_enc"])
    np.testing.assert_allclose(values(sae)["b_dec"], raw["b_dec"] / 4)
    np.testing.assert_array_equal(values(sae)["b_enc"], raw["b_enc"])  # not the wrong bias


def test_a_pending_whitening_is_folded_or_refused(tmp_path):
    """Outputs after folding are compared with SAELens' own in test_foreign_files.py."""
    whitened = {"normalize_activations": "covariance_whitening", "metadata": {}}
    standard(tmp_path, **whitened)
    with pytest.raises(ConfigError, match="the matrix is not in the weights"):
        files.load(tmp_path)
    matrices = {"mean": normal(D), "matrix": normal(D, D), "inverse_matrix": normal(D, D)}
    save_file(matrices | {"mean": normal(D + 1)}, tmp_path / "activation_whitening.safetensors")
    with pytest.raises(ConfigError, match="mean has shape"):
        files.load(tmp_path)
    save_file(matrices, tmp_path / "activation_whitening.safetensors")
    assert files.load(tmp_path)[1].normaliser == "covariance_whitening"
    transcoder = {"architecture": "transcoder", "apply_b_dec_to_input": False, "d_out": D}
    write_saelens(tmp_path, transcoder | whitened, tensors())
    with pytest.raises(ConfigError, match="a transcoder's output is not whitened"):
        files.load(tmp_path)


def gemma(**more):
    base = {"w_enc": normal(D, F), "w_dec": normal(F, D), "b_enc": normal(F), "b_dec": normal(D)}
    return base | {"threshold": np.abs(normal(F))} | more


@pytest.mark.parametrize("upper", [False, True])
def test_gemma_scope_1(upper, tmp_path):
    raw = gemma()
    named = {n.replace("w_", "W_") if upper else n: x for n, x in raw.items()}
    np.savez(tmp_path / "params.npz", **named)
    sae, origin = files.load(tmp_path, hook="resid_out", layer=20, model="gemma-2-2b")
    assert sae.config.activation is Activation.JUMPRELU and not sae.config.subtract_b_dec
    assert (origin.hook, origin.layer) == ("resid_out", 20)  # completed by the user
    assert origin.prepend_bos is True
    for name, x in raw.items():
        np.testing.assert_array_equal(values(sae)[name], x)
    assert not sae.config.transcoder
    found, _ = files.load(tmp_path, transcoder=True, normaliser="none", factor=0.5)
    assert found.config.transcoder
    np.savez(tmp_path / "params.npz", **named, scale=normal(1))
    with pytest.raises(ConfigError, match="unexpected tensor scale"):
        files.load(tmp_path)


def test_gemma_scope_2(tmp_path):
    skip = normal(D, D)
    save_file(gemma(affine_skip_connection=skip), tmp_path / "params.safetensors")
    sae, _ = files.load(tmp_path)  # config.json is optional
    assert sae.config.skip and sae.config.transcoder
    np.testing.assert_array_equal(values(sae)["w_skip"], skip)
    config = {
        "architecture": "jump_relu",
        "model_name": "google/gemma-3-1b-pt",
        "hf_hook_point_in": "model.layers.5.pre_feedforward_layernorm.output",
        "hf_hook_point_out": "model.layers.5.mlp.output",
        "affine_connection": True,
        "type": "transcoder",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    _, origin = files.load(tmp_path / "params.safetensors")
    assert (origin.hook, origin.hook_out) == ("mlp_in", "mlp_out")
    assert (origin.layer, origin.layer_out) == (5, 5)
    (tmp_path / "config.json").write_text(json.dumps(config | {"affine_connection": False}))
    with pytest.raises(ConfigError, match="affine_skip_connection is unexpected"):
        files.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"architecture": "relu"}))
    with pytest.raises(ConfigError, match="architecture 'relu' is not one of"):
        files.load(tmp_path)


@pytest.mark.parametrize("kind", ["topk", "groupmax", "skip"])
def test_sparsify_round_trip(kind, tmp_path):
    skip = {"activation": Activation.TOPK, "k": K, "d_out": D}
    sae = dictionary("skip_transcoder", **skip) if kind == "skip" else dictionary(kind)
    directory = tmp_path / "layers.5.mlp"
    sparsify.write(directory, sae)
    raw = load_file(directory / "sae.safetensors")
    assert raw["encoder.weight"].shape == raw["W_dec"].shape == (F, D)
    back, origin = files.load(directory)
    assert back.config == sae.config and origin.layer == 5
    if kind == "skip":  # from the module's input to its output
        assert (origin.hook, origin.hook_out, origin.layer_out) == ("mlp_in", "mlp_out", 5)
        assert files.load(directory, hook="mlp_in", transcoder=True)
    else:
        assert (origin.hook, origin.hook_out, origin.layer_out) == ("mlp_out", "", None)
        with pytest.raises(ConfigError, match="this is not a transcoder"):
            files.load(directory, transcoder=True)
    assert files.load(directory, normaliser="layer_norm", factor=2.0)  # neither is in the file
    for name, x in values(sae).items():
        np.testing.assert_array_equal(x, values(back)[name], err_msg=name)
    config = json.loads((directory / "cfg.json").read_text())
    # Without num_latents, the width follows from the expansion factor; unknown fields are allowed.
    config |= {"num_latents": 0, "expansion_factor": F // D, "signed": False}
    (directory / "cfg.json").write_text(json.dumps(config))
    assert files.load(directory)[0].config == sae.config
    (directory / "cfg.json").write_text(json.dumps(config | {"activation": "jumprelu"}))
    with pytest.raises(ConfigError, match="activation 'jumprelu' is not one of: topk, groupmax"):
        files.load(directory)
    (directory / "cfg.json").write_text(json.dumps(config | {"signed": True}))
    with pytest.raises(ConfigError, match="signed latents, which may be below 0"):
        files.load(directory)
    with pytest.raises(ConfigError, match="sparsify has top-k"):
        sparsify.write(directory, dictionary("standard"))


def test_a_pickle_is_refused(tmp_path):
    (tmp_path / "ae.pt").write_bytes(pickle.dumps({"encoder.weight": 1}))
    for source in (tmp_path, tmp_path / "ae.pt"):
        with pytest.raises(ConfigError, match="ae.pt: a pickle, which can run code, is not opened"):
            files.load(source)
    np.savez(tmp_path / "params.npz", w_enc=np.array([{}], object))
    with pytest.raises(ConfigError, match="params.npz: a pickle, which can run code"):
        files.load(tmp_path / "params.npz")


def test_unknown_architectures_and_normalisers_are_refused(tmp_path):
    for name in ("batchtopk", "crosscoder"):
        standard(tmp_path, architecture=name, metadata={})
        with pytest.raises(ConfigError, match=f"architecture '{name}' is not one of: standard,"):
            files.load(tmp_path)
    standard(tmp_path, normalize_activations="batch_norm", metadata={})
    with pytest.raises(ConfigError, match="normalize_activations='batch_norm' is not one of"):
        files.load(tmp_path)
    standard(tmp_path, architecture="transcoder", metadata={})
    with pytest.raises(ConfigError, match="subtracts no decoder bias"):
        files.load(tmp_path)


def test_other_states_are_refused(tmp_path):
    saelens.write(tmp_path, dictionary("standard"), ORIGIN)
    for wanted in ({"hook": "mlp_out"}, {"layer": 3}, {"fingerprint": "9"}, {"model": "phi-2"}):
        name, value = next(iter(wanted.items()))
        with pytest.raises(ConfigError, match=f"trained with {name} .*, not {value!r}"):
            files.load(tmp_path, **wanted)
    with pytest.raises(ConfigError, match="normaliser 'expected_norm', not 'none'"):
        files.load(tmp_path, normaliser="none")
    with pytest.raises(ConfigError, match="layr is not one of"):
        files.load(tmp_path, layr=3)


def test_missing_and_extra_tensors_and_wrong_shapes_are_refused(tmp_path):
    raw = tensors()
    cases = (
        ({n: x for n, x in raw.items() if n != "b_enc"}, "tensor b_enc is missing"),
        (raw | {"threshold": normal(F)}, "unexpected tensor threshold"),
        (raw | {"W_dec": normal(D, F)}, r"w_dec has shape \(6, 24\), not \(24, 6\)"),
        (raw | {"b_dec": np.zeros(D, np.int32)}, "b_dec is of type I32, not of floats"),
    )
    for found, message in cases:
        write_saelens(tmp_path, {"architecture": "standard", "metadata": {}}, found)
        with pytest.raises(ConfigError, match=message):
            files.load(tmp_path)
    gated = {n: x for n, x in raw.items()} | {"b_mag": normal(F), "r_mag": normal(F)}
    write_saelens(tmp_path, {"architecture": "gated", "metadata": {}}, gated)
    with pytest.raises(ConfigError, match="unexpected tensor b_enc"):
        files.load(tmp_path)


def test_folders_without_a_dictionary_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="there is no such directory or file"):
        files.load(tmp_path / "none")
    with pytest.raises(ConfigError, match="it contains none of sae_weights.safetensors"):
        files.load(tmp_path)
    save_file(tensors(), tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match="the format is unknown"):
        files.load(tmp_path / "other.safetensors")
    (tmp_path / "sae_weights.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ConfigError, match="cfg.json is missing"):
        files.load(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps({"d_in": D, "d_sae": F}))
    with pytest.raises(ConfigError, match="not a complete safetensors file"):
        files.load(tmp_path / "cfg.json")


def test_names_of_hooks():
    for name, want in {
        "blocks.3.hook_resid_pre": ("resid_in", 3),
        "blocks.3.mlp.hook_post": ("mlp_post", 3),
        "blocks.3.ln2.hook_normalized": ("ln2.hook_normalized", 3),
        "model.layers.17.output": ("resid_out", 17),
        "model.layers.2.self_attn": ("attn_out", 2),
        "layers.5": ("resid_out", 5),
        "model.layers.4.pre_feedforward_layernorm.output": ("mlp_in", 4),
        "model.layers.4.post_feedforward_layernorm.output": ("mlp_out", 4),
        "blocks.3.hook_mlp_in": ("hook_mlp_in", 3),  # before or after the norm
        "blocks.3.mlp.hook_in": ("mlp_in", 3),
        "hook_embed": ("hook_embed", None),
        "": ("", None),
    }.items():
        assert parse_hook(name) == want
    assert lens_name("mlp_in", 3) == "blocks.3.mlp.hook_in"


def test_an_unclear_hook_is_decided_by_its_module_or_the_user(tmp_path):
    metadata = {"hook_name": "blocks.3.hook_mlp_in"}
    standard(tmp_path, metadata=metadata)
    assert files.load(tmp_path)[1].hook == "hook_mlp_in"
    assert files.load(tmp_path, hook="mlp_in")[1].hook == "mlp_in"
    with pytest.raises(ConfigError, match="trained with hook 'hook_mlp_in', not 'mlp_out'"):
        files.load(tmp_path, hook="mlp_out")
    module = "model.layers.3.pre_feedforward_layernorm.output"
    standard(tmp_path, metadata=metadata | {"hf_hook_name": module})
    assert files.load(tmp_path)[1].hook == "mlp_in"


def test_saelens_fields_that_would_change_the_states_are_checked(tmp_path):
    standard(tmp_path, reshape_activations="hook_q", metadata={})
    with pytest.raises(ConfigError, match="reshape_activations='hook_q' is not one of: none, hoo"):
        files.load(tmp_path)
    standard(tmp_path, metadata={"flaxae": {"layer": "3"}})
    with pytest.raises(ConfigError, match="metadata.flaxae: layer"):
        files.load(tmp_path)
    # A normaliser that a file has is known; without one, a factor may be folded into the weights.
    standard(tmp_path, normalize_activations="layer_norm", metadata={})
    with pytest.raises(ConfigError, match="normaliser 'layer_norm', not 'none'"):
        files.load(tmp_path, normaliser="none")
    standard(tmp_path, normalize_activations="none", metadata={})
    assert files.load(tmp_path, normaliser="expected_norm", factor=0.5)[1].factor == 0.5
    # Another module's name in transformers is kept.
    encoder = dataclasses.replace(ORIGIN, other={"hf_hook_name": "encoder.block.15"})
    saelens.write(tmp_path, dictionary("standard"), encoder)
    raw = json.loads((tmp_path / "cfg.json").read_text())
    assert raw["metadata"]["hf_hook_name"] == "encoder.block.15"
    assert files.load(tmp_path)[1] == encoder


def test_circuit_tracer_sets(tmp_path):
    """Its loader takes files by their names if there is no list, for all layers from 0 on."""
    sets = {i: dictionary("jumprelu_skip_transcoder", d_out=D) for i in (1, 0)}
    circuit_tracer.write(tmp_path, sets, model="a/b")
    raw = load_file(tmp_path / "layer_1.safetensors")
    assert raw["W_enc"].shape == raw["W_dec"].shape == (F, D) and raw["W_skip"].shape == (D, D)
    threshold = raw["activation_function.threshold"]
    np.testing.assert_array_equal(threshold, values(sets[1])["threshold"])
    assert (tmp_path / "config.yaml").read_text().splitlines() == [
        'model_name: "a/b"',
        "model_kind: transcoder_set",
        'feature_input_hook: "mlp.hook_in"',
        'feature_output_hook: "hook_mlp_out"',
    ]
    plain = dictionary("transcoder", d_out=D)
    for wrong, message in (
        ({0: dictionary("standard")}, "layer 0: not a transcoder"),
        ({1: plain, 3: plain}, r"every layer from 0 on, not for \[1, 3\]"),
        ({0: dictionary("transcoder")}, "layer 0: d_in=6 and d_out=5 must be equal"),
        ({0: plain, 1: sets[1]}, "layer 1 differs from layer 0"),
        ({0: plain, 1: dictionary("transcoder", d_out=D, d_sae=F + 1)}, "layer 1 differs from"),
    ):
        with pytest.raises(ConfigError, match=message):
            circuit_tracer.write(tmp_path / "wrong", wrong, model="m")
    assert not (tmp_path / "wrong").exists()  # all layers are checked before one is written
    circuit_tracer.write(tmp_path / "plain", {0: plain}, model="m")
    names = set(load_file(tmp_path / "plain" / "layer_0.safetensors"))
    assert names == {"W_enc", "W_dec", "b_enc", "b_dec"}
