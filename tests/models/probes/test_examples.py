"""Data sets, splits, prompts and choice ids; each mistake in the data is one clear error."""

import json

import datasets
import numpy as np
import pyarrow as pa
import pytest

from flaxae.errors import ConfigError
from flaxae.models.probes.examples import SPLITS, Example, Shares, Splits, split_examples
from flaxae.models.probes.prompts import (
    Format,
    PromptStyle,
    Shot,
    choice_ids,
    encode_prompts,
    make_prompts,
)
from flaxae.models.probes.sources import FORMS, read_set
from tests.models.causal_lm.tiny import tokenizer
from tests.models.probes.tiny import example, questions


def test_facts_share_groups_between_affirmative_and_negated():
    capital = read_set("facts:capital", 10)
    kept = {name for x in capital for name in x.entities}
    city, negated = (read_set(f"facts:{k}", 60, without=kept) for k in ("city", "negated"))
    assert {x.group for x in city} == {x.group for x in negated} and len(city) == 120
    assert {x.polarity for x in city} == {1} and {x.polarity for x in negated} == {-1}
    with pytest.raises(ConfigError, match="of the OOD set facts:city is also in a set that is"):
        split_examples(read_set("facts:larger", 60), read_set("facts:city", 60))
    splits = split_examples([*city, *negated], capital)
    groups = {name: {x.group for x in splits[name]} for name in (*SPLITS, "ood")}
    names = list(groups)
    for i, first in enumerate(names):
        assert groups[first], first
        for second in names[i + 1 :]:
            assert not groups[first] & groups[second]
    assert {x.dataset for x in splits["ood"]} == {"facts:capital"}
    again = split_examples([*city, *negated], capital)
    assert again == splits != split_examples([*city, *negated], capital, seed=1)


def test_own_files_are_read(tmp_path):
    path = questions(tmp_path / "own.jsonl", 6)
    found = read_set(path)
    assert len(found) == 12 and found[1].label == 1 and found[1].group == "g0"
    table = tmp_path / "own.csv"
    table.write_text('prompt,choices,label\n"a, b?",no|yes,1\nc?,no|yes,0\n')
    first, second = read_set(str(table))
    assert (first.prompt, first.choices, first.label) == ("a, b?", ("no", "yes"), 1)
    assert first.group != second.group
    few, more = read_set(path, 3), read_set(path, 5)
    assert len(few) == 3 and more[:3] == few != found[:3] and few != read_set(path, 3, seed=1)


@pytest.mark.parametrize("name", FORMS)
def test_sets_of_the_hub_are_read_from_local_rows_of_the_same_form(tmp_path, name):
    columns = "title content sentence text question premise hypothesis passage".split()
    rows: dict[str, list] = {c: [f"{c} {i}" for i in range(4)] for c in columns}
    rows["label"] = [0, 1, -1, 0]
    about = FORMS[name][2]
    rows[about][3] = rows[about][0]
    path = tmp_path / "rows.parquet"
    datasets.Dataset.from_dict(rows).to_parquet(str(path))
    first, second, again = read_set(f"hf:{name}={path}")
    assert first.group == again.group  # the same passage, premise or sentence
    assert len({x.prompt for x in read_set(f"hf:{name}={path}", 2, seed=3)}) == 2
    assert (first.label, second.label) == (0, 1) and first.choices == FORMS[name][0]
    assert "0" in first.prompt and first.dataset == f"hf:{name}" and first.group != second.group


def test_sets_of_sae_probes_are_read(tmp_path):
    sets = {
        "41_truthqa_tf": [f'"Q. {i}\nA. x{i}",{"in" * (i % 2)}correct\n' for i in range(6)],
        "90_glue_qnli": [f'"q{i}? | s{i // 2}",{i % 2}\n' for i in range(6)],
        "44_phys_tf": [f'"goal {i}\n\nA.x\nB.y",{i % 2}\n' for i in range(6)],
    }
    for name, rows in sets.items():
        with pa.output_stream(tmp_path / f"{name}.csv.zst", compression="zstd") as file:
            file.write("".join(["prompt,target\n", *rows]).encode())
    found = read_set(f"sae:41_truthqa_tf={tmp_path}")
    assert [x.choices[x.label] for x in found[:3]] == ["Yes", "No", "Yes"]  # correct, incorrect
    assert len({x.group for x in found}) == 6 and found[0].dataset == "sae:41_truthqa_tf"
    found = read_set(f"sae:90_glue_qnli={tmp_path}")
    assert [x.choices[x.label] for x in found[:2]] == ["Yes", "No"]  # 0: it answers the question
    assert [x.group == found[0].group for x in found] == [True] * 2 + [False] * 4
    found = read_set(f"sae:44_phys_tf={tmp_path}", 4)
    assert all(x.choices[x.label] == "AB"[int(x.prompt[5]) % 2] for x in found)
    with pytest.raises(ConfigError, match="the known names are 36_sciq_tf"):
        read_set("sae:5_hist_fig_ismale")


def bad_file(tmp_path, **fields):
    row = {"prompt": "q?", "choices": ["no", "yes"], "label": 1} | fields
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps({k: v for k, v in row.items() if v is not None}) + "\n")
    return str(path)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"label": 2}, r"bad.jsonl, line 1: label=2 is not 0 or 1"),
        ({"label": "yes"}, "label='yes' is not 0 or 1"),
        ({"choices": ["no"]}, "are not two different texts"),
        ({"choices": ["no", "no"]}, "are not two different texts"),
        ({"choices": None}, "no choices; the fields are prompt, choices, label, group"),
        ({"polarity": 2}, "polarity=2 is not 1 or -1"),
    ],
)
def test_a_bad_row_is_one_error(tmp_path, fields, message):
    with pytest.raises(ConfigError, match=message):
        read_set(bad_file(tmp_path, **fields))


def test_unknown_sets_are_errors():
    for name, message in {
        "facts:rivers": "the kinds of facts are city",
        "hf:mnli": "the known names are amazon_polarity",
        "other": "'other' is not a data set",
        "missing.csv": "there is no such file",
        "facts:city": "set the number of facts",
    }.items():
        with pytest.raises(ConfigError, match=message):
            read_set(name)


def pairs(count, start=0, **fields):
    numbers = range(start, start + count)
    return [example(f"{i} {label}", label, f"g{i}", **fields) for i in numbers for label in (0, 1)]


def test_a_group_in_two_splits_is_an_error():
    examples = [*pairs(30), example("a", 0, "x", split="train"), example("b", 1, "x", split="dev")]
    with pytest.raises(ConfigError, match="group 'x' is in two splits, train and dev"):
        split_examples(examples)
    with pytest.raises(ConfigError, match="group 'g[0-9]+' is in two splits, .* and ood"):
        split_examples(pairs(30), pairs(12, dataset="o"))
    parts = {name: () for name in SPLITS} | {"train": (example(),), "test": (example(group="h"),)}
    with pytest.raises(ConfigError, match="prompt 'q.' is in two splits, train and test"):
        Splits(parts).check()
    other = [example("G00 1 ", 1, "o1", dataset="o"), *pairs(12, dataset="p", start=50)]
    trained = [example("g00  1", 1, "t1"), *pairs(30)]
    with pytest.raises(ConfigError, match="prompt 'g00 1' is in two splits, .* and ood"):
        split_examples(trained, [*other, example("x", 0, "o1", dataset="o")], shots=0)


def test_repetitions_are_counted_and_two_labels_an_error():
    splits = split_examples([*pairs(30), *pairs(2), example("0 1", 1, "g0", split="")])
    assert splits.repeated == 5 and sum(map(len, splits.parts.values())) == 60
    with pytest.raises(ConfigError, match="d: the prompt '0  1' has two labels"):
        split_examples([*pairs(30), example("0  1", 0, "g0")])
    other = Example("0 1", ("a", "b"), 0, "g0", "d")  # the same text with other choices
    assert other in {x for part in split_examples([*pairs(30), other]).parts.values() for x in part}


def test_one_class_only_is_an_error():
    with pytest.raises(ConfigError, match="1 groups with label 1 are needed"):
        split_examples([example(str(i), 0, f"g{i}") for i in range(30)])
    ones = [example(str(i), 1, f"h{i}", split="train") for i in range(30)]
    given = [example(f"s{i}", i % 2, f"s{i}", split="shots") for i in range(4)]
    with pytest.raises(ConfigError, match="split train has only label 1"):
        split_examples([*ones, *given])
    with pytest.raises(ConfigError, match="must be below 1"):
        Shares(0.5, 0.3, 0.2)


def test_formats_show_examples_before_the_question():
    shots = [Shot("2 is even?", "yes")]
    want = {
        Format.PHI: "Be brief.\nInstruct: 2 is even?\nOutput: yes\nInstruct: Q?\nOutput:",
        Format.ALPACA: (
            "Be brief.\n\n### Instruction:\n2 is even?\n\n### Response:\nyes\n\n"
            "### Instruction:\nQ?\n\n### Response:\n"
        ),
        Format.CHATML: (
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2 is even?<|im_end|>\n"
            "<|im_start|>assistant\nyes<|im_end|>\n<|im_start|>user\nQ?<|im_end|>\n"
            "<|im_start|>assistant\n"
        ),
        Format.LLAMA: (
            "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n2 is even? [/INST] yes </s><s>[INST] Q? [/INST]"
        ),
    }
    for kind, text in want.items():
        assert PromptStyle(kind, "Be brief.").text("Q?", shots, tokenizer()) == text
    chat = tokenizer()
    chat.template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    text = PromptStyle(Format.CHAT, "S").text("Q?", shots, chat)
    assert text == "<system>S<user>2 is even?<assistant>yes<user>Q?<assistant>"


def test_a_lie_prompt_has_flipped_answers_and_the_same_question():
    examples = pairs(40)
    splits = split_examples(examples)
    prompts = make_prompts(splits["train"], splits["shots"])
    truth, lie = prompts[0], prompts[1]
    assert truth.example is lie.example and (truth.lie, lie.lie) == (False, True)
    for a, b in zip(truth.shots, lie.shots, strict=True):
        assert a.prompt == b.prompt and {a.answer, b.answer} == {"no", "yes"}
    answers = {p.prompt: p.answer for p in truth.shots}
    assert all(
        answers[x.prompt] == x.choices[x.label] for x in splits["shots"] if x.prompt in answers
    )
    assert lie.target == 1 - truth.target == 1 - truth.example.label
    orders = {p.shots for p in prompts}
    assert len(orders) == 4  # two orders, each with right and with flipped answers
    with pytest.raises(ConfigError, match="give an even number"):
        make_prompts(splits["train"], splits["shots"], 3)


class Words:
    """A tokenizer with one id per word, a newline being one of its own."""

    ids = {" yes": 1, "yes": 2, " no": 3, "no": 3, "\n": 4, " yet": 1, "yet": 2}

    def encode(self, texts, special):
        assert not special
        return [[4, self.ids[x[1:]]] if x[0] == "\n" else [self.ids[x]] for x in texts]


def test_choice_ids_are_distinct_and_not_shared():
    assert choice_ids(("no", "yes"), Words()) == [[3], [1, 2]]  # 3 counts once, 4 is shared
    with pytest.raises(ConfigError, match="'yes' and 'yet' begin with the same tokens"):
        choice_ids(("yes", "yet"), Words())


def test_prompts_become_arrays_and_too_long_ones_an_error():
    splits = split_examples(pairs(40))
    prompts = make_prompts(splits["train"], splits["shots"])
    style = PromptStyle(Format.PHI)
    got = encode_prompts(prompts, style, tokenizer(), limit=200)
    text = style.text(prompts[1].example.prompt, prompts[1].shots, tokenizer())
    assert got.last[1] + 1 == len(text.encode()) and got.ids.shape[1] % 8 == 0
    assert got.lie.tolist()[:2] == [0, 1] and got.choice_mask.sum(-1).tolist()[0] == [1.0, 1.0]
    assert np.array_equal(got.ids[1, : got.last[1] + 1], tokenizer().encode([text])[0])
    with pytest.raises(ConfigError, match="tokens, and the limit is 20: shorten it"):
        encode_prompts(prompts, style, tokenizer(), limit=20)
