"""The report on dictionaries: every architecture on the same states of SmolLM2-135M, layer 15.

    python -m flaxae.models.sae.report --workdir=runs/sae_report
    python train.py --config=configs/sae/report.py:jumprelu --workdir=runs/jumprelu

`make report-sae` runs the first command, `make report-sae QUICK=1` a small variant of it. A preset
is an architecture with a level, such as `topk,small`: "" (500 steps of 2,048 tokens: 1.02 M, of
which .89 M are distinct), `small` (.3 M) or `quick` (.03 M, 1,152 latents).

The count, for 1.02 M tokens, 576 features and 4,608 latents: the pass of the language model to
layer 15 takes 118 MFLOP per token, 112 TFLOP for the three splits. A dense product of a step has 2
x 2,048 x 576 x 4,608 FLOP, 5.4 TFLOP per run. Standard, tied_bias, jumprelu and layered have five
(27 TFLOP), gated seven (38), matryoshka about fourteen (74); top-k with AuxK has eight on an
accelerator. On a CPU top-k and batch top-k have one, and four products with the rows of active
latents, which take as long as .6 of a dense one: 9 TFLOP. The runs of all seeds are 450 TFLOP, 18
pilots of 200,000 tokens 110, up to six repetitions for the wanted L0 190, five lanes of the Pareto
figure 23, the cross entropies of all rows of the reported split (20,000 tokens, 17 runs and four
passes that they share, .28 GFLOP per token) 120: together 1,000 TFLOP, 1.4 hours at 200 GFLOP/s and
3.8 hours at 74, if products were all; about 40 programs are compiled, which adds ten to twenty
minutes. The cache has 1.1 GB per hook, six hooks: 6.4 GB.

Not measured; rows will be in report.jsonl in this folder.
"""

import dataclasses
from typing import Any

from configs.sae import smollm2_topk
from flaxae.config import Config, copy_config
from flaxae.errors import ConfigError

LAYER = 15
LAYERS = (3, 7, 11, LAYER)  # of layered: the pass of the language model need not go further
TAPS = (
    *(("resid_out", layer) for layer in LAYERS),
    ("mlp_in", LAYER),
    ("mlp_out", LAYER),
)
TARGET, TOLERANCE = 32.0, 2.0  # L0 of the sparse architectures
SPLITS = ("dev", "test_line")  # settings are chosen on the first, the second is reported
SPARSE = ("standard", "tied_bias", "topk", "batch_topk", "jumprelu", "gated", "matryoshka")
OTHERS = ("transcoder", "skip_transcoder", "layered")
TOKENS = (4, 8, 16, 32)  # codes per token
CODES = tuple(f"{name}_{count}" for name in ("vq", "fsq") for count in TOKENS)
SEEDS = {name: 3 for name in ("standard", "topk", "batch_topk", "jumprelu")}  # others: 1
# The field that changes L0, and d log L0 / d log field, if it is known. None: pilots find both.
TUNED: dict[str, tuple[str, float | None]] = {
    "standard": ("task.loss.sparsity", None),
    "tied_bias": ("task.loss.sparsity", None),
    "gated": ("task.loss.sparsity", None),
    "jumprelu": ("task.loss.target_l0", 1.0),
    "batch_topk": ("task.k", 1.0),
    "matryoshka": ("task.k", 1.0),
}
RANGE = (0.5, 50.0)  # first weights of the sparsity loss, the pilots' search
PARETO = (8.0, 16.0, 32.0, 64.0, 128.0)
SETS = (
    "36_sciq_tf",
    "41_truthqa_tf",
    "44_phys_tf",
    "54_cs_tf",
    "87_glue_cola",
    "90_glue_qnli",
    "92_glue_sst2",
    "96_spam_is",
)


@dataclasses.dataclass(frozen=True)
class Level:
    """The size of a report.

    Attributes:
        steps: steps per run.
        pilot: steps per pilot.
        pareto: steps of the lanes of the Pareto figure.
        tries: runs of seed 0 until L0 is in its range.
        seeds: most seeds.
        facts: facts on cities, each with a true and a false statement.
        sets: data sets of sae-probes.
        examples: their training and test texts.
        overrides: fields of the config.
        left_out: runs that are not made.
    """

    steps: int
    pilot: int
    pareto: int
    tries: int
    seeds: int
    facts: int
    sets: tuple[str, ...]
    examples: tuple[int, int]
    overrides: dict[str, Any]
    left_out: tuple[str, ...] = ()


LEVELS = {
    "": Level(500, 98, 250, 3, 3, 300, SETS, (240, 120), {}),
    "small": Level(146, 49, 73, 3, 3, 300, SETS, (240, 120), {"data.max_rows": 19 * 64}),
    "quick": Level(
        30,
        10,
        30,
        1,
        1,
        60,
        SETS[1:3],
        (80, 40),
        {
            "data.max_rows": 128,
            "data.batch_size": 1024,
            "task.d_sae": 1152,
            "task.dead_after": 10_000,
            "task.cross_entropy_rows": 4,
        },
        tuple(name for name in CODES if not name.endswith("_8")),
    ),
}


def get_config(preset: str = "topk") -> Config:
    """Return the config of an architecture with a level: "jumprelu", "fsq_8,quick"."""
    name, _, level = (preset or "topk").partition(",")
    if level not in LEVELS or name not in (*SPARSE, *OTHERS, *CODES):
        raise ConfigError(
            f"no preset {preset!r}; an architecture is one of {', '.join((*SPARSE, *OTHERS))}, "
            f"{', '.join(CODES)}; a level is one of {', '.join(x for x in LEVELS if x)}"
        )
    architecture, _, count = name.partition("_") if name in CODES else (name, "", "")
    config = smollm2_topk.get_config(architecture)
    size = LEVELS[level]
    fields: dict[str, Any] = {
        "log.every": 25,
        "log.tensorboard": False,
        "eval.every": 0,
        "eval.num_batches": 1,  # the report measures the whole split
        "task.cross_entropy_rows": 0,  # all
        **of_length(size.steps),
        **size.overrides,
    }
    if name == "layered":
        latents = fields.get("task.d_sae", smollm2_topk.D_SAE)
        fields |= {"task.layers": LAYERS, "task.d_sae": latents // len(LAYERS)}
    if name in CODES:
        fields |= {"task.layers": (), "task.tokens": int(count)}
    if name == "matryoshka" and "task.d_sae" in fields:
        latents = fields["task.d_sae"]
        fields["task.loss.widths"] = tuple(latents // part for part in (8, 4, 2, 1))
    return copy_config(config, fields)


def of_length(steps: int) -> dict[str, Any]:
    """Return the fields of a run of some steps: both warm-ups are 5 % of it."""
    return {
        "steps": steps,
        "optim.warmup": steps // 20,
        "task.loss.sparsity_warmup": steps // 20,
        "save.every": max(steps // 5, 1),
    }
