"""The T5-VAE's training step in PyTorch with Hugging Face's T5, as a user would write it.

Only benchmarks import this file; it needs the extra `parity`.
"""

import math
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn

SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def imq(x: Tensor, y: Tensor) -> Tensor:
    """Return the sum of inverse multiquadric kernels of seven scales, (n, m)."""
    dots = x @ y.T
    norms = x.square().sum(-1)[:, None] + y.square().sum(-1)[None, :]
    squared = (norms - 2 * dots).clamp_min(0)
    total = torch.zeros_like(squared)
    for scale in SCALES:
        c = 2.0 * x.shape[1] * scale
        total = total + c / (c + squared)
    return total


def mmd(z: Tensor, prior: Tensor) -> Tensor:
    """Return the unbiased estimate of MMD^2, like flaxae.losses.mmd."""
    n = z.shape[0]
    off = 1 - torch.eye(n)
    pairs = n * (n - 1)
    same = (imq(z, z) * off).sum() / pairs + (imq(prior, prior) * off).sum() / pairs
    return same - 2 * imq(z, prior).mean()


class TorchT5VAE(nn.Module):
    """T5 encoder, `flatten` bottleneck, memory tokens, per-position injection, T5 decoder."""

    def __init__(self, t5: Any, latent: Any, max_length: int, vocab_size: int, attention: str):
        """Make the modules from flaxae's T5Config and LatentConfig.

        Args:
            t5: the T5Config.
            latent: the LatentConfig.
            max_length: most tokens per text.
            vocab_size: size of the vocabulary.
            attention: "sdpa" or "eager".
        """
        super().__init__()
        kind = "gated-gelu" if t5.feed_forward.value == "gated-gelu" else "relu"
        config = transformers.T5Config(
            vocab_size=vocab_size,
            d_model=t5.d_model,
            d_kv=t5.d_kv,
            d_ff=t5.d_ff,
            num_layers=t5.num_layers,
            num_decoder_layers=t5.num_decoder_layers,
            num_heads=t5.num_heads,
            relative_attention_num_buckets=t5.relative_buckets,
            relative_attention_max_distance=t5.relative_max_distance,
            dropout_rate=t5.dropout,
            feed_forward_proj=kind,
            tie_word_embeddings=t5.tie_embeddings,
            use_cache=False,
            decoder_start_token_id=0,
            attn_implementation=attention,
        )
        width, self.max_length, self.tokens = t5.d_model, max_length, latent.memory_tokens
        self.t5 = transformers.T5ForConditionalGeneration(config)
        self.flatten = nn.Linear(max_length * width, latent.dim, bias=False)
        self.memory = nn.Linear(latent.dim, self.tokens * width)
        self.memory_norm = nn.RMSNorm(width, eps=1e-6)
        self.injection = nn.Linear(latent.dim, max_length * width)
        self.encoder_positions = nn.Parameter(torch.randn(max_length, width))
        self.decoder_positions = nn.Parameter(torch.randn(max_length, width))
        self.scale = width**-0.5 if t5.tie_embeddings else 1.0

    def encode(self, ids: Tensor) -> Tensor:
        """Return the codes of texts."""
        length = ids.shape[1]
        mask = ids != 0
        x = self.t5.shared(ids) + self.encoder_positions[:length]
        hidden = self.t5.encoder(inputs_embeds=x, attention_mask=mask).last_hidden_state
        hidden = (hidden * mask[:, :, None]).flatten(1)
        # A shorter bucket needs only the first columns, which is cheaper than padding.
        return hidden @ self.flatten.weight[:, : hidden.shape[1]].T

    def decode(self, z: Tensor, ids: Tensor) -> Tensor:
        """Return the logits of texts given their codes, with teacher forcing."""
        rows, length = ids.shape
        width = self.decoder_positions.shape[1]
        x = self.t5.shared(nn.functional.pad(ids[:, :-1], (1, 0)))
        part = slice(length * width)
        added = nn.functional.linear(z, self.injection.weight[part], self.injection.bias[part])
        x = x + self.decoder_positions[:length] + added.view(rows, length, width)
        memory = self.memory_norm(self.memory(z).view(rows, self.tokens, width))
        hidden = self.t5.decoder(
            inputs_embeds=x, encoder_hidden_states=memory, use_cache=False
        ).last_hidden_state
        return self.t5.lm_head(hidden * self.scale)

    def forward(self, buckets: list[Tensor], sigma: float, weight: float) -> tuple[Tensor, Tensor]:
        """Return the loss per token and the token accuracy."""
        z = torch.cat([self.encode(ids) for ids in buckets])
        z = z + sigma * torch.randn_like(z)
        distance = mmd(z, torch.randn_like(z))
        recon, tokens, hits, start = z.new_zeros(()), 0, 0, 0
        for ids in buckets:
            logits = self.decode(z[start : start + ids.shape[0]], ids).flatten(0, 1)
            start += ids.shape[0]
            targets, real = ids.flatten(), ids.flatten() != 0
            recon = recon + nn.functional.cross_entropy(
                logits, targets, ignore_index=0, reduction="sum"
            )
            with torch.no_grad():
                hits = hits + ((logits.argmax(-1) == targets) & real).sum()
            tokens = tokens + real.sum()
        return recon / tokens + weight * distance, hits / tokens


class TorchStep:
    """A training step: forward, backward, clipping and AdamW."""

    def __init__(
        self, config: Any, vocab_size: int, *, attention: str, fused: bool, compiled: bool = False
    ):
        """Make model, optimizer and schedule from flaxae's config of a T5-VAE."""
        torch.manual_seed(0)
        task = config.task
        self.sigma, self.weight = task.latent.noise_start, task.mmd_weight
        self.model = TorchT5VAE(task.t5, task.latent, config.data.max_length, vocab_size, attention)
        self.call = torch.compile(self.model) if compiled else self.model
        optim = config.optim
        tables = [p for n, p in self.model.named_parameters() if "shared" in n or "positions" in n]
        known = {id(p) for p in tables}
        rest = [p for p in self.model.parameters() if id(p) not in known]
        mult = optim.groups[0][1] if optim.groups else 1.0
        self.optimizer = torch.optim.AdamW(
            [{"params": rest}, {"params": tables, "lr": optim.lr * mult}],
            lr=optim.lr,
            betas=(optim.b1, optim.b2),
            eps=optim.eps,
            weight_decay=optim.weight_decay,
            fused=fused,
        )
        # Warm-up and cosine decay, like the config's schedule.
        warmup, steps = optim.warmup, config.steps

        def shape(step: int) -> float:
            progress = min(max((step - warmup) / max(steps - warmup, 1), 0.0), 1.0)
            return min(step / max(warmup, 1), 1.0) * 0.5 * (1 + math.cos(math.pi * progress))

        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, shape)
        self.clip = optim.clip_norm

    def num_parameters(self) -> int:
        """Return the number of parameters."""
        return sum(p.numel() for p in self.model.parameters())

    def put(self, batch: dict[str, Any]) -> list[Tensor]:
        """Return a loader's batch as tensors, one per bucket."""
        return [torch.from_numpy(batch[k]["ids"].astype(np.int64)) for k in sorted(batch)]

    def __call__(self, buckets: list[Tensor]) -> float:
        """Make one step and return its loss."""
        loss, _ = self.call(buckets, self.sigma, self.weight)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.schedule.step()
        return loss.item()
