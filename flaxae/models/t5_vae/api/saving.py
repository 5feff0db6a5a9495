"""A trained T5-VAE as one directory: JSON, safetensors and the tokenizer, never a pickle.

config.json, model.safetensors, tokenizer.json, statistics.safetensors, priors/KIND/, README.md, and
report.json where it was evaluated.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from flaxae.config import Config, from_json, to_json
from flaxae.data.config import text_data
from flaxae.data.tokenizer import Tokenizer
from flaxae.errors import ConfigError, require
from flaxae.models.t5_vae.modeling import T5VAE
from flaxae.models.t5_vae.task import T5VAEConfig
from flaxae.weights import hf

TOKENIZER, STATISTICS, PRIORS = "tokenizer.json", "statistics.safetensors", "priors"
REPORT, README = "report.json", "README.md"
SAVED = "saved"  # the section of config.json that a run's has not


class Statistics(NamedTuple):
    """Of the clean codes of training texts.

    Attributes:
        mean, std: of each number of a code.
        count: of texts.
    """

    mean: Float[np.ndarray, "L Z"]
    std: Float[np.ndarray, "L Z"]
    count: int

    @classmethod
    def of(cls, codes: Float[np.ndarray, "n L Z"]) -> "Statistics":
        return cls(codes.mean(0), codes.std(0), len(codes))


class Opened(NamedTuple):
    """What a directory holds."""

    model: T5VAE
    config: Config
    tokenizer: Tokenizer
    step: int
    statistics: Statistics | None


def write(
    directory: Path, model: T5VAE, config: Config, tokenizer: Any, step: int, statistics: Statistics
) -> None:
    """Writes all but priors, README and report.

    Args:
        directory: made if it is not there.
        model, config, tokenizer, step: of the run.
        statistics: of its codes.

    Raises:
        ConfigError: the directory is a file, a run's workdir, or cannot be written.
    """
    require(not (directory / "latest").exists(), f"{directory} is a run's workdir: name another")
    about = {"step": step, "vocab_size": tokenizer.vocab_size, "tokenizer": tokenizer.fingerprint}
    params = {name: var[...] for name, var in _params(model)[1].items()}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        hf.write(directory, to_json(config) | {SAVED: about}, _table(params), params)
        tokenizer.save(str(directory / TOKENIZER))
        arrays = {"mean": statistics.mean, "std": statistics.std}
        arrays |= {"count": np.asarray([statistics.count])}
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, directory / STATISTICS)
    except (OSError, SafetensorError) as e:
        raise ConfigError(f"cannot write into {directory}: {e}") from None


def read(directory: Path) -> Opened:
    """What `write` wrote, strictly: nothing missing, nothing more, all shapes as the config says.

    Raises:
        ConfigError: something does not fit.
    """
    tensors = hf.Tensors(directory)
    data = hf.read_config(directory)
    about = data.pop(SAVED, None)
    ours = isinstance(about, dict) and isinstance(about.get("step"), int)
    if not ours or not isinstance(data.get("task"), dict):
        raise ConfigError(f"{directory}: not a T5-VAE that save_pretrained wrote (see config.json)")
    config = from_json(data, T5VAEConfig)
    config.freeze()
    tokenizer = read_tokenizer(directory, config)
    if tokenizer.vocab_size != about["vocab_size"] or tokenizer.fingerprint != about["tokenizer"]:
        raise ConfigError(
            f"{directory / TOKENIZER} is another tokenizer ({tokenizer.vocab_size} tokens) than "
            f"the model was trained with ({about['vocab_size']}): restore the model's own"
        )
    task = config.task.make(config)
    graphdef, flat, rest = _params(nnx.eval_shape(lambda: task.init(nnx.Rngs(0))))
    shapes = {n: jax.ShapeDtypeStruct(var.shape, var.dtype) for n, var in flat.items()}
    values = hf.read_params(tensors, _table(shapes), shapes)
    params = nnx.State.from_flat_path(
        {tuple(_key(k) for k in n.split("/")): flat[n].replace(values[n]) for n in flat}
    )
    rest = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), rest)  # of training only
    model = nnx.merge(graphdef, params, rest)
    latent = model.latent
    statistics = _read_statistics(directory / STATISTICS, (latent.num_latents, latent.dim))
    return Opened(model, config, tokenizer, about["step"], statistics)


def read_tokenizer(directory: Path, config: Config) -> Tokenizer:
    """The tokenizer of a directory or workdir. Raises ConfigError where the model has fewer ids."""
    tokenizer = Tokenizer.load(directory / TOKENIZER)
    task: Any = config.task
    size = task.t5.vocab_size or text_data(config).vocab_size
    if tokenizer.vocab_size > size:
        raise ConfigError(
            f"{directory / TOKENIZER} has {tokenizer.vocab_size} tokens, the model {size}: it is "
            "another model's tokenizer; restore the model's own"
        )
    return tokenizer


def read_report(directory: Path) -> dict[str, Any] | None:
    """The evaluation of a directory or workdir; None where there is none.

    Raises:
        ConfigError: it is not JSON.
    """
    for path in (directory / REPORT, directory / "report" / REPORT):
        if path.is_file():
            try:
                return json.loads(path.read_text(encoding="utf-8"))
            except ValueError as e:
                raise ConfigError(f"{path} is not JSON ({e}); evaluate the run again") from None
    return None


def write_report(directory: Path, report: dict[str, Any]) -> None:
    text = json.dumps(report, indent=2) + "\n"
    (directory / REPORT).write_text(text, encoding="utf-8")


def readme(config: Config, step: int, report: dict[str, Any] | None) -> str:
    """The card of a saved model, with what its evaluation measured."""
    task: Any = config.task
    t5, latent, data = task.t5, task.latent, text_data(config)
    layers = f"{t5.num_layers} + {t5.num_decoder_layers} layers"
    lines = [
        "---\nlibrary_name: flaxae\ntags: [t5-vae, text-autoencoder]\n---\n",
        "# T5-VAE\n",
        f"Texts of up to {data.max_length} tokens as {latent.num_latents} latent(s) of "
        f"{latent.dim} numbers, and back. T5 of width {t5.d_model}, {layers}; "
        f"{step} steps on `{data.path or data.name}`.\n",
        "```python\nimport flaxae\n\nvae = flaxae.T5VAE.from_pretrained(\"DIRECTORY\")\n"
        "vae.decode(vae.encode([\"a text\"]))\n```\n",
        "## Evaluation\n",
    ]  # fmt: skip
    splits = report.get("splits") if report else None
    if not isinstance(splits, dict) or not splits:
        return "\n".join([*lines, "None yet: `python -m flaxae.evaluate WORKDIR` makes it.\n"])
    names = list(dict.fromkeys(n for row in splits.values() for n in row if _cell(row, n)))
    lines.append(f"| {' | '.join(['measure', *splits])} |")
    lines.append(f"|{'---|' * (len(splits) + 1)}")
    for name in names:
        cells = [_cell(row, name) or "–" for row in splits.values()]
        lines.append(f"| {' | '.join([name.replace('_', ' '), *cells])} |")
    lines.append("\nAll of it is in `report.json`.\n")
    return "\n".join(lines)


def _cell(row: dict[str, Any], name: str) -> str:
    """A split's number, with its interval where it has one; "" for anything else."""
    value, ends = row.get(name), row.get("intervals", {}).get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ""
    text = str(value) if isinstance(value, int) else f"{value:.3f}"
    return f"{text} [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else text


def _params(model: Any) -> tuple[Any, dict[str, Any], Any]:
    """The graph, name -> parameter, and all other state."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    flat = {"/".join(map(str, path)): var for path, var in nnx.to_flat_state(params)}
    return graphdef, flat, rest


def _key(part: str) -> str | int:
    return int(part) if part.isdigit() else part


def _table(params: dict[str, Any]) -> hf.Table:
    """Our own names are the file's."""
    return hf.Table({name: hf.Weight((name,)) for name in params})


def _read_statistics(path: Path, shape: tuple[int, int]) -> Statistics:
    try:
        arrays = load_file(path)
        mean, std, count = arrays["mean"], arrays["std"], int(arrays["count"][0])
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing: save the model again") from None
    except (OSError, SafetensorError, KeyError, IndexError) as e:
        raise ConfigError(f"{path} does not hold mean, std and count: {e}") from None
    require(
        mean.shape == std.shape == shape, f"{path}: statistics of {mean.shape}, codes are {shape}"
    )
    return Statistics(mean, std, count)
