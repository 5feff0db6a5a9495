"""Settings of a T5-VAE's latent space at equal time, on lines of Python.

    python -m flaxae.models.t5_vae.space --workdir runs/t5_space
    python train.py --config=configs/t5_vae/space.py:sphere_256 --workdir=runs/sphere

`copy` is `python_lines.py:copy`. The others change its code, its noise, what the encoder reads or
its decoder; their noise rises over the first 60 % of the steps. The command measures the time of a
step of each setting, and gives each the steps that fill the same minutes: 8 at 200 GFLOP/s, about
`STEPS` of `copy`. Rows of finished runs are in space.jsonl, the steps in space_steps.json.

Not measured.
"""

from typing import Any

from configs.t5_vae import python_lines
from flaxae.config import Config, copy_config
from flaxae.errors import ConfigError

STEPS = 2400
RISE = 0.6  # share of the steps over which the noise of all settings but copy rises


def sphere(dim: int, sigma: float) -> dict[str, Any]:
    """Return the fields of a channel that preserves the second moment.

    Args:
        dim: numbers per code.
        sigma: standard deviation of the noise at the end.
    """
    return {
        "task.latent.channel": "preserving",
        "task.latent.dim": dim,
        "task.latent.noise_start": 0.1,
        "task.latent.noise_end": sigma,
    }


def shuffled(share: float, start: float = 0.0) -> dict[str, Any]:
    """Return the fields of inputs whose tokens are permuted, with the real line as the target.

    Args:
        share: share of the texts.
        start: share of the run after which they are permuted.
    """
    return {"task.noise.shuffle": 1.0, "task.noise.share": share, "task.noise.start": start}


def estimate(dim: int, share: float) -> dict[str, Any]:
    """Return the fields of a decoder that reads the noise and estimates of clean codes.

    Each text has a sigma of its own, up to .9. At .9 received codes are nearly N(0, I) and carry
    few bits, so that the decoder learns to write a text from a draw of N(0, I); at .1 it copies.

    Args:
        dim: numbers per code.
        share: share of the texts that are permuted in the second half of the run.
    """
    return {
        **sphere(dim, 0.9),
        **shuffled(share, start=0.5),
        "task.latent.noise_start": 0.3,
        "task.latent.noise_low": 0.1,
        "task.latent.reads_noise": True,
        "task.latent.reads_estimate": True,
    }


_BITS = {
    "task.latent.channel": "preserving",
    "task.latent.noise_start": 0.1,
    "task.latent.noise_end": 0.0,
}
_RESAMPLER = {
    "task.latent.bottleneck": "resampler",
    "task.latent.num_latents": 8,
    "task.latent.injection": False,
}
_DEEPER = {
    "task.t5.d_model": 144,
    "task.t5.d_ff": 576,
    "task.t5.d_kv": 36,
    "task.t5.num_decoder_layers": 5,
    "task.t5.scan_unroll": 5,
    # The queries' share of the lr is d_kv ** -0.5 (see python_lines), here 36 ** -0.5.
    "optim.groups": ((r"(embedding|positions)/table$", 4.0, 0.0), (r"/q/kernel$", 0.167, 0.0)),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "copy": {},
    # Noise: its strength, its form, the numbers it is spread over.
    "additive_strong": {"task.latent.noise_start": 0.3, "task.latent.noise_end": 0.85},
    "sphere_256": sphere(256, 0.6),
    "sphere_256_strong": sphere(256, 0.75),
    "sphere_128": sphere(128, 0.5),
    "sphere_64": sphere(64, 0.4),
    "bits_70": {**_BITS, "task.latent.target_bits": 70.0},  # a line holds about 65
    # Denoising: always, or after copying was learned.
    "shuffle_quarter": {**sphere(256, 0.6), **shuffled(0.25)},
    "shuffle_half": {**sphere(256, 0.6), **shuffled(0.5)},
    "late_quarter": {**sphere(256, 0.6), **shuffled(0.25, start=0.5)},
    "late_half": {**sphere(256, 0.6), **shuffled(0.5, start=0.5)},
    "late_mask": {**sphere(256, 0.6), **shuffled(0.5, start=0.5), "task.noise.mask": 0.1},
    # The decoder: the noise it reads, the words it reads, its shape.
    "reads_noise": {
        **sphere(256, 0.9),
        **shuffled(0.25, start=0.5),
        "task.latent.reads_noise": True,
        "task.latent.noise_low": 0.1,
    },
    "estimate_256": estimate(256, 0.25),
    "estimate_128": estimate(128, 0.25),
    "estimate_128_half": estimate(128, 0.5),
    "word_dropout": {**sphere(256, 0.6), "task.noise.word_dropout": 0.3},
    "deeper": {**sphere(256, 0.6), **_DEEPER},
    # A bottleneck that cannot copy position by position.
    "resampler": {**sphere(32, 0.6), **_RESAMPLER},
    "resampler_late": {**sphere(32, 0.6), **_RESAMPLER, **shuffled(0.25, start=0.5)},
}
# A small model, to try the command.
QUICK: dict[str, Any] = {
    "task.t5.d_model": 32,
    "task.t5.d_ff": 64,
    "task.t5.d_kv": 8,
    "task.t5.num_layers": 1,
    "task.t5.num_decoder_layers": 1,
    "task.t5.scan_unroll": 1,
    "task.latent.dim": 16,
    "data.vocab_size": 512,
    "data.max_lines": 10_000,
    "data.num_buckets": 1,
    "task.loss_chunks": 0,
    "data.max_length": 16,
    "optim.warmup": 10,
}


def get_config(preset: str = "copy", steps: int = STEPS) -> Config:
    """Return the config of a setting.

    Args:
        preset: a name in SETTINGS.
        steps: steps of the run, over which its schedules are spread.
    """
    if preset not in SETTINGS:
        raise ConfigError(f"no preset {preset!r}; there are {', '.join(SETTINGS)}")
    # One evaluation, at the end: time is for steps.
    ends = {"eval.every": 0, "eval.sample_every": 0, "save.every": max(steps // 4, 1)}
    return copy_config(python_lines.copy(steps), fields(preset, steps) | ends)


def fields(name: str, steps: int) -> dict[str, Any]:
    """Return what a setting changes in `python_lines.copy(steps)`.

    Args:
        name: a name in SETTINGS.
        steps: steps of the run.
    """
    rise = {} if name == "copy" else {"task.latent.noise_steps": round(RISE * steps)}
    return SETTINGS[name] | rise
