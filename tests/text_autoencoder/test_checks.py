"""Tests of messages about wrong input of autoencoders."""

import numpy as np
import pytest

from flaxae.errors import ConfigError
from flaxae.text_autoencoder import checks
from flaxae.text_autoencoder.pretrained import Pretrained


@pytest.mark.parametrize(
    "given, message",
    [("a", r"not a str: give \[text\]"), (np.array(["a"]), r"not a ndarray: .* list\(texts\)")],
)
def test_texts_in_another_container_name_the_way_out(given, message):
    with pytest.raises(ConfigError, match=message):
        checks.texts(given, tokenizer=None, limit=8, truncate=False)  # pyright: ignore


def test_the_repr_of_a_model_is_one_line_without_arrays():
    model = Pretrained.__new__(Pretrained)
    model.step, model.num_latents, model.dim, model.max_length = 7, 2, 4, 16
    model._source = None
    assert repr(model) == "Pretrained(step=7, num_latents=2, dim=4, max_length=16)"
