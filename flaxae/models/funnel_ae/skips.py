"""Skip connections from the encoder into the decoder, which end during training.

At the entry of decoder block k its states become (1 - w_k) h + w_k e_k, where e_k are the states of
encoder block k. The innermost block has none. w_k depends on the train step only, as a traced
scalar, so it never recompiles; an evaluation always decodes without skips.
"""

import dataclasses
import enum
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flaxae.config import Section
from flaxae.config.ranges import Entries, Range, Share, Whole, Wholes
from flaxae.errors import require
from flaxae.task import Context


class Skip(enum.Enum):
    """The kind of skip connections."""

    NONE = "none"
    LINEAR = "linear"  # w_k falls linearly from `start` at step `begin` to 0 at `finish_by[k]`
    SIGMOID = "sigmoid"  # w_k = start * sigmoid(bias[k] - slope[k] * step)
    RESIDUAL = "residual"  # h + W_k e_k with W_k = 0 at the start (H-Net), in training only


@dataclasses.dataclass(unsafe_hash=True)
class SkipConfig(Section):
    """Skip connections; tuples have one number per block but the innermost, outermost first."""

    section: ClassVar[str] = "task.skip"

    kind: Skip = Skip.NONE
    start: Share = 1.0  # weight at the start
    begin: Whole = 0  # LINEAR: step at which the weights begin to fall
    finish_by: Wholes = ()  # LINEAR: step from which a block's weight is 0
    bias: Annotated[tuple, Entries(float, Range())] = ()  # SIGMOID: b_k
    slope: Annotated[tuple, Entries(float, Range(0))] = ()  # SIGMOID: k_k per step

    def check(self, blocks: int) -> None:
        """Raise ConfigError unless the schedule fits a model of this number of blocks."""
        needed = {Skip.LINEAR: ("finish_by",), Skip.SIGMOID: ("bias", "slope")}
        for name in needed.get(self.kind, ()):
            values = getattr(self, name)
            require(
                len(values) == blocks - 1,
                f"task.skip.{name}={values} must have {blocks - 1} numbers, one per block but the "
                "innermost",
            )
        early = [step for step in self.finish_by if step <= self.begin]
        require(
            self.kind is not Skip.LINEAR or not early,
            f"task.skip.finish_by={self.finish_by}: a schedule ends before it begins "
            f"(task.skip.begin={self.begin})",
        )

    def weight(self, block: int, step: Int[Array, ""]) -> Float[Array, ""]:
        """Return w_k of a block at a train step."""
        now = step.astype(jnp.float32)
        if self.kind is Skip.LINEAR:
            end = self.finish_by[block]
            return self.start * jnp.clip((end - now) / (end - self.begin), 0.0, 1.0)
        if self.kind is Skip.SIGMOID:
            return self.start * jax.nn.sigmoid(self.bias[block] - self.slope[block] * now)
        return jnp.float32(0)

    def mix(
        self,
        states: Float[Array, "B S D"],
        encoder: Float[Array, "B S D"],
        block: int,
        ctx: Context,
    ) -> Float[Array, "B S D"]:
        """Return the states at the entry of a block: with its skip in training, else unchanged."""
        if not ctx.train or self.kind not in (Skip.LINEAR, Skip.SIGMOID):
            return states
        weight = self.weight(block, ctx.step).astype(states.dtype)
        return (1 - weight) * states + weight * encoder
