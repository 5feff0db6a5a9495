"""The PyTorch side of lm_adapters.py: HF transformers with peft."""

import copy
from typing import Any

import numpy as np
import peft
import torch
import transformers


def padded(examples: list[Any], left: bool = False) -> tuple[torch.Tensor, ...]:
    """Return ids, mask and labels of examples, padded to the longest."""
    width = max(len(e.prompt) + len(e.completion) for e in examples)
    ids = np.zeros((len(examples), width), np.int64)
    mask, labels = np.zeros_like(ids), np.full_like(ids, -100)
    for row, e in enumerate(examples):
        text = [*e.prompt, *e.completion]
        span = slice(width - len(text), width) if left else slice(len(text))
        ids[row, span], mask[row, span] = text, 1
        labels[row, span] = [-100] * len(e.prompt) + e.completion
    return tuple(torch.from_numpy(x) for x in (ids, mask, labels))


class TorchSide:
    """SmolLM2 (or another Llama) with a LoRA adapter of peft.

    Args:
        base: directory of the model.
        adapter: directory of the adapter.
        rows: examples per batch.
        lr: learning rate.
    """

    def __init__(self, base: str, adapter: str, rows: int, lr: float = 1e-3):
        model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        self.base, self.rows = model, rows
        self.model = peft.PeftModel.from_pretrained(model, adapter, is_trainable=True)
        mine = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(mine, lr=lr, weight_decay=0.0)

    def batches(self, examples: list[Any]) -> list[list[Any]]:
        """Return batches of examples, sorted by length to reduce padding."""
        order = sorted(examples, key=lambda e: len(e.prompt) + len(e.completion))
        return [order[i : i + self.rows] for i in range(0, len(order), self.rows)]

    def train(self, examples: list[Any]) -> list[float]:
        """Train one pass over the examples; return the summed loss of each batch."""
        self.model.train()
        out = []
        for part in self.batches(examples):
            ids, mask, labels = padded(part)
            loss = self.model(input_ids=ids, attention_mask=mask, labels=labels).loss
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            out.append(float(loss.detach()) * int((labels != -100).sum()))
        return out

    @torch.no_grad()
    def collect(self, examples: list[Any], share_prefix: bool = False) -> np.ndarray:
        """Collect the last token's states, (base and adapter, examples, layers, width)."""
        self.model.eval()
        if share_prefix:
            return self._collect_after_prefix(examples)
        sides = ([], [])
        for part in self.batches(examples):
            ids, mask, _ = padded(part, left=True)
            for out, off in zip(sides, (True, False), strict=True):
                context = self.model.disable_adapter() if off else torch.no_grad()
                with context:
                    states = self.model(
                        input_ids=ids,
                        attention_mask=mask,
                        output_hidden_states=True,
                        logits_to_keep=1,
                        use_cache=False,
                    ).hidden_states
                out.append(torch.stack([s[:, -1] for s in states[1:-1]], 1))
        return np.stack([torch.cat(out).numpy() for out in sides])

    def _collect_after_prefix(self, examples: list[Any]) -> np.ndarray:
        """Collect states, reading the common beginning of all examples only once."""
        texts = [[*e.prompt, *e.completion] for e in examples]
        ends = (i for i, ids in enumerate(zip(*texts, strict=False)) if len(set(ids)) > 1)
        skip = next(ends, min(map(len, texts)) - 1)
        order = sorted(texts, key=len)
        sides = ([], [])
        for out, off in zip(sides, (True, False), strict=True):
            with self.model.disable_adapter() if off else torch.no_grad():
                prefix = self.model(
                    input_ids=torch.tensor([texts[0][:skip]]), use_cache=True, logits_to_keep=1
                ).past_key_values
                for start in range(0, len(order), self.rows):
                    part = [text[skip:] for text in order[start : start + self.rows]]
                    width = max(map(len, part))
                    ids = torch.tensor([t + [0] * (width - len(t)) for t in part])  # right
                    cache = copy.deepcopy(prefix)
                    cache.batch_repeat_interleave(len(part))
                    states = self.model(
                        input_ids=ids,
                        past_key_values=cache,
                        output_hidden_states=True,
                        logits_to_keep=1,
                    ).hidden_states
                    last = torch.tensor([len(t) - 1 for t in part])
                    rows = torch.arange(len(part))
                    out.append(torch.stack([s[rows, last] for s in states[1:-1]], 1))
        return np.stack([torch.cat(out).numpy() for out in sides])

    @torch.no_grad()
    def generate(self, prompt: list[int], tokens: int) -> list[int]:
        """Return greedy tokens after a prompt, without an end of text."""
        self.model.eval()
        ids = torch.tensor([prompt])
        out = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            num_beams=1,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            pad_token_id=0,
        )
        return out[0, len(prompt) :].tolist()
