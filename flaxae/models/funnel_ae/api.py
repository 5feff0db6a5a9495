"""`flaxae.FunnelAE`: a trained Funnel AE, to encode, decode and explore with."""

from pathlib import Path
from typing import Any

from flax import nnx

from flaxae.config.locate import user_path
from flaxae.data.config import text_data
from flaxae.lm.funnel import params as funnel_params
from flaxae.models.funnel_ae.modeling import FunnelAEModel
from flaxae.text_autoencoder.api import TextAutoencoder


class FunnelAE(TextAutoencoder):
    """Texts as codes, and operations on codes.

    Examples:
        >>> import flaxae
        >>> ae = flaxae.FunnelAE.from_pretrained("runs/funnel")  # doctest: +SKIP
        >>> z = ae.encode(["import os", "return self.x"])
        >>> z.shape == (2, ae.num_latents, ae.dim)
        True
        >>> likely, drawn = ae.decode(z), ae.decode(z, temperature=0.7, seed=1)
        >>> len(ae.interpolate("import os", "return self.x", steps=5))
        5

    All methods are those of `TextAutoencoder`, and `save_encoder`. All places of a text are decoded
    at once, so options of decoding choose each id on its own, and beams do not apply.
    """

    family = "Funnel AE"
    model_class = FunnelAEModel
    autoregressive = False

    def save_encoder(self, directory: str | Path) -> None:
        """Write the encoder as a `FunnelBaseModel` that transformers opens.

        Its mean pooling counts padding and drops pairs that are half padding, so its states equal
        ours for texts without padding in a pair of real and padded tokens.

        Args:
            directory: created if it does not exist.

        Raises:
            ConfigError: if the directory is a run's workdir.
        """
        directory = user_path(directory)
        params: Any = nnx.to_pure_dict(nnx.state(self._model, nnx.Param))  # pyright: ignore
        parts = {name: params[name] for name in ("embeddings", "encoder")}
        funnel_params.save(directory, parts, self._model.config)
        self.tokenizer.save(directory / "tokenizer.json")

    def card(self) -> str:
        """Return the README of a saved model, without the section on its evaluation."""
        task: Any = self.config.task
        funnel, data = task.funnel, text_data(self.config)
        return f"""---
library_name: flaxae
tags: [funnel-ae, text-autoencoder]
---

# Funnel AE

Texts of up to {self.max_length} tokens as {self.num_latents} latent(s) of {self.dim} numbers,
and back. Funnel Transformer of width {funnel.d_model}, blocks of {funnel.block_sizes} layers;
{self.step} steps on `{data.path or data.name}`.

```python
import flaxae

model = flaxae.FunnelAE.from_pretrained("DIRECTORY")
model.decode(model.encode(["a text"]))
```
"""
