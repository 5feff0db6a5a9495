"""The task's data, loss and errors, without a run."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs.causal_lm import smollm2_lora
from flaxae import lm, peft
from flaxae.config import Config, TaskConfig, from_json, to_json
from flaxae.data.config import TextDataConfig
from flaxae.errors import ConfigError
from flaxae.lm.llama.modeling import Llama, LlamaConfig
from flaxae.models.causal_lm import data as data_lib
from flaxae.models.causal_lm import evaluation
from flaxae.models.causal_lm.task import AdapterOptions, CausalLMTask, Method
from flaxae.task import Context
from tests.lm.test_chat_templates import CHATML, LLAMA2, LLAMA3, special
from tests.models.causal_lm.tiny import tiny_config, tokenizer


def test_the_embedded_pairs_are_in_one_split_each():
    pairs = data_lib.read(TextDataConfig(name="signatures"))
    sizes = {split: len(p) for split, p in pairs.splits.items()}
    assert sizes["train"] > 2000 and sizes["test"] > 50 and sizes["dev"] > 25
    everything = [p for split in pairs.splits.values() for p in split]
    assert len(set(everything)) == len(everything)
    prompt, completion = pairs.splits["train"][0]
    assert (
        prompt.startswith(data_lib.ASK)
        and "def " in prompt
        and completion.endswith((".", "!", "?"))
    )
    assert data_lib.read(TextDataConfig(name="signatures")) == pairs
    other = data_lib.read(TextDataConfig(name="signatures", seed=1))
    assert other.splits["test"] != pairs.splits["test"]
    with pytest.raises(ConfigError, match="the embedded set is 'signatures'"):
        data_lib.read(TextDataConfig(name="typo"))


def test_pairs_are_read_from_a_jsonl_file(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"p{i}", "completion": "c"} for i in range(30)]
    path.write_text("\n".join(map(json.dumps, [*rows, rows[0]])) + "\n\n")
    splits = data_lib.read(TextDataConfig(path=str(path))).splits
    assert sorted(p.prompt for s in splits.values() for p in s) == sorted(
        f"p{i}" for i in range(30)
    )
    odd = {"prompt": "a\u2028b", "completion": "c\x85"}  # line ends for Python, not for JSON
    path.write_text("\r\n".join(json.dumps(r, ensure_ascii=False) for r in [*rows, odd]), "utf-8")
    splits = data_lib.read(TextDataConfig(path=str(path))).splits
    assert data_lib.Pair(*odd.values()) in [p for s in splits.values() for p in s]
    path.write_text('{"prompt": "a"}\n')
    with pytest.raises(ConfigError, match="line 1"):
        data_lib.read(TextDataConfig(path=str(path)))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"prompt": "p", "completion": "c"}'] * 9, "are 1 distinct pair, .*more different"),
        ([f'{{"prompt": "{i % 2}", "completion": "c"}}' for i in range(9)], "no pair is left for"),
        (['{"prompt": "p", "completion": "c"}'] * 2, "2 pairs are too few: give at least 3"),
        (['{"prompt": "p", "completion": ""}'], "line 1: .*completion must be a text that is not"),
        (['{"prompt": 5, "completion": ["c"]}'], "prompt and completion must be a text"),
        (["", '{"prompt": "p",'], "line 2: not JSON"),
        (["prompt,completion"], "line 1: not JSON"),
        (['{"prompt": "p", "completion": "\\ud83d"}'], "line 1: .*half of a surrogate pair"),
    ],
)
def test_pairs_that_cannot_be_used_are_errors(tmp_path, lines, message):
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=f"pairs.jsonl.*{message}"):
        data_lib.read(TextDataConfig(path=str(path)))


def test_fields_that_are_not_used_are_named(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"p{i}", "completion": "c", "system": "s"} for i in range(9)]
    path.write_text(json.dumps(rows))
    assert "not used: system" in data_lib.read(TextDataConfig(path=str(path))).notes[-1]


def test_a_split_without_a_fitting_example_is_named(tmp_path):
    config = tiny_config(tmp_path, data__max_length=3)
    config.freeze()
    with pytest.raises(ConfigError, match=r"split 'train' of .*none of \d+ examples fits data.max"):
        config.task.make(config).data("train")


def test_encoded_examples_have_the_prompt_and_an_ended_answer():
    examples = data_lib.encoded([data_lib.Pair("ask", "say")], tokenizer(), (2,))
    assert tokenizer().decode(examples[0].prompt) == "ask\n"
    assert examples[0].completion[-1] == 2 and tokenizer().decode(examples[0].completion) == "say"


@pytest.mark.parametrize(
    ("template", "ends", "end"),
    [
        (LLAMA3, (2, 262, 263), "<|eot_id|>"),
        (LLAMA3, (2,), "<|eot_id|>"),
        (CHATML, (2, 260), "<|im_end|>"),
        (LLAMA2, (2,), "</s>"),
    ],
)
def test_a_trained_conversation_has_the_ids_of_the_template_and_its_end_of_turn(
    template, ends, end
):
    made, pair = special(template), data_lib.Pair("ask", "say it")
    (example,) = data_lib.encoded([pair], made, ends)
    messages = [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "say it"}]
    whole = made.encode([made.chat(messages, answer=False)], special=False)[0]
    assert example.completion[-1] == made.id(end)
    ids = [*example.prompt, *example.completion]
    assert ids == whole[: len(ids)]
    assert made.decode(example.completion).strip() == "say it"


def test_answers_end_as_the_models_template_does(tmp_path):
    config = tiny_config(tmp_path)
    special(CHATML).save(config.pretrained)
    path = tmp_path / "base" / "config.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps(raw | {"eos_token_id": [2, 258]}))
    config.freeze()
    task = config.task.make(config)
    with pytest.raises(ConfigError, match="makes id 26., and the model's embedding has 260 rows"):
        _ = task.packed
    tokenizer = special(CHATML.replace("<|im_end|>", "<|im_start|>"))  # id 259
    task.__dict__["_description"] = task._description._replace(tokenizer=tokenizer)
    assert task.ends == (2, 258, 259)
    assert "answers end in '<|im_start|>' (id 259)" in task.describe()


def test_packed_examples_have_the_loss_and_gradient_of_single_ones(tmp_path):
    """Loss and gradient of packed rows equal those of the same examples in one row each."""
    sums, grads, rows = [], [], []
    for pack, share in ((True, True), (True, False), (False, True)):
        config = tiny_config(tmp_path, task__pack=pack, task__share_prefix=share)
        config.freeze()
        task = config.task.make(config)
        model = peft.add_adapter(lm.load(config.pretrained).model, task.adapter)
        graphdef, mine, rest = nnx.split(model, task.trainable, ...)
        mine = jax.tree.map(lambda x: x + 0.1, mine)  # B starts at 0, where A gets no gradient
        arrays = task.packed["train"].arrays
        rows.append(len(arrays["ids"]))
        # The last row only fills the batch.
        batch = {k: jnp.asarray(np.concatenate([v, v[:1]])) for k, v in arrays.items()}
        batch["weight"] = jnp.ones(rows[-1] + 1).at[-1].set(0)

        def total(mine, task=task, graphdef=graphdef, rest=rest, batch=batch):
            ctx = Context(jax.random.key(0), jnp.int32(0))
            loss = task.loss(nnx.merge(graphdef, mine, rest), batch, ctx)
            return loss.total, (loss.weight, loss.metrics["token_accuracy"][0])

        (value, others), grad = jax.jit(jax.value_and_grad(total, has_aux=True))(mine)
        sums.append((float(value), *map(float, others)))
        grads.append(jax.tree.leaves(grad))
        shared = task.packed["train"].shared
        assert shared == (len("say ") if pack and share else 0)
        assert ("is read once per row" in task.describe()[-1]) == (shared > 0)
    assert rows[0] < rows[1] < rows[2]
    for i in (0, 1):
        assert sums[i][1] == sums[2][1]
        np.testing.assert_allclose(sums[i], sums[2], rtol=1e-5)
        for a, b in zip(grads[i], grads[2], strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * float(jnp.abs(b).max()))


def test_only_the_adapters_parameters_are_trainable(tmp_path):
    config = tiny_config(tmp_path)
    config.freeze()
    task = config.task.make(config)
    model = nnx.eval_shape(lambda: task.init(nnx.Rngs(params=0)))
    _, mine, _ = nnx.split(model, task.trainable, ...)
    assert {path[-1] for path, _ in nnx.to_flat_state(mine)} == {"A", "B"}
    spec = task.batch_spec()
    assert task.flops(spec, {}) > 0
    assert task.data("dev").batch_spec == spec  # one compile serves both


@pytest.mark.parametrize("sizes", ["llama-tiny", "phi-tiny"])
def test_a_base_of_published_sizes_is_drawn_and_frozen_without_files(tmp_path, sizes):
    fields = {"pretrained": "", "task__sizes": sizes, "task__weights": "bfloat16"}
    config = tiny_config(tmp_path, **fields)
    config.freeze()
    task = config.task.make(config)
    spec = task.batch_spec()
    assert spec["where"].shape == spec["ids"].shape == (4, 48) and task.flops(spec, {}) > 0
    models = [task.init(nnx.Rngs(params=key, frozen=7)) for key in (0, 1)]
    parts = [nnx.split(model, task.trainable, ...)[1:] for model in models]
    assert {x.dtype for x in jax.tree.leaves(parts[0][1])} == {jnp.dtype("bfloat16")}
    assert all(map(np.array_equal, *(jax.tree.leaves(rest) for _, rest in parts)))
    assert not all(map(np.array_equal, *(jax.tree.leaves(mine) for mine, _ in parts)))
    batch = {k: jnp.ones(x.shape, x.dtype) for k, x in spec.items()}
    loss = task.loss(models[0], batch, Context(jax.random.key(0), jnp.int32(0)))
    assert float(loss.total / loss.weight) > 1  # the weights are random
    with pytest.raises(ConfigError, match="without a tokenizer: set pretrained"):
        task.data("train")


def test_unknown_sizes_raise(tmp_path):
    config = tiny_config(tmp_path, pretrained="", task__sizes="phi-9")
    with pytest.raises(ConfigError, match="'phi-9' is not a model whose sizes are known: smollm2"):
        _ = config.task.make(config).model_config
    with pytest.raises(ConfigError, match="set only one"):
        wrong = tiny_config(tmp_path, task__sizes="phi-tiny")
        wrong.task.make(wrong)


def test_options_that_do_not_go_together_raise(tmp_path):
    def made(**overrides):
        config = tiny_config(tmp_path, **overrides)
        config.freeze()
        return config.task.make(config)

    with pytest.raises(ConfigError, match="this model has no biases"):
        biases = made(task__adapter__method=Method.BIAS)
        nnx.eval_shape(lambda: biases.init(nnx.Rngs(params=0)))
    norms = made(task__adapter__method=Method.NORMS)
    assert peft.count_params(nnx.eval_shape(lambda: norms.init(nnx.Rngs(params=0)))) == 5 * 16
    with pytest.raises(ConfigError, match="pulls IA3's factors to 0"):
        made(task__adapter__method=Method.IA3, optim__weight_decay=0.1)
    with pytest.raises(ConfigError, match="pretrained: name a language model"):
        made(pretrained="")
    with pytest.raises(ConfigError, match="kept in float32"):
        made(task__adapter__method=Method.FULL, task__weights="bfloat16")


@pytest.mark.parametrize(
    ("method", "millions"),
    [("lora", 2.442), ("dora", 2.598), ("ia3", 0.0576), ("norms", 0.0351), ("full", 134.5)],
)
def test_each_config_trains_the_documented_number_of_parameters(method, millions):
    """Count with the sizes of SmolLM2-135M, so that its file is not needed."""
    config = smollm2_lora.get_config(method)
    assert to_json(from_json(to_json(config))) == to_json(config)
    sizes = LlamaConfig(
        d_model=576,
        d_ff=1536,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
        num_layers=30,
        vocab_size=49152,
        tie_embeddings=True,
    )
    options: AdapterOptions = config.task.adapter

    def build():
        model = Llama(sizes, rngs=nnx.Rngs(0))
        return peft.add_adapter(model, options.config()) if options.config() else model

    model = nnx.eval_shape(build)
    count = (
        peft.count_params(model)
        if options.config()
        else sum(x.size for x in jax.tree.leaves(nnx.state(model)))
    )
    assert count / 1e6 == pytest.approx(millions, rel=2e-3)


def test_the_task_needs_options_of_a_language_model():
    with pytest.raises(ConfigError, match="needs a LanguageModelTaskConfig, not a TaskConfig"):
        CausalLMTask(Config(task=TaskConfig()))


def test_a_report_names_splits_without_examples(tmp_path, capsys, monkeypatch):
    """One packed row has no interval, and no row has no loss."""
    row = {"trained": 1.0, "base": 3.0, "difference": -2.0, "tokens": 9.0}
    row["interval"] = [np.nan, np.nan]
    monkeypatch.setattr(evaluation.peft, "adapter_names", lambda model: [])
    monkeypatch.setattr(evaluation, "untrained", lambda task: None)
    monkeypatch.setattr(evaluation, "losses", lambda *_: row)
    packed = {"dev": SimpleNamespace(arrays={"ids": np.zeros((1, 8))})}
    pairs = SimpleNamespace(splits={})
    task = SimpleNamespace(packed=packed, pairs=pairs, describe=lambda: ["data"])
    loaded = SimpleNamespace(task=task, model=nnx.Module(), step=3)
    found = evaluation.report(loaded, tmp_path)
    assert found["test"] == "n/a: the split has no examples" and found["answers"] == []
    printed = capsys.readouterr().out
    assert "-2.000\n" in printed and "nan" not in printed and found["test"] in printed
