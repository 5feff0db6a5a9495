"""Encoding and greedy decoding of a T5-VAE with Hugging Face's `generate`.

Only benchmarks import this file; it needs the extra `parity`.
"""

import tempfile
from typing import Any

import numpy as np
import torch
from flax import nnx
from safetensors.torch import load_file
from torch import Tensor, nn
from torch_t5_vae import TorchT5VAE
from transformers.modeling_outputs import BaseModelOutput

from flaxae.lm.t5 import params as t5_params
from flaxae.tree import nest
from flaxae.weights import hf


class Injected(nn.Module):
    """The decoder's embedding of successive positions, with the code's injection."""

    def __init__(self, table: nn.Embedding, positions: Tensor):
        super().__init__()
        self.table, self.positions = table, positions
        self.added, self.index = positions.data, 0

    def start(self, added: Tensor) -> None:
        """Restart at the first position with a new injection, (B, T, D)."""
        self.added, self.index = added + self.positions, 0

    def forward(self, ids: Tensor) -> Tensor:
        """Embed the next ids."""
        part = slice(self.index, self.index + ids.shape[1])
        self.index += ids.shape[1]
        return self.table(ids) + self.added[:, part]


class TorchGenerate:
    """Encoding and decoding with the weights of one of our models, from ids to ids."""

    def __init__(self, ours: Any, t5: Any, attention: str):
        """Copy the weights.

        Args:
            ours: our model with a `flatten` bottleneck.
            t5: its T5Config with `vocab_size`.
            attention: "sdpa" or "eager".
        """
        latent, length = ours.latent, ours.max_length
        self.model = TorchT5VAE(t5, latent, length, t5.vocab_size, attention).eval()
        flat = {path: var[...] for path, var in nnx.to_flat_state(nnx.state(ours, nnx.Param))}
        params = nest(flat)
        with tempfile.TemporaryDirectory() as folder:
            hf.write(folder, t5_params.config_to_hf(t5), t5_params.table(t5), params["t5"])
            weights = load_file(f"{folder}/model.safetensors")
        missing, extra = self.model.t5.load_state_dict(weights, strict=False)
        assert not extra and all("embed_tokens" in n or "lm_head" in n for n in missing), missing
        for name, value in {
            "flatten.weight": params["flatten"]["kernel"].reshape(-1, latent.size).T,
            "memory.weight": params["memory"]["kernel"].T,
            "memory.bias": params["memory"]["bias"],
            "memory_norm.weight": params["memory_norm"]["scale"],
            "injection.weight": params["injection"]["kernel"].T,
            "injection.bias": params["injection"]["bias"],
            "encoder_positions": params["encoder_positions"]["table"],
            "decoder_positions": params["decoder_positions"]["table"],
        }.items():
            self.model.get_parameter(name).data.copy_(torch.from_numpy(np.array(value)))
        self.embedding = Injected(self.model.t5.shared, self.model.decoder_positions)
        self.model.t5.decoder.embed_tokens = self.embedding

    @torch.inference_mode()
    def encode(self, ids: np.ndarray) -> np.ndarray:
        """Return the codes of texts."""
        return self.model.encode(torch.from_numpy(ids.astype(np.int64))).numpy()

    @torch.inference_mode()
    def generate(self, z: np.ndarray, eos: int | None) -> np.ndarray:
        """Return greedy ids, up to max_length per row; with `eos` None, rows never end."""
        model, code = self.model, torch.from_numpy(z)
        memory = model.memory_norm(model.memory(code).view(len(z), model.tokens, -1))
        self.embedding.start(model.injection(code).view(len(z), model.max_length, -1))
        ids = model.t5.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=memory),
            do_sample=False,
            num_beams=1,
            use_cache=True,
            max_new_tokens=model.max_length,
            eos_token_id=eos,
            pad_token_id=0,
            decoder_start_token_id=0,
        )[:, 1:]
        return nn.functional.pad(ids, (0, model.max_length - ids.shape[1])).numpy()
