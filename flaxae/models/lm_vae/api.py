"""`flaxae.LMVAE`: a trained LM-VAE, to encode, decode and explore with."""

from typing import Any

from flaxae.data.config import text_data
from flaxae.models.lm_vae.modeling import LMVAEModel
from flaxae.text_autoencoder.api import TextAutoencoder


class LMVAE(TextAutoencoder):
    """Texts as codes, and operations on codes.

    Examples:
        >>> import flaxae
        >>> vae = flaxae.LMVAE.from_pretrained("runs/lm_vae")  # doctest: +SKIP
        >>> z = vae.encode(["the film is good"])  # doctest: +SKIP
        >>> vae.interpolate("the film is good", "prices rose on Friday", steps=5)  # doctest: +SKIP

    All methods are those of `TextAutoencoder`. A saved model contains the language model too.
    """

    family = "LM-VAE"
    model_class = LMVAEModel

    def card(self) -> str:
        """Return the README of a saved model, without the section on its evaluation."""
        task: Any = self.config.task
        data, latent = text_data(self.config), task.latent
        return f"""---
library_name: flaxae
tags: [lm-vae, text-autoencoder]
---

# LM-VAE

Texts of up to {self.max_length} tokens as one code of {self.dim} numbers, and back. The language
model {self.config.pretrained} is frozen: its pooled states of layers {tuple(latent.layers)} give
the code, and with a LoRA it decodes {latent.memory_tokens} memory tokens of the code; {self.step}
steps on `{data.path or data.name}`.

```python
import flaxae

vae = flaxae.LMVAE.from_pretrained("DIRECTORY")
vae.decode(vae.encode(["a text"]))
```
"""
