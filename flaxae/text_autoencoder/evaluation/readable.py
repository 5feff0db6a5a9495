"""Parts of a report as text; [a, b] are 95 % intervals over lines, paths or samples."""

from collections.abc import Callable
from typing import Any


def parts(
    result: dict[str, Any], described: dict[str, Callable[[dict[str, Any]], list[str]]]
) -> list[str]:
    """Describe the parts of a report in order; a part that was left out is its reason.

    Args:
        result: the content of report.json.
        described: name of a part -> the function that describes it.
    """
    out = []
    for name, describe in described.items():
        if name in result:
            found = result[name]
            out += [f"{name}: {found}"] if isinstance(found, str) else describe(found)
    return out


def number(value: Any, digits: int = 3) -> str:
    """Format a number, a value with its interval, or a dash if nothing was measured."""
    if isinstance(value, dict):
        if value["low"] is None:
            return number(value["value"], digits)
        inner = f"{number(value['low'], digits)}, {number(value['high'], digits)}"
        return f"{number(value['value'], digits)} [{inner}]"
    return "–" if value is None else f"{value:.{digits}f}"


def cell(value: float | None, width: int, digits: int) -> str:
    """Format a number for a column."""
    return f"{number(value, digits):>{width}}"


def with_interval(row: dict[str, Any], name: str, digits: int = 3) -> str:
    """Format a number of a row with its interval, which the row lists separately."""
    low, high = row["intervals"][name]
    return number({"value": row[name], "low": low, "high": high}, digits)


def splits(result: dict[str, Any]) -> list[str]:
    """Describe the reconstruction of each split."""
    columns = ("lines", "exact", "tokens", "BLEU", "chrF", "edit")
    columns += ("valid", "(real)") if result.get("python") else ()
    out = [f"{'split':<10}" + "".join(f"{name:>8}" for name in (*columns, "seen"))]
    for name, row in result["splits"].items():
        text = f"{name:<10}{row['lines']:>8}{row['exact_match']:>8.3f}{row['token_accuracy']:>8.3f}"
        text += f"{row['bleu']:>8.2f}{row['chrf']:>8.2f}{row['edit_similarity']:>8.3f}"
        if result.get("python"):
            text += f"{row['validity']:>8.3f}{row['validity_of_real_lines']:>8.3f}"
        out.append(text + f"{row['in_training_files']:>8.3f}")
    out.append("seen: share of these lines that also occur in the training files")
    out += [f"{name} is left out: {why}" for name, why in result.get("left_out", {}).items()]
    for name, row in result["splits"].items():
        exact, tokens = (with_interval(row, x) for x in ("exact_match", "token_accuracy"))
        bleu, chrf = (with_interval(row, x, 2) for x in ("bleu", "chrf"))
        out.append(
            f"{name}: exact match {exact}, token accuracy {tokens}, BLEU {bleu}, chrF {chrf}"
        )
        lengths = (
            f"{x['tokens'][0]}-{x['tokens'][1]}: {x['exact_match']:.3f} ({x['lines']})"
            for x in row["by_length"]
        )
        out.append(f"    exact match by tokens (lines): {', '.join(lengths)}")
    names = {"bleu": "BLEU", "chrf": "chrF"}
    return out + [f"{names[name]}: {text}" for name, text in result["signatures"].items()]


def references(rows: dict[str, Any]) -> list[str]:
    """Describe reconstructions from wrong codes."""
    out = []
    for name, row in rows.items():
        text = f"reference, {name.replace('_', ' ')}: exact {row['exact_match']:.3f}, "
        text += f"tokens {row['token_accuracy']:.3f}, BLEU {row['bleu']:.2f}"
        out.append(text + (f", valid {row['validity']:.3f}" if "validity" in row else ""))
    return out


def latent(row: dict[str, Any]) -> list[str]:
    """Describe the measures of codes."""
    ends = row["intervals"]["mmd_with_noise"]
    interval = "" if None in ends else f" [{ends[0]:.2e}, {ends[1]:.2e}]"
    shape, normal = row["isotropy"], row["isotropy_of_normal"]
    gauss, of_normal = row["gaussianity"], row["gaussianity_of_normal"]
    named = {**row, **shape, **gauss}

    def of(name: str, digits: int = 3) -> str:
        return with_interval(named, name, digits)

    out = [
        f"latent: MMD^2 {row['mmd']:.2e} = {row['mmd_over_null']:.1f} x the null's p95 (p "
        f"{row['mmd_p']:.3f}); with noise {row['mmd_with_noise']:.2e}{interval} = "
        f"{row['mmd_with_noise_over_null']:.1f} x (p {row['mmd_with_noise_p']:.3f}, n {row['n']})",
        f"    |z|^2/d {of('squared_norm_over_dim')}, active units {of('active_units', 0)} of "
        f"{row['size']}, effective rank {of('effective_rank', 1)} (N(0, I): "
        f"{normal['effective_rank']:.1f}), participation ratio {of('participation_ratio', 1)} "
        f"({normal['participation_ratio']:.1f}), mean cosine {of('mean_cosine')}",
        f"    skew {of('skew')} ({number(of_normal['skew'])}), excess kurtosis "
        f"{of('excess_kurtosis')} ({number(of_normal['excess_kurtosis'])})",
    ]
    bits, info = row["bits"], row["information"]
    if isinstance(bits, str):
        out.append(f"    bits of the latent: {bits}")
    else:
        out.append(
            f"    bits of the latent: {bits['per_line']:.1f} per line, {bits['per_token']:.2f} per "
            f"token ({bits['estimate']})"
        )
    if "bits_at_lowest" in row:
        lowest = row["bits_at_lowest"]
        out.append(f"        {lowest['per_line']:.1f} per line: {lowest['estimate']}")
    if isinstance(info, str):
        out.append(f"    KL, mutual information: {info}")
    else:
        mutual = info["mutual_information"]
        out.append(
            f"    KL {number(info['kl'], 2)} nats, mutual information {number(mutual, 2)} (the "
            f"estimate cannot exceed {mutual['cap']:.2f})"
        )
    return out


def samples(row: dict[str, Any]) -> list[str]:
    """Describe the measures of samples."""
    names = {"N(0, I)": row, **row["others"]}
    python = "validity" in row
    head = ("fwd PPL", "rev PPL", "distinct", "dist-1", "dist-2", "repeats", "self-BLEU", "known")
    head += ("valid",) if python else ()
    out = [
        f"samples, {row['n']} of each; perplexities of a trigram model (Kneser-Ney) of token ids",
        f"{'from':<12}" + "".join(f"{name:>10}" for name in head),
    ]
    for name, x in names.items():
        text = f"{name.replace('_', ' '):<12}"
        text += "".join(cell(x[column], 10, 1) for column in ("forward_ppl", "reverse_ppl"))
        columns = ("distinct", "distinct_1", "distinct_2", "repetition")
        text += "".join(cell(x[c], 10, 3) for c in columns)
        text += cell(x["self_bleu"], 10, 2) + cell(x["in_training_lines"], 10, 3)
        out.append(text + (f"{x['validity']:>10.3f}" if python else ""))
    text = f"samples of N(0, I): forward PPL {with_interval(row, 'forward_ppl', 1)}, reverse "
    text += with_interval(row, "reverse_ppl", 1)
    out.append(text + (f", valid {with_interval(row, 'validity')}" if python else ""))
    real = row["others"]["real_lines"]
    out.append(
        f"    repeats: share of the bigrams of ids that occurred before in the same text: "
        f"{with_interval(row, 'repetition')}, real lines {with_interval(real, 'repetition')}; a "
        f"real line holds {with_interval(real, 'bits', 1)} bits by that model"
    )
    out += [f"    {text}" for text in row["examples"][:6]]
    return out + (_pull(row["pull"]) if "pull" in row else [])


def _pull(row: dict[str, Any]) -> list[str]:
    """Describe samples that were decoded and encoded repeatedly."""
    out = [f"pull towards text: {row['n']} samples of N(0, I), decoded and encoded again"]
    for x in row["rounds"]:
        text = f"    after {x['after']} rounds: forward PPL {with_interval(x, 'forward_ppl', 1)}"
        text += f", valid {with_interval(x, 'validity')}" if "validity" in x else ""
        repeats = with_interval(x, "repetition")
        out.append(f"{text}, dist-2 {number(x['distinct_2'])}, repeats {repeats}")
    return out


def text_space(row: dict[str, Any]) -> list[str]:
    """Describe copying, neighbourhoods and the effect of edits."""
    out = []
    found = row["shuffled"]
    if isinstance(found, dict):
        out.append(
            f"shuffled ids of {found['lines']} lines: exact match "
            f"{with_interval(found, 'exact_match_shuffled')}, of the real lines "
            f"{with_interval(found, 'exact_match')} (as ids), decoded to the real line "
            f"{with_interval(found, 'restored')}"
        )
    near = row["neighbours"]
    if isinstance(near, dict):
        out.append(
            f"neighbours of {near['lines']} lines: recall at {near['k']} of edit distance by code "
            f"{with_interval(near, 'recall')} (chance {with_interval(near, 'chance')})"
        )
    edit = row["edit"]
    if isinstance(edit, dict):
        out.append(
            f"one token replaced: the code moves {with_interval(edit, 'distance')} of the distance "
            f"between two lines, cosine {with_interval(edit, 'cosine')} (two lines "
            f"{with_interval(edit, 'cosine_of_others')})"
        )
    return out + [f"{name}: {x}" for name, x in row.items() if isinstance(x, str)]


def interpolation(rows: dict[str, Any]) -> list[str]:
    """Describe the scores of interpolations."""
    out = [f"interpolations between {rows['pairs']} pairs of lines, {rows['steps']} texts each"]
    for name, row in rows.items():
        if not isinstance(row, dict):
            continue
        text = (
            f"    {name.replace('_', ' '):<14}path ratio {number(row['path_ratio'])}, largest step "
        )
        text += f"{number(row['max_step_share'])}, distinct {number(row['distinct'])}"
        if "validity" in row:
            text += f", valid {number(row['validity'])}, middle third over real lines "
            text += number(row["middle_over_real"])
        text += f", repeats {number(row['repetition'])}"
        if "middle_ppl" in row:
            text += f", perplexity of the middle third {number(row['middle_ppl'], 1)}"
        out.append(text)
    real = f"    real lines: repeats {number(rows['real_repetition'])}"
    if "real_ppl" in rows:
        real += f", perplexity {number(rows['real_ppl'], 1)}"
    worse = ", ".join(rows["repetitive"]) or "none"
    out.append(f"{real}; paths that repeat more: {worse}")
    return [*out, f"    best by even steps and good texts: {rows['best']}"]


def arithmetic(row: dict[str, Any]) -> list[str]:
    """Describe how often a - b + c exchanges a word."""
    names = ("exact_match", "reconstructed", "nearest", "nearest_is_c")
    exact, bound, near, copied = (number(row[name]) for name in names)
    return [
        f"arithmetic of codes, {row['analogies']} exchanges of a word: exact match {exact} (the "
        f"target's own code: {bound}), nearest text {near} (the unchanged text: {copied})"
    ]


def examples(result: dict[str, Any]) -> list[str]:
    """Show the interpolations and analogies of a report."""
    lines = []
    for path in result.get("interpolations", []):
        lines.append(f"from {path['from']!r} to {path['to']!r}:")
        lines += [f"    {text}" for text in path["texts"]]
        if "best" in path:
            lines += [f"  {path['best']}:", *(f"    {text}" for text in path["best_texts"])]
    for row in result.get("analogies", []):
        lines.append(f"{row['a']!r} - {row['b']!r} + {row['c']!r} = {row['text']!r}")
        lines += [f"    near: {text}" for text in row["nearest"]]
    return lines


def figures(result: dict[str, Any]) -> list[str]:
    """Name the files of the figures."""
    return [f"{n.replace('_', ' ')}: {file}" for n, file in result.get("figures", {}).items()]
