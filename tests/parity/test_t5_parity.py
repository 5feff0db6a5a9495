"""Our T5 against transformers' (PyTorch): states, logits, generation, files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxae.lm.t5 import params as t5_params
from flaxae.lm.t5.generation import encode, generate, logits
from flaxae.nn.bias import relative_buckets
from flaxae.task import Context

pytestmark = pytest.mark.parity
SIZES = dict(
    vocab_size=64, d_model=24, d_kv=5, d_ff=40, num_layers=2, num_heads=3, decoder_start_token_id=0
)
V1_1 = dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False, num_decoder_layers=3)
# name -> (model, config fields, whether its head is untied, size of a shard)
KINDS = {
    "v1.0": ("T5", dict(feed_forward_proj="relu"), False, None),
    "v1.1": ("T5", V1_1, True, None),
    "byt5": ("T5", {**V1_1, "num_layers": 3, "num_decoder_layers": 1}, True, "20KB"),
    "mt5": ("MT5", dict(num_decoder_layers=1), True, None),
    "mt5, drawn tied": ("MT5", dict(num_decoder_layers=1), False, None),
    "ul2": ("T5", {**V1_1, "feed_forward_proj": "gated-silu"}, True, "20KB"),
}
IDS = np.asarray(
    [[5, 9, 13, 1, 0, 0, 0, 0], [7, 8, 21, 10, 11, 30, 40, 1], [60, 1, 0, 0, 0, 0, 0, 0]]
)
TARGETS = np.asarray([[9, 8, 7, 6, 1], [20, 30, 1, 0, 0], [33, 34, 35, 36, 1]])
LENGTH = 12


def draw(kind, directory):
    """Save a random checkpoint by transformers; return its model."""
    import torch
    import transformers

    name, fields, untied, shard = KINDS[kind]
    torch.manual_seed(2)
    config = getattr(transformers, f"{name}Config")(**(SIZES | fields))
    model = getattr(transformers, f"{name}ForConditionalGeneration")(config).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "norm" in parameter_name:
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif "shared" in parameter_name:
                parameter.mul_(0.1)
            else:  # otherwise the same id is the best everywhere
                parameter.mul_(3)
        if untied:
            head = torch.randn_like(model.shared.weight) * 0.3
            model.lm_head.weight = torch.nn.Parameter(head)
    model.save_pretrained(directory, **({"max_shard_size": shard} if shard else {}))
    return model


def theirs(model):
    """Return encoder states, logits and greedy ids of the model, as numpy."""
    import torch

    ids, mask = torch.tensor(IDS), torch.tensor(IDS != 0).long()
    with torch.no_grad():
        out = model(input_ids=ids, attention_mask=mask, labels=torch.tensor(TARGETS))
        # Without its cache: transformers 5.24 fails if the decoder has more layers.
        made = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=LENGTH,
            do_sample=False,
            num_beams=1,
            use_cache=False,
        )
    made = np.asarray(made)[:, 1:]  # without the start id
    made = np.pad(made, ((0, 0), (0, LENGTH - made.shape[1])))
    return out.encoder_last_hidden_state.numpy(), out.logits.numpy(), made


def ours(directory):
    """Return config and parameters of a directory, and the same outputs by our model."""
    config, params = t5_params.load(directory)
    ctx = Context(key=jax.random.key(0), step=jnp.int32(0))
    ids, mask = jnp.asarray(IDS, jnp.int32), jnp.asarray(IDS != 0, jnp.float32)

    @jax.jit
    def run(params):
        t5 = t5_params.build(config, params)
        states = encode(t5, ids, mask, ctx)
        scores = logits(t5, states, mask, jnp.asarray(TARGETS, jnp.int32), ctx)
        return states, scores, generate(t5, ids, mask, ctx, LENGTH)

    return config, params, *jax.device_get(run(params))


@pytest.mark.parametrize("kind", KINDS)
def test_states_logits_and_generation_equal_transformers(kind, tmp_path):
    import transformers

    model = draw(kind, tmp_path / "theirs")
    if KINDS[kind][3]:
        assert (tmp_path / "theirs" / "model.safetensors.index.json").exists()
    states, scores, made = theirs(model)
    config, params, our_states, our_scores, our_made = ours(tmp_path / "theirs")
    assert config.tie_embeddings is not KINDS[kind][2]
    real = IDS != 0
    np.testing.assert_allclose(our_states[real], states[real], atol=1e-4)
    np.testing.assert_allclose(our_scores, scores, atol=1e-4)
    np.testing.assert_array_equal(our_made, made)
    assert len(np.unique(made)) > 4, "too few different ids are generated for a comparison"

    mt5 = kind.startswith("mt5")
    t5_params.save(
        tmp_path / "ours", params, config, max_shard_size=20000, model_type="mt5" if mt5 else "t5"
    )
    again = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "ours").eval()
    assert type(again) is type(model)
    for here, there in zip(theirs(again), (states, scores, made), strict=True):
        np.testing.assert_array_equal(here, there)


def test_bfloat16_files_are_read_and_written(tmp_path):
    import torch
    import transformers

    model = draw("v1.1", tmp_path / "a").to(torch.bfloat16)
    model.save_pretrained(tmp_path / "b")
    config, params = t5_params.load(tmp_path / "b")
    kept = params["decoder"]["blocks"]["cross"]["q"]["kernel"]
    theirs_ = torch.stack([b.layer[1].EncDecAttention.q.weight for b in model.decoder.block])
    np.testing.assert_array_equal(kept.transpose(0, 2, 1), theirs_.detach().float().numpy())
    t5_params.save(tmp_path / "c", params, config, dtype=jnp.bfloat16)
    again = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "c")
    assert again.dtype == torch.bfloat16
    names = dict(again.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, names[name]), name


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("buckets, farthest", [(32, 128), (32, 64), (16, 20)])
def test_relative_buckets_equal_transformers(bidirectional, buckets, farthest):
    """Compare all distances, also on the edge of a bucket, which float32 rounds either way."""
    import torch
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = np.arange(-3000, 3001)[None]
    expected = T5Attention._relative_position_bucket(
        torch.tensor(distance), bidirectional, buckets, farthest
    )
    got = relative_buckets(distance, buckets, farthest, bidirectional)
    np.testing.assert_array_equal(got, expected.numpy())
