"""`flaxae.T5VAE`: a trained T5-VAE, to encode, decode and explore with."""

from typing import Any

from flaxae.config import Config, copy_config
from flaxae.data.config import text_data
from flaxae.models.t5_vae.modeling import T5VAEModel
from flaxae.text_autoencoder.api import TextAutoencoder


class T5VAE(TextAutoencoder):
    """Texts as codes, and operations on codes.

    Examples:
        >>> import flaxae
        >>> vae = flaxae.T5VAE.from_pretrained("runs/t5_vae")  # doctest: +SKIP
        >>> z = vae.encode(["import os", "return self.x"])
        >>> z.shape == (2, vae.num_latents, vae.dim)
        True
        >>> likely, drawn = vae.decode(z, beams=4), vae.decode(z, temperature=0.7, seed=1)
        >>> len(vae.interpolate("import os", "return self.x", steps=5))
        5

    All methods are those of `TextAutoencoder`.
    """

    family = "T5-VAE"
    model_class = T5VAEModel

    def saved_config(self) -> Config:
        """Return the run's config; the noise that `latent.target_bits` has found is a constant."""
        latent = self.config.task.latent  # pyright: ignore
        if not latent.target_bits:
            return self.config
        # The float32 of the controller's lower limit may be just below noise_low.
        found = max(float(self._model.capacity.sigma[...]), latent.noise_low)
        fields = {"target_bits": 0.0, "noise_end": found}
        return copy_config(self.config, {f"task.latent.{k}": v for k, v in fields.items()})

    def card(self) -> str:
        """Return the README of a saved model, without the section on its evaluation."""
        task: Any = self.config.task
        t5, data = task.t5, text_data(self.config)
        return f"""---
library_name: flaxae
tags: [t5-vae, text-autoencoder]
---

# T5-VAE

Texts of up to {self.max_length} tokens as {self.num_latents} latent(s) of {self.dim} numbers,
and back. T5 of width {t5.d_model}, {t5.num_layers} + {t5.num_decoder_layers} layers; {self.step}
steps on `{data.path or data.name}`.

```python
import flaxae

vae = flaxae.T5VAE.from_pretrained("DIRECTORY")
vae.decode(vae.encode(["a text"]))
```
"""
