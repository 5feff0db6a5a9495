"""WordPiece tokenizers with our special ids."""

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from flaxae.data import wordpiece
from flaxae.data.pretrained import open_tokenizer
from flaxae.data.tokenizer import Tokenizer

# The order of the published Funnel's vocabulary: unused ids where ours are special.
FUNNEL = ["<pad>", "[unused0]", "[unused1]", "the", "cat", "##s", "sat", "<unk>", "<cls>", "<sep>"]
FUNNEL += ["<mask>", "<s>", "</s>", "on", "."]
BERT = ["[PAD]", "the", "cat", "[UNK]", "[CLS]", "[SEP]", "##s", "sat"]


@pytest.mark.parametrize("vocab", [FUNNEL, BERT], ids=["funnel", "bert"])
@pytest.mark.parametrize("kind", ["tokenizer.json", "vocab.txt"])
def test_texts_keep_their_tokens_under_our_special_ids(tmp_path, vocab, kind):
    ids = {token: i for i, token in enumerate(vocab)}
    unknown = "<unk>" if "<unk>" in ids else "[UNK]"
    original = tokenizers.Tokenizer(models.WordPiece(ids, unk_token=unknown))
    original.normalizer = normalizers.BertNormalizer(lowercase=True)  # pyright: ignore
    original.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # pyright: ignore
    original.decoder = decoders.WordPiece()  # pyright: ignore
    original.add_special_tokens([x for x in vocab if x[0] in "<["])
    if kind == "vocab.txt":
        (tmp_path / kind).write_text("\n".join(vocab) + "\n")
    else:
        original.save(str(tmp_path / kind))
    found, opened = wordpiece.find(tmp_path), open_tokenizer(str(tmp_path))
    assert found is not None and sorted(found.rows) == list(range(len(vocab)))
    assert opened.vocab_size == len(vocab)
    (row,) = opened.encode(["The cats sat"])
    assert found.rows[row].tolist() == original.encode("the cats sat", add_special_tokens=False).ids
    assert opened.decode([[*row, 1, 0]]) == ["the cats sat"]
    assert opened.encode(["dog"]) == [[2]]
    # The end of a text is the separator, and a text that contains its name is not cut.
    assert vocab[found.rows[1]] in ("<sep>", "[SEP]") and vocab[found.rows[0]] in ("<pad>", "[PAD]")
    assert 1 not in opened.encode(["a </s> b"])[0]
    opened.save(tmp_path / "again" / "tokenizer.json")
    assert wordpiece.find(tmp_path / "again") is None  # it has our ids already
    assert Tokenizer.load(tmp_path / "again" / "tokenizer.json").vocab == opened.vocab


def test_tokenizers_of_other_kinds_are_left_alone(tmp_path):
    assert wordpiece.find(tmp_path) is None
    plain = tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    plain.save(str(tmp_path / "tokenizer.json"))
    assert wordpiece.find(tmp_path) is None
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    np.testing.assert_equal(wordpiece.read(tmp_path / "vocab.txt"), None)
