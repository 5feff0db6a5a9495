"""The SAELens side of sae_step.py, sae_synthetic.py and the parity tests."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import sae_lens
import torch
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.saes.sae import TrainingSAE
from sae_lens.training.sae_trainer import SAETrainer

from flaxae.config import flags
from flaxae.config.serialize import set_field
from flaxae.models.sae.config import Scaling
from flaxae.models.sae.options import Auxiliary, Gate
from flaxae.sparse_autoencoder.saelens import NAMES

ROOT = Path(__file__).resolve().parents[1]


def training_sae(architecture: str, **fields: Any) -> Any:
    """Return a dictionary of SAELens' training registry.

    Args:
        architecture: its name there.
        **fields: its config, such as d_in and d_sae.
    """
    return TrainingSAE.from_dict({"architecture": architecture, **fields})


def our_config(architecture: str, fields: Mapping[str, Any]) -> Any:
    """Return our config with SAELens' losses, a constant learning rate and no normalisation.

    Args:
        architecture: a preset of configs/sae/smollm2_topk.py.
        fields: further fields and their values.
    """
    config: Any = flags.load_config(str(ROOT / f"configs/sae/smollm2_topk.py:{architecture}"))
    common = {"task.loss.sparsity_warmup": 0, "optim.warmup": 0, "optim.schedule": "constant"}
    for name, value in (common | dict(fields)).items():
        set_field(config, name, value)
    config.task.scaling, config.task.loss.auxiliary = Scaling.NONE, Auxiliary.SAELENS
    if architecture == "gated":
        config.task.loss.gate = Gate.SAELENS
    config.freeze()
    return config


def parameters(sae: Any) -> dict[str, torch.nn.Parameter]:
    """Return the parameters of a dictionary by our names."""
    named = dict(sae.named_parameters())
    gate = {"b_gate": "b_enc"} if "b_gate" in named else {}
    return {(NAMES | gate)[name]: x for name, x in named.items()}


def set_parameters(sae: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Copy arrays by our names into a dictionary; the skip connection is theirs transposed."""
    own = parameters(sae)
    with torch.no_grad():
        for name, x in arrays.items():
            x = x.T if name == "w_skip" else x
            own[name].copy_(torch.from_numpy(np.array(x, np.float32)))


def trainer(
    sae: Any, batches: Iterator[np.ndarray], *, rows: int, steps: int, lr: float, dead_window: int
) -> SAETrainer[Any, Any]:
    """Return SAELens' trainer, which logs nothing.

    Args:
        sae: a dictionary of the training registry.
        batches: the states of each step.
        rows: states per step.
        steps: number of steps.
        lr: the constant learning rate.
        dead_window: steps without activity after which a latent counts as dead.
    """
    config = SAETrainerConfig(
        n_checkpoints=0,
        checkpoint_path=None,
        save_final_checkpoint=False,
        total_training_samples=rows * steps,
        device="cpu",
        autocast=False,
        lr=lr,
        lr_end=lr,
        lr_scheduler_name="constant",
        lr_warm_up_steps=0,
        lr_decay_steps=0,
        adam_beta1=0.9,
        adam_beta2=0.999,
        n_restart_cycles=1,
        train_batch_size_samples=rows,
        dead_feature_window=dead_window,
        feature_sampling_window=10**9,
        logger=LoggingConfig(log_to_wandb=False),
        n_batches_for_norm_estimate=1,
    )
    return SAETrainer(config, sae, data_provider=map(torch.from_numpy, batches))


def step(side: SAETrainer[Any, Any]) -> Any:
    """Run one step as `SAETrainer.fit` does."""
    out = side.step(next(side.data_provider))
    side.n_training_steps += 1
    return out


def save_inference(sae: Any, directory: Path) -> Any:
    """Write a dictionary as SAELens does for inference, and return what it opens there."""
    sae.save_inference_model(directory)
    return sae_lens.SAE.load_from_disk(directory)
