"""Log probabilities of whole choices, of one or several tokens each."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from jaxtyping import Array, Float, Int

from flaxae.lm.chat import ChatTokenizer
from flaxae.lm.protocol import LanguageModel
from flaxae.models.probes.prompts import Format, Prompt, PromptStyle
from flaxae.task import Context

_SPACED = (Format.PHI, Format.LLAMA)  # formats in which an answer follows a space


class ChoiceTokens(NamedTuple):
    """Tokens of the choices of prompts.

    Attributes:
        tokens: padded on the right, (N, 2, T).
        mask: 1 for tokens, (N, 2, T).
    """

    tokens: Int[Any, "N 2 T"]
    mask: Float[Any, "N 2 T"]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays by the names that they have in a batch."""
        return {"tokens": self.tokens, "token_mask": self.mask}

    def log_probs(
        self, model: LanguageModel, ids: Int[Array, "B S"], last: Int[Array, "B"], ctx: Context
    ) -> Float[Array, "B 2 T"]:
        """Return the log probability of each token after its prompt; that of padding is arbitrary.

        Args:
            model: the language model; its context must have no scales of single rows.
            ids: prompts, padded on the right.
            last: position of each prompt's last token.
            ctx: context of the model.
        """
        rows, choices, length = self.tokens.shape
        room = jnp.pad(ids, ((0, 0), (0, length)))
        both = repeat(room, "B S -> (B C) S", C=choices)
        ends = jnp.repeat(last, choices)  # (B C)
        tokens = rearrange(self.tokens, "B C T -> (B C) T")
        at = ends[:, None] + 1 + jnp.arange(length, dtype=jnp.int32)[None]  # (B C, T)
        row = jnp.arange(rows * choices, dtype=jnp.int32)[:, None]
        both = both.at[row, at].set(tokens)
        count = rearrange(self.mask, "B C T -> (B C) T").sum(-1).astype(jnp.int32)
        index = jnp.arange(both.shape[1], dtype=jnp.int32)[None]
        mask = (index <= (ends + count)[:, None]).astype(jnp.float32)
        states = model.states(both, ctx, mask=mask)
        before = jnp.take_along_axis(states, (at - 1)[:, :, None], axis=1)  # (B C, T, D)
        scores = jax.nn.log_softmax(model.logits(before, ctx), axis=-1)
        found = jnp.take_along_axis(scores, tokens[:, :, None], axis=2)[..., 0]
        return rearrange(found, "(B C) T -> B C T", C=choices)


def choice_tokens(
    prompts: Sequence[Prompt], style: PromptStyle, tokenizer: ChatTokenizer
) -> ChoiceTokens:
    """Return the tokens of the choices of prompts, as they follow a prompt of this style."""
    form = " {}" if style.format in _SPACED else "{}"
    known = {}
    for choices in {p.example.choices for p in prompts}:
        known[choices] = tokenizer.encode([form.format(c) for c in choices], special=False)
    length = max(len(row) for rows in known.values() for row in rows)
    tokens = np.zeros((len(prompts), 2, length), np.int32)
    mask = np.zeros((len(prompts), 2, length), np.float32)
    for i, prompt in enumerate(prompts):
        for j, row in enumerate(known[prompt.example.choices]):
            tokens[i, j, : len(row)], mask[i, j, : len(row)] = row, 1
    return ChoiceTokens(tokens, mask)
