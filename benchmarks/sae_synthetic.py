"""Dictionaries of known features, trained by ours and by SAELens (needs `make test-sae-parity`).

    .venv-sae/bin/python benchmarks/sae_synthetic.py

States of 32 features are sums of some of 64 known directions: of our own generator
(`models/sae/synthetic.py`), or of `sae_lens.synthetic` with correlated features. Both sides start
from the same weights and take the same batches, steps, losses and hyperparameters; then each
dictionary is measured on the same held-out states: MCC and F1 against the known features (SAELens'
definitions), L0, FVU, share of dead latents. SAELens' dictionary is saved by it for inference and
opened by ours.

Runs of three seeds; a run with a row in the record is not trained again. It ends by printing the
table of all rows.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

COUNT, WIDTH, LATENTS, ACTIVE, ROWS, STEPS, LR = 64, 32, 64, 4, 256, 1000, 3e-3
DEAD_WINDOW, HELD_OUT, K = 100, 8192, 4
RECORD = ROOT / "configs" / "sae" / "synthetic.jsonl"
# name -> (weight of the sparsity loss, SAELens' architecture and options)
CASES = {
    "standard": (0.2, "standard", {"apply_b_dec_to_input": False, "l1_coefficient": 0.2}),
    "topk": (1.0, "topk", {"k": K}),
    "batch_topk": (1.0, "batchtopk", {"k": K}),
    "jumprelu": (
        0.1,
        "jumprelu",
        {
            "apply_b_dec_to_input": False,
            "l0_coefficient": 0.1,
            "jumprelu_sparsity_loss_mode": "quadratic",
            "target_l0": float(K),
        },
    ),
}
DATA = ("flaxae", "sae_lens")


def config_of(architecture: str, seed: int) -> Any:
    """Return our config of a run."""
    from torch_sae_lens import our_config

    fields = {
        "seed": seed,
        "steps": STEPS,
        "task.d_sae": LATENTS,
        "task.k": float(K),
        "task.dead_after": (DEAD_WINDOW + 1) * ROWS,
        "task.loss.sparsity": CASES[architecture][0],
        "optim.lr": LR,
    }
    if architecture == "jumprelu":
        fields["task.loss.target_l0"] = float(K)
    return our_config(architecture, fields)


def key_of(data: str, architecture: str, seed: int) -> str:
    """Return a run's key: everything that its numbers depend on, except for the versions."""
    from flaxae.config import config_hash

    # The config contains the sizes of dictionary and training, not those of data and measures.
    sizes = f"{COUNT}x{WIDTH}x{ACTIVE}x{ROWS}x{HELD_OUT}"
    return f"{data}/{sizes}/{config_hash(config_of(architecture, seed))}"


def make_data(name: str, seed: int) -> tuple[list[np.ndarray], Any, np.ndarray]:
    """Return the batches, held-out states and the directions of the features."""
    from flaxae.models.sae.synthetic import KnownFeatures, States

    source = KnownFeatures(COUNT, WIDTH, ACTIVE, seed)
    if name == "flaxae":
        batches = [source.batch(step, ROWS).x for step in range(STEPS)]
        return batches, source.batch(STEPS, HELD_OUT), source.directions
    import torch
    from sae_lens import synthetic

    torch.manual_seed(seed)
    features = synthetic.FeatureDictionary(COUNT, WIDTH, seed=seed)
    generator = synthetic.ActivationGenerator(
        COUNT,
        torch.from_numpy(source.frequencies.astype(np.float32)),
        std_firing_magnitudes=0.3,
        correlation_matrix=synthetic.generate_random_low_rank_correlation_matrix(
            COUNT, rank=8, correlation_scale=0.2, seed=seed
        ),
    )
    with torch.no_grad():
        batches = [features(generator.sample(ROWS)).numpy() for _ in range(STEPS)]
        present = generator.sample(HELD_OUT)
        states = States(features(present).numpy(), (present > 0).numpy())
    return batches, states, features.feature_vectors.detach().numpy()


def train_pair(architecture: str, seed: int, batches: list[np.ndarray]) -> dict[str, Any]:
    """Return both sides' dictionaries."""
    import torch_sae_lens

    from flaxae.models.sae.synthetic import Trainer
    from flaxae.sparse_autoencoder import files
    from flaxae.sparse_autoencoder.parameters import values

    config = config_of(architecture, seed)
    trainer = Trainer(config, WIDTH)
    _, theirs, options = CASES[architecture]
    sae = torch_sae_lens.training_sae(theirs, d_in=WIDTH, d_sae=LATENTS, **options)
    start = {n: x for n, x in values(trainer.dictionary()).items() if x.ndim}
    torch_sae_lens.set_parameters(sae, start)
    side = torch_sae_lens.trainer(
        sae, iter(batches), rows=ROWS, steps=STEPS, lr=LR, dead_window=DEAD_WINDOW
    )
    for batch in batches:
        trainer.step(batch)
        torch_sae_lens.step(side)
    with tempfile.TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        opened, _ = files.load(folder)
    return {"ours": trainer.dictionary(), "SAELens": opened}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the means over seeds, as Markdown, with the range of MCC and F1."""
    lines = ["| data | architecture | MCC, ours | SAELens | F1, ours | SAELens | L0 | FVU |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for data in DATA:
        for architecture in CASES:
            found = {
                side: [
                    r["numbers"] for r in rows if r["variant"] == f"{data}/{architecture}/{side}"
                ]
                for side in ("ours", "SAELens")
            }
            if not all(found.values()):
                continue
            cells = [data, architecture]
            for name in ("mcc", "f1"):
                for side in found.values():
                    x = np.asarray([numbers[name] for numbers in side])
                    cells.append(f"{x.mean():.3f} ({x.min():.3f}–{x.max():.3f})")
            for name in ("l0", "fvu"):
                both = [np.mean([n[name] for n in side]) for side in found.values()]
                cells.append(" / ".join(f"{x:.2f}" if name == "l0" else f"{x:.3f}" for x in both))
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Train the runs that the record lacks, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    try:
        import sae_lens
        import torch
    except ImportError:
        sys.exit("this needs SAELens: make test-sae-parity, and .venv-sae/bin/python")
    torch.set_num_threads(1)
    from flaxae.models.sae.synthetic import measures
    from flaxae.sweep.record import add_to_record, read_record, running_commit

    done = read_record(args.record)
    for data in DATA:
        for seed in range(args.seeds):
            made = None
            for architecture in CASES:
                key = key_of(data, architecture, seed)
                if all(f"{key}/{side}" in done for side in ("ours", "SAELens")):
                    continue
                made = made or make_data(data, seed)
                batches, states, directions = made
                for side, sae in train_pair(architecture, seed, batches).items():
                    row = {
                        "run": f"{key}/{side}",
                        "variant": f"{data}/{architecture}/{side}",
                        "seed": seed,
                        "commit": running_commit(),
                        "sae_lens": sae_lens.__version__,
                        "numbers": measures(sae, states, directions),
                    }
                    add_to_record(args.record, row)
                    done[row["run"]] = row
                    print(row["variant"], seed, row["numbers"], flush=True)
    print(table(list(done.values())))


if __name__ == "__main__":
    main()
