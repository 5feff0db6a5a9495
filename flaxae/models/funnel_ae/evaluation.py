"""The evaluation of a trained Funnel AE."""

from typing import Any

from flaxae.text_autoencoder.codec import Codec
from flaxae.text_autoencoder.reconstruction import reconstruction
from flaxae.text_autoencoder.samples import held_out


def report(loaded: Any, outdir: str) -> dict[str, Any]:
    """Measure the reconstruction of each held-out split."""
    text = loaded.task.text
    codec, out = Codec(loaded.model, text.tokenizer, loaded.step), {}
    for name in (n for n in text.splits if n != "train"):
        lines, _ = held_out(text, name)
        if lines:
            out[name] = reconstruction(codec, lines, codec.encode(lines), python=False)
    return {"step": loaded.step, "splits": out}
