"""A trained T5-VAE is made generative: noise on its codes rises until N(0, I) fills the space.

    python train.py --config=configs/t5_vae/python_lines.py:copy --workdir=runs/t5_vae_copy
    python train.py --config=configs/t5_vae/smooth_codes.py --workdir=runs/t5_vae_smooth

Starts from the parameters of runs/t5_vae_copy; `--config.resume_from=WORKDIR` names another run.
The sigma of the noise rises from .5 to .92 over 8,000 steps, and an MMD of weight 100 on code +
noise shrinks the codes to leave room for it. Measured once (seed 0, from the demo's checkpoint at
step 9,600), on 1,000 dev lines and, for each checkpoint, on 1,000 samples from N(0, I) and 1,000
from N(0, .64 I) by `sample(temperature=.8)`: the shares that are valid Python, and distinct.

    step  sigma  exact match  valid  distinct  valid at .8  distinct
    5500    .79         .916   .253      .999         .292      .980
    6000    .82         .891   .239      .999         .304      .981
    6500    .84         .822   .263     1.000         .323      .980
    7000    .87         .697   .262     1.000         .298      .979
    7500    .89         .489   .259     1.000         .299      .968

Of real dev lines .57 are valid. It took 25 minutes on 2 cores that did other work too. The latest
checkpoint is not in this table: to open one that is, copy the workdir and keep only the folder of
that checkpoint, such as `6000`, in `latest/`.
"""

from configs.t5_vae import python_lines
from flaxae.config import Config, copy_config

STEPS = 8000


def get_config() -> Config:
    """Return the config."""
    return copy_config(
        python_lines.get_config("copy"),
        {
            "resume_from": "runs/t5_vae_copy",
            "task.latent.noise_start": 0.5,
            "task.latent.noise_end": 0.92,
            "task.latent.noise_steps": STEPS,
            "task.mmd_weight": 100.0,
            "task.mmd_start": 0.1,
            "task.mmd_ramp": 1000,
            "optim.lr": 1e-3,
            "optim.warmup": 100,
            "optim.final_lr": 0.2,
            "steps": STEPS,
            "eval.every": STEPS // 8,
            "eval.sample_every": STEPS // 4,
            "save.every": 250,
            "save.keep_every": 500,
        },
    )
