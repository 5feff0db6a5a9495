"""A saved T5-VAE with texts: small, untrained, opened in seconds."""

LINES = [f"{word} = {i}" for i in range(10) for word in ("x", "y", "name", "import os", "self")]


def save_toy(folder):
    """Write the model, and its texts as `corpus.txt`, into a folder."""
    import flaxae
    from flaxae.data.tokenizer import train
    from tests.models.t5_vae.tiny import tiny_config, tiny_model

    config = tiny_config(data__max_length=16, data__vocab_size=280)
    config.freeze()
    model = tiny_model(config.task.make(config))
    vae = flaxae.T5VAE(model, config, train(LINES, 270), 7, lines=lambda: LINES)
    vae.save_pretrained(folder)
    (folder / "corpus.txt").write_text("\n".join(LINES))
