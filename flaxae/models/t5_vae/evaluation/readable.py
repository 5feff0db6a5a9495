"""Reports of a T5-VAE's evaluation as text."""

from typing import Any

from flaxae.text_autoencoder.evaluation import attribute_report, readable
from flaxae.text_autoencoder.evaluation.readable import number


def describe(result: dict[str, Any]) -> str:
    """Return a report as text; [a, b] are 95 % intervals over lines, paths or samples."""
    lines = [f"T5-VAE at step {result['step']}, free-running greedy reconstruction"]
    lines += readable.splits(result)
    lines += readable.parts(
        result,
        {
            "references": readable.references,
            "likelihood": _likelihood,
            "latent": readable.latent,
            "samples": readable.samples,
            "text_space": readable.text_space,
            "interpolation": readable.interpolation,
            "probes": _probes,
            "disentanglement": _disentanglement,
            "attributes": attribute_report.describe,
        },
    )
    return "\n".join(lines + readable.examples(result) + readable.figures(result))


def _likelihood(row: dict[str, Any]) -> list[str]:
    """Describe the teacher-forced losses."""
    out = [
        f"teacher-forced: cross entropy {number(row['cross_entropy'])} nats/token, accuracy "
        f"{number(row['accuracy'])}",
        f"    with another line's code {number(row['shuffled'])}, with zeros {number(row['zero'])}",
        f"    gap to another line's code {number(row['shuffled_gap'])}: "
        + ("COLLAPSE: the decoder hardly reads the code" if row["alarm"] else "no alarm"),
    ]
    bound = row["importance_weighted"]
    if isinstance(bound, str):
        out.append(f"    perplexity and bits per byte by importance weighting: {bound}")
    else:
        out.append(
            f"    importance-weighted ({bound['samples']} draws, {bound['lines']} lines): at most "
            f"perplexity {number(bound['perplexity'], 2)}, bits per byte "
            f"{number(bound['bits_per_byte'])}"
        )
    return out


def _probes(row: dict[str, Any]) -> list[str]:
    """Describe the accuracy of linear probes."""
    shares = ", ".join(f"{float(s):.0%} = {n}" for s, n in row["labels"].items())
    out = [
        f"linear probes for {row['label']} ({row['classes']} classes, the most frequent "
        f"{number(row['majority'])}; labels {shares})"
    ]
    for name, found in row["accuracy"].items():
        numbers = ", ".join(f"{float(s):.0%}: {number(x)}" for s, x in found.items())
        out.append(f"    {name.replace('_', ' '):<24}{numbers}")
    return out


def _disentanglement(row: dict[str, Any]) -> list[str]:
    """Describe the measures of disentanglement."""
    factors = ", ".join(f"{name} ({n})" for name, n in row["factors"].items())
    out = [f"disentanglement against {factors}; chance of z-diff {row['chance']['z_diff']:.2f}"]
    for name in ("codes", "rotated"):
        x = row[name]
        out.append(
            f"    {name:<8}z-diff {number(x['z_diff'])}, z-min-var {number(x['z_min_var'])}, MIG "
            f"{number(x['mig'])}, DCI {x['disentanglement']:.3f} / {x['completeness']:.3f} / "
            f"{x['informativeness']:.3f} (chance {row['chance']['informativeness']:.3f})"
        )
    return out
