"""Generation by language models, whole and in parts, and the command."""

import json
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from flaxae import generate as command
from flaxae import peft
from flaxae.command import run_main
from flaxae.decoding import Sampling
from flaxae.errors import ConfigError
from flaxae.lm import generation
from flaxae.lm.chat import ChatTokenizer, open_tokenizer
from flaxae.lm.generation import Streamer, before_end, generate, left_padded
from flaxae.lm.loading import LoadedModel
from flaxae.weights import hf
from tests.tiny.language_models import KINDS, context, random_ids, tiny

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)


def naive(model, ids, count):
    """Generate greedily without a cache: the whole row again for every id."""
    call = jax.jit(lambda m, x, n: jnp.argmax(m(x, context())[0, n - 1]))
    ids, new = list(ids), []
    for _ in range(count):
        row = np.zeros((1, 32), np.int32)
        row[0, : len(ids)] = ids
        new.append(int(call(model, row, len(ids))))
        ids.append(new[-1])
        if new[-1] in model.config.eos_ids:
            break
    return new


def prompts(side):
    """Make three prompts of 6, 3 and 1 ids."""
    ids, mask = np.zeros((3, 6), np.int32), np.zeros((3, 6), np.float32)
    rows = [np.asarray(random_ids(1, n, n))[0] for n in (6, 3, 1)]
    for row, part in enumerate(rows):
        positions = slice(0, len(part)) if side == "right" else slice(6 - len(part), 6)
        ids[row, positions], mask[row, positions] = part, 1
    return rows, jnp.asarray(ids), jnp.asarray(mask)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_generation_equals_generation_without_a_cache(kind):
    model = tiny(kind, eos_ids=(49,))
    rows, *_ = prompts("left")
    want = [naive(model, row, 10) for row in rows]
    assert len({tuple(w) for w in want}) == 3
    for side, unroll in (("left", False), ("right", True)):
        _, ids, mask = prompts(side)
        run = jax.jit(lambda m, i, k, u=unroll: generate(m, i, k, context(), 10, unroll=u))
        have = np.asarray(run(model, ids, mask))
        for row, ids_of_row in enumerate(want):
            assert have[row, : len(ids_of_row)].tolist() == ids_of_row


def test_a_row_ends_at_any_end_id_and_the_others_continue():
    rows, ids, mask = prompts("left")
    new = [naive(tiny("llama", eos_ids=(49,)), row, 10) for row in rows]
    ends = (new[0][2], new[1][4])
    model = tiny("llama", eos_ids=ends)
    have = np.asarray(jax.jit(lambda m: generate(m, ids, mask, context(), 10))(model))
    for row in range(3):
        stops = [i for i, token in enumerate(new[row]) if token in ends]
        stop = stops[0] + 1 if stops else 10
        assert have[row, :stop].tolist() == new[row][:stop]
        assert set(have[row, stop:].tolist()) <= {ends[0]}


def test_left_padding_moves_rows_to_end_with_a_real_id():
    ids, mask = left_padded(
        jnp.asarray([[5, 6, 0], [0, 7, 8]]), jnp.asarray([[1, 1, 0], [0, 1, 1]])
    )
    assert ids.tolist() == [[0, 5, 6], [0, 7, 8]] and mask.tolist() == [[0, 1, 1], [0, 1, 1]]


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_streamed_parts_equal_the_whole(unroll, temperature, monkeypatch):
    monkeypatch.setattr(generation, "BUCKET", 16)
    model, sampling = tiny("llama", eos_ids=(49,)), Sampling(temperature=temperature, top_k=20)
    ids = np.asarray(random_ids(1, 5))
    whole = jax.jit(
        lambda m, s: generate(m, ids, jnp.ones((1, 5)), context(), 13, s, jax.random.key(7))
    )(model, sampling)
    streamer = Streamer(model, sampling, chunk=4, unroll=unroll)
    parts = list(streamer(ids[0].tolist(), 13, seed=7))
    whole = np.asarray(whole)[0].tolist()
    whole = whole[: whole.index(49)] if 49 in whole else whole
    assert sum(parts, []) == whole and all(len(part) <= 4 for part in parts)
    assert list(streamer(ids[0].tolist(), 13, seed=7)) == parts
    if temperature:
        assert list(streamer(ids[0].tolist(), 13, seed=8)) != parts


def test_streaming_compiles_once_for_prompts_of_one_bucket():
    streamer = Streamer(tiny("llama", eos_ids=(49,)), Sampling(), num_tokens=49)
    for length in (3, 9, 20):
        assert len(sum(streamer(list(range(3, 3 + length)), 9), [])) == 9
    assert streamer._advance._cache_size() == streamer._start._cache_size() == 1
    with pytest.raises(ConfigError, match="30 tokens and 180 new ones: .* positions for 200"):
        next(streamer([5] * 30, 180))


def test_ids_that_the_tokenizer_lacks_are_never_drawn():
    model = tiny("phi", eos_ids=(49,))
    sampling = Sampling(temperature=5.0)
    ids, mask = random_ids(16, 3), jnp.ones((16, 3))
    draw = jax.jit(
        lambda m, n: generate(m, ids, mask, context(), 12, sampling, num_tokens=n),
        static_argnums=1,
    )
    assert int(draw(model, 20).max()) < 20
    assert int(jnp.sum(draw(model, 0) >= 20)) > 0


def test_a_character_is_shown_when_all_its_bytes_have_arrived():
    class Bytes:
        def decode(self, ids):
            return bytes(ids).decode("utf-8", errors="replace")

    euro = list("€".encode())
    parts = [[97], euro[:1], euro[1:2], [*euro[2:], 98], [], euro[:2]]
    assert list(command.texts(Bytes(), parts)) == ["a", "€b", "\ufffd"]


def letters():
    """Make a tokenizer whose tokens are letters, with two special tokens."""
    vocab = {"<s>": 0, "</s>": 1} | {
        c: i + 2 for i, c in enumerate("abcdefghijklmnopqrstuvwxyz<>Ġ")
    }
    inner = tokenizers.Tokenizer(models.BPE(vocab, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<s>", "</s>"])
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return inner


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    tokenizer = ChatTokenizer(letters(), bos="<s>", eos="</s>", template=TEMPLATE)
    LoadedModel(tiny("llama", eos_ids=(1,)), tokenizer, ()).save(folder)
    return folder


def test_a_prompt_gets_the_chat_template_or_the_start_token(directory):
    tokenizer = open_tokenizer(directory)
    lm = LoadedModel(None, tokenizer, ())
    show = [
        tokenizer.decode(command.prompt_ids(lm, "hi", **kwargs), special=True)
        for kwargs in ({}, {"system": "x"}, {"chat": False})
    ]
    assert show == ["<user>hi<a>", "<system>x<user>hi<a>", "<s>hi"]
    with pytest.raises(ConfigError, match="needs a chat template"):
        command.prompt_ids(lm, "hi", chat=False, system="x")
    tokenizer.template = "{{ raise_exception('no system') }}"
    with pytest.raises(ConfigError, match="rejects the messages: no system"):
        command.prompt_ids(lm, "hi")
    tokenizer.template = "{{ ''.__class__.__mro__ }}"  # a template is data: it reaches no code
    with pytest.raises(ConfigError, match="unsafe|refuses"):
        command.prompt_ids(lm, "hi")


def test_a_tasks_own_prompt_gets_the_start_token_only_without_a_template(directory):
    tokenizer = open_tokenizer(directory)
    lm = LoadedModel(None, tokenizer, ())
    task = SimpleNamespace(prompt_text=lambda prompt, _, system: f"<user>{system}{prompt}<a>")

    def shown(**kwargs):
        return tokenizer.decode(command.prompt_ids(lm, "hi", task=task, **kwargs), special=True)

    assert [shown(), shown(system="x"), shown(chat=False)] == [
        "<user>hi<a>",
        "<user>xhi<a>",
        "<s>hi",
    ]
    tokenizer.template = ""
    assert shown() == "<s><user>hi<a>"


def test_templates_are_read_from_both_files(directory, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text((directory / name).read_text())
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings["chat_template"] = [{"name": "default", "template": "old"}]
    settings["bos_token"] = {"content": "<s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert (open_tokenizer(tmp_path).template, open_tokenizer(tmp_path).bos) == ("old", "<s>")
    (tmp_path / "chat_template.jinja").write_text("new")
    assert open_tokenizer(tmp_path).template == "new"
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match="its tokenizer cannot be read"):
        open_tokenizer(tmp_path)


def test_the_template_of_a_hub_id_is_fetched(directory, tmp_path, monkeypatch):
    def download(name, allow_patterns):
        for file in directory.iterdir():
            if any(file.match(pattern) for pattern in allow_patterns):
                shutil.copy(file, tmp_path)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert open_tokenizer(hf.resolve("owner/chat")).template == TEMPLATE


@pytest.fixture
def streamed(monkeypatch):
    """Replace the generator by one that returns chosen ids; return what it was called with."""
    calls = {"new": [5, 6]}

    class Streamer:
        def __init__(self, model, sampling, **options):
            calls.update(options, model=model)

        def __call__(self, ids, count, seed):
            calls["ids"] = ids
            yield calls["new"]

    monkeypatch.setattr(generation, "Streamer", Streamer)
    return calls


def test_a_tokenizer_whose_ids_have_gaps_uses_its_highest_id(streamed, tmp_path, capsys):
    vocab = {"a": 3, "b": 22, "</s>": 63}
    inner = tokenizers.Tokenizer(models.BPE(vocab, []))
    inner.decoder = decoders.ByteLevel()
    tokenizer = ChatTokenizer(inner, eos="</s>")
    assert tokenizer.vocab_size == 64
    assert tokenizer.decode([22, 40, 63, 64, -1]) == "b</s>"
    LoadedModel(tiny("llama", vocab_size=64, eos_ids=(63,)), tokenizer, ()).save(tmp_path)
    streamed["new"] = [22, 63]
    assert run(capsys, "--model", str(tmp_path), "ab") == (0, "b</s>\n", "")
    assert (streamed["num_tokens"], streamed["ids"]) == (64, [3, 22])


def test_ids_that_the_model_lacks_raise(directory):
    streamer = Streamer(tiny("llama"), Sampling())
    with pytest.raises(ConfigError, match="makes id 50, and the model's embedding has 50 rows"):
        next(streamer([3, 50], 4))


@pytest.mark.parametrize(
    ("config", "generation_config", "argv", "ends"),
    [
        ([1, 5, 6], None, [], (1, 5, 6, 7)),  # the template ends a turn in "f", 7
        ([1, 5, 7], None, [], (1, 5, 7)),
        (1, [7, 5], [], (7, 5)),
        (1, None, ["--no-chat"], (1,)),
        (None, None, ["--no-chat"], (1,)),  # the tokenizer's "</s>"
    ],
)
def test_generation_ends_at_all_ends_of_model_and_template(
    config, generation_config, argv, ends, streamed, directory, tmp_path, capsys
):
    folder = shutil.copytree(directory, tmp_path / "copy")
    inner = letters()
    inner.add_special_tokens(["f"])
    tokenizer = ChatTokenizer(inner, bos="<s>", eos="</s>", template=f"{TEMPLATE}f")
    tokenizer.save(folder)
    raw = json.loads((folder / "config.json").read_text()) | {"eos_token_id": config}
    (folder / "config.json").write_text(json.dumps(raw))
    if generation_config:
        text = json.dumps({"eos_token_id": generation_config})
        (folder / "generation_config.json").write_text(text)
    assert run(capsys, "--model", str(folder), *argv, "hi")[0] == 0
    assert streamed["ends"] == ends


@pytest.fixture(scope="module")
def adapter(directory, tmp_path_factory):
    model = peft.add_adapter(tiny("llama", eos_ids=(1,)), peft.LoRAConfig(r=2))
    folder = tmp_path_factory.mktemp("adapter")
    peft.save_adapter(model, folder, base=str(directory))
    return folder


def test_an_adapters_base_is_the_default_model(adapter, streamed, capsys):
    assert run(capsys, "--adapter", str(adapter), "hi") == (0, "de\n", "")
    assert peft.adapter_names(streamed["model"]) == ("default",)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("no/such/base", "trained on, 'no/such/base', cannot be opened (no/such/base: no such dir"),
        (None, "it does not name the model that it was trained on: give --model"),
        (3, "adapter_config.json: base_model_name_or_path=3 is an integer, not a string"),
    ],
)
def test_an_adapter_whose_base_is_unknown_asks_for_the_model(
    base, message, adapter, tmp_path, capsys
):
    folder = shutil.copytree(adapter, tmp_path / "copy")
    raw = json.loads((folder / "adapter_config.json").read_text())
    text = json.dumps(raw | {"base_model_name_or_path": base})
    (folder / "adapter_config.json").write_text(text)
    code, out, err = run(capsys, "--adapter", str(folder), "hi")
    assert (code, out, err.count("\n")) == (2, "", 1) and message in err
    assert "give --model" in err or base == 3


def run(capsys, *argv):
    code = run_main(command.main, ["generate", *argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_prints_the_same_text_for_the_same_seed(directory, capsys):
    argv = ["--model", str(directory), "--max-new-tokens", "12", "hello"]
    code, out, err = run(capsys, *argv)
    assert (code, err) == (0, "") and out.endswith("\n") and out.strip()
    assert run(capsys, *argv)[1] == out
    hot = [run(capsys, "--temperature=3", f"--seed={seed}", *argv)[1] for seed in (0, 0, 1)]
    assert hot[0] == hot[1] != hot[2]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--max-new-tokens=0", "x"], "--max-new-tokens=0 must be positive"),
        (["--max-new-tokens=many", "x"], "--max-new-tokens='many' is not of type int"),
        (["--seed=-1", "x"], "--seed=-1 must be in [0, 2**32)"),
        (["--seed=4294967296", "x"], "--seed=4294967296 must be in [0, 2**32)"),
        (["--temperature=nan", "x"], "--temperature=nan is not a finite number"),
        (["--temperature=1", "--top-k=-1", "x"], "--top-k=-1 must not be negative"),
        (["--top-p=0.5", "x"], "--top-p draws tokens: give --temperature too"),
        (["--temperature=1", "--top-p=2", "x"], "--top-p=2.0 must be in (0, 1]"),
        (["--model=no/where/at/all", "x"], "no such directory"),
        (["--adapter=nowhere", "x"], "nowhere"),
        (["--max-new-tokens=500", "x"], "positions for 200"),
    ],
)
def test_a_mistake_of_the_user_is_one_message(argv, message, directory, capsys):
    model = [] if any(a.startswith("--model") for a in argv) else [f"--model={directory}"]
    code, out, err = run(capsys, *model, *argv)
    assert code == 2 and out == "" and err.count("\n") == 1 and message in err


def test_a_text_is_cut_before_the_first_id_that_ends_it():
    assert before_end([5, 0, 7, 2, 0], (2, 7)) == [5, 0]
    assert before_end([5, 6], (2, 7)) == [5, 6] and before_end([2], (2,)) == []
