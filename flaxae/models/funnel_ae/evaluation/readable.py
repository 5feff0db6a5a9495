"""Reports of a Funnel AE's evaluation as text."""

from typing import Any

from flaxae.text_autoencoder.evaluation import attribute_report, readable
from flaxae.text_autoencoder.evaluation.readable import number, with_interval


def describe(result: dict[str, Any]) -> str:
    """Return a report as text; [a, b] are 95 % intervals over lines, paths or samples."""
    lines = [
        f"Funnel AE at step {result['step']}, {result['floats']} numbers per code, decoded without "
        "skips"
    ]
    lines += readable.splits(result)
    for name, row in result["splits"].items():
        lines += _scores(name, row)
    lines += readable.parts(
        result,
        {
            "gap": _gap,
            "states": _states,
            "references": readable.references,
            "latent": readable.latent,
            "samples": readable.samples,
            "text_space": readable.text_space,
            "interpolation": readable.interpolation,
            "arithmetic": readable.arithmetic,
            "attributes": attribute_report.describe,
        },
    )
    return "\n".join(lines + readable.examples(result) + readable.figures(result))


def _scores(name: str, row: dict[str, Any]) -> list[str]:
    """Describe the cross entropy of a split and the accuracy of its places."""
    entropy, first = (with_interval(row, x) for x in ("cross_entropy", "first_token_accuracy"))
    places = [f"{x['place'] + 1}: {number(x['value'])}" for x in row["by_place"]]
    return [
        f"{name}: cross entropy {entropy} nats/token, perplexity "
        f"{with_interval(row, 'perplexity', 2)}, first token {first}",
        f"    accuracy by place: {', '.join(places)}",
    ]


def _gap(row: dict[str, Any]) -> list[str]:
    """Describe the encoder's gap."""
    out = [
        f"encoder's gap of {row['texts']} lines: exact match + {number(row['gap'])} after "
        f"{row['steps']} updates of each code, the decoder fixed"
    ]
    for name, start in (("encoder", "the encoder's code"), ("mean", "the mean code")):
        before, after = row[name]["before"], row[name]["after"]
        out.append(
            f"    from {start}: exact match {number(before['exact_match'])} -> "
            f"{number(after['exact_match'])}, cross entropy {number(before['cross_entropy'])} -> "
            f"{number(after['cross_entropy'])}, moved {number(row[name]['moved'], 2)} of the "
            "distance between two codes"
        )
    return out


def _states(row: dict[str, Any]) -> list[str]:
    """Describe the measures of hidden states."""
    out = [f"hidden states of {row['lines']} lines, decoded from their own codes"]
    for level, x in enumerate(row["differences"]):
        out.append(
            f"    level {level}: variance of x_odd - x_even {number(x['original'])}, upsampled "
            f"{number(x['upsampled'])}, ratio {number(x['ratio'])}"
        )
    shares = ", ".join(number(x, 2) for x in row["attention"])
    out.append(f"    attention of pooled queries to their own pair, over uniform: {shares}")
    out.append(f"    {'layer':<16}{'90 %':>6}{'99 %':>6}{'participation ratio':>21}")
    for name, x in row["layers"].items():
        counts = "".join(f"{number(x[c], 0):>6}" for c in ("components_90", "components_99"))
        out.append(f"    {name:<16}{counts}{number(x['participation_ratio'], 1):>21}")
    return out
