"""A trained T5-VAE made generative: noise on its codes rises until N(0, I) fills the space.

    python train.py --config=configs/t5_vae/python_lines.py --workdir=runs/t5_vae
    python train.py --config=configs/t5_vae/smooth_codes.py --workdir=runs/t5_vae_smooth

Goes on from the parameters of runs/t5_vae (`--config.resume_from=WORKDIR` names another run): the
noise's sigma rises from .15 to .95 over 4,000 steps, and the MMD of code + noise, of weight 100,
shrinks the code to leave room for it. Measured once (seed 0, on the demo's checkpoint at step
9,600; 1,000 dev lines, 1,000 samples of N(0, I), from the checkpoint of each step):

    step  sigma  exact match  samples valid  distinct
     500    .25         .963           .099      .999
    1000    .35         .962           .116      .999
    1500    .45         .958           .126      .999
    2500    .65         .958           .144      .989
    3000    .75         .936           .214      .963
    3500    .85         .854           .255      .976

At step 4,000 (sigma .95) exact match on all dev lines is .308. Real dev lines are valid .57.
"""

from configs.t5_vae import python_lines
from flaxae.config import Config, copy_config

STEPS = 4000


def get_config() -> Config:
    return copy_config(
        python_lines.get_config(),
        {
            "resume_from": "runs/t5_vae",
            "task.latent.noise_start": 0.15,
            "task.latent.noise_end": 0.95,
            "task.latent.noise_steps": STEPS,
            "task.mmd_weight": 100.0,
            "task.mmd_start": 0.1,
            "task.mmd_ramp": 1000,
            "optim.lr": 1e-3,
            "optim.warmup": 100,
            "optim.final_lr": 0.2,
            "steps": STEPS,
            "eval.every": STEPS // 4,
            "eval.sample_every": STEPS // 4,
            "save.every": 250,
            "save.keep_every": 500,
        },
    )
