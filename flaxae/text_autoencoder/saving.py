"""A trained autoencoder as one directory: JSON, safetensors and a tokenizer, without pickles.

config.json, model.safetensors, tokenizer.json, statistics.safetensors, priors/KIND/, README.md, and
report.json if the model was evaluated.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from flax import nnx
from safetensors import SafetensorError

from flaxae.config import Config, from_json, to_json
from flaxae.config.serialize import ConfigClass
from flaxae.data.tokenizer import Tokenizer
from flaxae.errors import ConfigError, require
from flaxae.foreign_json import check_fields
from flaxae.peft.layers import AdapterConstant, AdapterParam
from flaxae.pointers import require_content
from flaxae.text_autoencoder import latent_stats
from flaxae.text_autoencoder.evaluation.headline import headline
from flaxae.text_autoencoder.latent_stats import Statistics
from flaxae.weights import hf, module

TOKENIZER, STATISTICS = "tokenizer.json", "statistics.safetensors"
REPORT, README = "report.json", "README.md"
SAVED = "saved"  # a section of config.json that only saved models have, not runs
# Only training reads other variables than parameters and those of adapters.
_UNSAVED = nnx.Not(nnx.Any(nnx.Param, AdapterParam, AdapterConstant))


class Saved(NamedTuple):
    """The content of a directory."""

    model: Any
    config: Config
    tokenizer: Tokenizer
    step: int
    statistics: Statistics


def write(
    directory: Path,
    model: nnx.Module,
    config: Config,
    tokenizer: Tokenizer,
    step: int,
    statistics: Statistics,
) -> None:
    """Write everything but priors, README and report.

    Args:
        directory: created if it does not exist.
        model: the trained module; only its parameters are saved.
        config: the run's config.
        tokenizer: the model's tokenizer.
        step: train step of the parameters.
        statistics: statistics of the model's codes.

    Raises:
        ConfigError: if the directory is a file or a run's workdir, or cannot be written.
    """
    about = {"step": step, "vocab_size": tokenizer.vocab_size, "tokenizer": tokenizer.fingerprint}
    module.write(directory, to_json(config) | {SAVED: about}, model, _UNSAVED)
    try:
        tokenizer.save(str(directory / TOKENIZER))
        latent_stats.write(directory / STATISTICS, statistics)
    except (OSError, SafetensorError) as e:
        raise ConfigError(f"cannot write into {directory}: {e}") from None


def read(directory: Path, family: str, config_class: ConfigClass | None = None) -> Saved:
    """Read a directory strictly: nothing missing, nothing more, all shapes as the config says.

    Args:
        directory: a directory that `write` wrote.
        family: the family's name in messages, such as "T5-VAE".
        config_class: the class of the task's config, or the path of the config file; needed if
            the class is not one of flaxae's own.

    Raises:
        ConfigError: if a file is missing or damaged, or does not fit the others.
    """
    hf.Tensors(directory)  # raises an error that names missing or damaged files
    data = hf.read_config(directory)
    about = data.pop(SAVED, None)
    ours = isinstance(about, dict) and isinstance(about.get("step"), int)
    if not ours or not isinstance(data.get("task"), dict):
        raise ConfigError(
            f"{directory}: not a {family} that save_pretrained wrote (see config.json)"
        )
    kinds = {"vocab_size": int, "tokenizer": str}
    check_fields(about, kinds, f"{directory / hf.CONFIG}: {SAVED}: ")
    missing = [name for name in kinds if about.get(name) is None]
    require(not missing, f"{directory / hf.CONFIG}: {SAVED} lacks {', '.join(missing)}")
    config = from_json(data, config_class, directory)
    config.freeze(check=False)
    task = config.task.make(config)
    abstract = nnx.eval_shape(lambda: task.init(nnx.Rngs(0)))
    tokenizer = read_tokenizer(directory, abstract.vocab_size)
    if tokenizer.fingerprint != about["tokenizer"]:
        raise ConfigError(
            f"{directory / TOKENIZER} is another model's tokenizer ({tokenizer.vocab_size} tokens; "
            f"the model was trained with {about['vocab_size']}): restore the model's own"
        )
    model: Any = module.read(directory, abstract, _UNSAVED)
    statistics = latent_stats.read(directory / STATISTICS, (model.num_latents, model.dim))
    return Saved(model, config, tokenizer, about["step"], statistics)


def read_tokenizer(directory: Path, vocab_size: int) -> Tokenizer:
    """Return the tokenizer of a directory or workdir.

    Args:
        directory: the directory.
        vocab_size: the number of ids that the model has.

    Raises:
        ConfigError: if there is no tokenizer, or it has more ids than the model.
    """
    tokenizer = Tokenizer.load(directory / TOKENIZER)
    if tokenizer.vocab_size > vocab_size:
        raise ConfigError(
            f"{directory / TOKENIZER} is another model's tokenizer ({tokenizer.vocab_size} tokens; "
            f"the model has {vocab_size}): restore the model's own"
        )
    return tokenizer


def read_report(directory: Path) -> dict[str, Any] | None:
    """Return the evaluation of a directory or workdir; None if there is none.

    Raises:
        ConfigError: if the file is not JSON.
    """
    for path in (directory / REPORT, directory / "report" / REPORT):
        if path.is_file():
            require_content(path)
            try:
                return json.loads(path.read_text(encoding="utf-8"))
            except ValueError as e:
                raise ConfigError(f"{path} is not JSON ({e}); evaluate the run again") from None
    return None


def write_report(directory: Path, report: dict[str, Any]) -> None:
    """Write an evaluation into a directory."""
    text = json.dumps(report, indent=2) + "\n"
    (directory / REPORT).write_text(text, encoding="utf-8")


def evaluation_section(report: dict[str, Any] | None) -> str:
    """Return the README's section with the numbers of an evaluation, one column per split."""
    title = "## Evaluation\n\n"
    splits = report.get("splits") if report else None
    if not isinstance(splits, dict) or not splits:
        return f"{title}None yet: run `python -m flaxae.evaluate WORKDIR`.\n"
    names = dict.fromkeys(n for row in splits.values() for n in row if _cell(row, n))
    lines = [f"| {' | '.join(['measure', *splits])} |", f"|{'---|' * (len(splits) + 1)}"]
    for name in names:
        cells = [_cell(row, name) or "–" for row in splits.values()]
        lines.append(f"| {' | '.join([name.replace('_', ' '), *cells])} |")
    of_space = {n: x for n, x in headline(report or {}).items() if x == x and n != "exact_match"}
    if of_space:
        listed = ", ".join(f"{n.replace('_', ' ')} {x:.3f}" for n, x in of_space.items())
        lines.append(f"\nThe space of texts: {listed}.")
    return title + "\n".join([*lines, "\nThe whole evaluation is in `report.json`.\n"])


def _cell(row: dict[str, Any], name: str) -> str:
    """Format a split's number, with its interval if it has one; "" for anything else."""
    value, ends = row.get(name), row.get("intervals", {}).get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ""
    text = str(value) if isinstance(value, int) else f"{value:.3f}"
    return f"{text} [{ends[0]:.3f}, {ends[1]:.3f}]" if ends and None not in ends else text
