"""Texts in rows of a fixed number of places that are decoded at once: ids, loss, sums, task."""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int

from flaxae.config import Config
from flaxae.config.ranges import Range
from flaxae.data.config import TextDataConfig, text_data
from flaxae.data.hub import TextData, text_sources
from flaxae.data.plan import planned_spec
from flaxae.data.pretrained import check_vocabulary
from flaxae.data.tokenizer import EOS, PAD, Tokenizer
from flaxae.decoding import Sampling, chooser, mask_unused
from flaxae.errors import require
from flaxae.losses import cross_entropy, linear_cross_entropy
from flaxae.nn.linear import Embedding
from flaxae.task import Context, Source, Sums, Task
from flaxae.text_autoencoder import vocabulary
from flaxae.text_autoencoder.batches import compare, rows_of
from flaxae.text_autoencoder.samples import sample_texts

Chunks = Annotated[int, Range(0, 1024, "[]")]  # each is a part of the program


def choose(
    logits: Float[Array, "B N V"],
    ctx: Context,
    num_tokens: int,
    sampling: Sampling | None = None,
) -> Int[Array, "B N"]:
    """Return the ids of decoded rows with EOS, then padding.

    Args:
        logits: scores of the vocabulary.
        ctx: context of the model.
        num_tokens: ids from this one on are never chosen.
        sampling: the choice of each id, independent of the other places; beams do not apply.
    """
    scores = mask_unused(logits, num_tokens)
    scores = scores.at[..., PAD].set(-jnp.inf)  # only what follows EOS is padding
    if sampling is None:
        ids = jnp.argmax(scores, axis=-1).astype(jnp.int32)
    else:
        pick, rows = chooser(sampling, ctx.at("choice").key), jnp.arange(len(scores))
        places = [pick(scores[:, i], jnp.int32(i), rows) for i in range(logits.shape[1])]
        ids = jnp.stack(places, axis=1)
    ends = (ids == EOS).astype(jnp.int32)
    ended = jnp.cumsum(ends, axis=1) > ends  # an EOS at an earlier place
    return jnp.where(ended, PAD, ids)


def head_loss(
    tokens: Embedding,
    states: Float[Array, "B N D"],
    ids: Int[Array, "B N"],
    weights: Float[Array, "B N"],
    ctx: Context,
    chunks: int = 0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return the weighted sums of -log p(id) in nats, and of places with the right id.

    Args:
        tokens: the embedding, which is also the output head.
        states: the decoder's last states.
        ids: the texts.
        weights: weight of each place; 0 for padding.
        ctx: context of the embedding.
        chunks: parts of the places for `linear_cross_entropy`; 0: all at once.
    """
    flat = rearrange(states, "B N D -> (B N) D")
    targets, weights = (rearrange(x, "B N -> (B N)") for x in (ids, weights))
    if not chunks:
        return cross_entropy(tokens.attend(flat, ctx), targets, weights, ctx)
    table = tokens.table[...]
    return linear_cross_entropy(flat, table, targets, weights, chunks, skip_empty=True)


def accuracy_sums(made: Int[Array, "B N"], ids: Int[Array, "B N"], rows: Float[Array, "B"]) -> Sums:
    """Return sums of exact matches and of right tokens: of all, the first, and each place.

    Args:
        made: decoded rows.
        ids: the texts.
        rows: 0 for rows that only pad a batch, otherwise 1.
    """
    exact, matches, longest = compare(made, [ids], ids.shape[1])
    real, same = jnp.where(ids != PAD, rows[:, None], 0.0), (made == ids).astype(jnp.float32)
    return {
        "exact_match": (jnp.sum(exact * rows), rows.sum()),
        "token_accuracy": (jnp.sum(matches * rows), jnp.sum(longest * rows)),
        "first_token_accuracy": (jnp.sum(same[:, 0] * rows), rows.sum()),
        "place_accuracy": (jnp.sum(same * real, axis=0), real.sum(0)),
    }


class PlacesTask(Task):
    """A task that trains on texts in rows of `max_length` places.

    Attributes:
        config: the run's config.
        options: its task section.
    """

    def __init__(self, config: Config):
        self.config = config
        self.options: Any = config.task
        self._kept_tokenizer: Tokenizer | None = None  # from an earlier start of the same run

    @property
    def data_config(self) -> TextDataConfig:
        """The data section."""
        return text_data(self.config)

    @property
    def max_length(self) -> int:
        """Places per row."""
        return self.data_config.max_length

    @property
    def vocab_size(self) -> int:
        """Rows of the token embedding."""
        return self.data_config.vocab_size

    @property
    def num_tokens(self) -> int:
        """Number of ids that may be generated."""
        return self.text.tokenizer.vocab_size

    @cached_property
    def text(self) -> TextData:
        """The corpus with its tokenizer and splits, loaded at first use."""
        # A kept tokenizer was checked before, and the files of the first parameters may be gone.
        new = self._kept_tokenizer is None
        if new:
            vocabulary.check_named(self.config)
        text = text_sources(self.data_config, self._kept_tokenizer, self.vocab_size)
        if self.config.pretrained:
            check_vocabulary(text.tokenizer, self.vocab_size, pretrained=True)
        if new:
            vocabulary.check_first(self.config, text.tokenizer, self.vocab_size)
        return text

    def data(self, split: str) -> Source:
        """Return the batches of a split."""
        return self.text.source(split)

    def data_notes(self) -> list[str]:
        """Return remarks on what the corpus and its splits contain."""
        return self.text.notes()

    def batch_spec(self) -> Any:
        """Return the shapes of a batch, without loading texts if the config determines them."""
        return planned_spec(self.data_config) or self.data("train").batch_spec

    def rows(self, batch: Any) -> tuple[Int[Array, "B N"], Float[Array, "B"]]:
        """Return the ids of a batch, padded to `max_length`, and the weights of its rows."""
        (ids,), rows = rows_of(batch)
        return jnp.pad(ids, ((0, 0), (0, self.max_length - ids.shape[1]))), rows

    def check_buckets(self) -> None:
        """Raise ConfigError unless all rows have one length."""
        buckets = getattr(self.config.data, "num_buckets", 1)
        require(
            buckets == 1,
            f"data.num_buckets={buckets}: the decoder fills all places of a row, so all rows have "
            "one length: set data.num_buckets=1",
        )

    def num_rows(self, batch_spec: Any) -> int:
        """Return the rows of a batch of these shapes."""
        return sum(leaf.shape[0] for leaf in jax.tree.leaves(batch_spec) if len(leaf.shape) == 2)

    def sample(self, model: Any, ctx: Context, n: int) -> dict[str, list[str]]:
        """Return texts for the log: reconstructions, samples and an interpolation."""
        return sample_texts(self, model, ctx, n)

    def save_assets(self, workdir: str) -> None:
        """Store the tokenizer in the workdir."""
        self.text.tokenizer.save(Path(workdir) / "tokenizer.json")

    def load_assets(self, workdir: str) -> None:
        """Read the tokenizer from the workdir."""
        self._kept_tokenizer = Tokenizer.load(Path(workdir) / "tokenizer.json")
