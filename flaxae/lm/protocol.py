"""The type of a language model: what generation, collection of states and tasks require of it."""

from typing import Any, Protocol

from jaxtyping import Array, Float, Int

from flaxae.task import Context

# Keys and values of all layers, {"k", "v"} of (L, B, G, T, K), or a list with one dict per layer.
Cache = dict[str, Array] | list[dict[str, Array]]


class LanguageModelConfig(Protocol):
    """Fields of a language model's config that other code reads."""

    @property
    def num_layers(self) -> int:
        """Number of blocks."""
        ...

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding: ids are below it."""
        ...

    @property
    def max_length(self) -> int:
        """Positions that the model was trained on."""
        ...

    @property
    def eos_ids(self) -> tuple:
        """Token ids that end a text."""
        ...

    @property
    def scan_unroll(self) -> int:
        """Layers per iteration of the scan."""
        ...

    @property
    def remat(self) -> bool:
        """True if blocks are recomputed in the backward pass."""
        ...

    @property
    def remat_keep(self) -> str:
        """Intermediate results that a recomputed block keeps, see `nn.stack`."""
        ...


class LanguageModel(Protocol):
    """A decoder-only language model; `flaxae.lm.causal.CausalLM` is the implementation here."""

    @property
    def config(self) -> LanguageModelConfig:
        """Sizes, and the ids of special tokens."""
        ...

    @property
    def blocks(self) -> Any:
        """The layers as one module, its variables stacked on a leading layer axis."""
        ...

    @property
    def hooks(self) -> dict[str, str]:
        """Names of hidden states ("resid_out") -> the paths of their taps."""
        ...

    def states(
        self,
        ids: Int[Array, "B S"],
        ctx: Context,
        *,
        mask: Float[Array, "B S"] | None = None,
        segment_ids: Int[Array, "B S"] | None = None,
        positions: Int[Array, "B S"] | None = None,
    ) -> Float[Array, "B S D"]:
        """Return the final hidden states, which `logits` reads."""
        ...

    def init_cache(self, rows: int, length: int) -> dict[str, Array]:
        """Return empty keys and values of `length` positions."""
        ...

    def cached_states(
        self,
        ids: Int[Array, "B S"],
        ctx: Context,
        cache: Cache,
        index: Int[Array, ""] | int,
        *,
        positions: Int[Array, "B S"],
        keys: Int[Array, "B T"],
        blocks: list[Any] | None = None,
    ) -> tuple[Float[Array, "B S D"], Any]:
        """Return the final states of ids that follow those in a cache, and the new cache."""
        ...

    def logits(self, x: Float[Array, "... D"], ctx: Context) -> Float[Array, "... V"]:
        """Return the scores of the vocabulary, float32."""
        ...

    def loss(
        self,
        x: Float[Array, "B S D"],
        targets: Int[Array, "B S"],
        weights: Float[Array, "B S"],
        ctx: Context,
        chunks: int = 0,
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Return the summed cross entropy of the targets, and the number of correct best ids."""
        ...
