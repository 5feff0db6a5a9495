"""The main numbers of an evaluation as one flat dict, for tables over many runs."""

import math
from typing import Any

# name -> the path of its number in a report
_PLACES: dict[str, tuple[str, ...]] = {
    "exact_match": ("splits", "dev", "exact_match"),
    "exact_match_shuffled": ("text_space", "shuffled", "exact_match_shuffled"),
    "shuffled_restored": ("text_space", "shuffled", "restored"),
    "samples_valid": ("samples", "validity"),
    "samples_perplexity": ("samples", "forward_ppl"),
    "samples_repetition": ("samples", "repetition"),
    "samples_distinct2": ("samples", "distinct_2"),
    "gmm_valid": ("samples", "others", "gmm", "validity"),
    "gmm_perplexity": ("samples", "others", "gmm", "forward_ppl"),
    "real_perplexity": ("samples", "others", "real_lines", "forward_ppl"),
    "real_valid": ("samples", "others", "real_lines", "validity"),
    "real_repetition": ("samples", "others", "real_lines", "repetition"),
    "path_middle_valid": ("interpolation", "slerp", "middle_over_real", "value"),
    "path_middle_perplexity": ("interpolation", "slerp", "middle_ppl", "value"),
    "best_path_middle_valid": ("interpolation", "best", "middle_over_real", "value"),
    "path_largest_step": ("interpolation", "slerp", "max_step_share", "value"),
    "kind_probe_10": ("probes", "accuracy", "latent", "0.1", "value"),
    "pull_valid": ("samples", "pull", "rounds", "validity"),
    "pull_perplexity": ("samples", "pull", "rounds", "forward_ppl"),
    "neighbours_recall_10": ("text_space", "neighbours", "recall"),
    "edit_move": ("text_space", "edit", "distance"),
    "bits": ("latent", "bits", "per_line"),
}


def headline(report: dict[str, Any]) -> dict[str, float]:
    """Return the main numbers of a report.

    Args:
        report: the content of report.json, of any text autoencoder.

    Returns:
        exact_match: of held-out dev lines; exact_match_shuffled: of lines with shuffled ids;
            shuffled_restored: of what these are decoded to and the real lines.
        samples_valid, samples_perplexity, samples_repetition, samples_distinct2: of N(0, I); a
            decoder that reads the noise assumes the largest of training in them.
        gmm_valid, gmm_perplexity: of samples of a mixture of Gaussians fitted to codes.
        real_valid, real_perplexity, real_repetition: the same of real lines, those of the split
            test_line if there are any (see `samples.comparison`).
        path_middle_valid: validity in the middle third of slerp paths over that of the dev lines;
            best_path_middle_valid: the same of the report's best path.
        path_middle_perplexity: of the middle third of slerp paths.
        path_largest_step: share of the largest step of slerp paths.
        kind_probe_10: accuracy of a linear probe with a tenth of the labels.
        pull_valid, pull_perplexity: of N(0, I) samples after the last round of decoding and
            encoding.
        neighbours_recall_10, edit_move: see `text_space`.
        bits: of the latent, per line, at the largest noise of training.
        A number that the report does not contain is nan.
    """
    return {name: _number(report, place) for name, place in _PLACES.items()}


def _number(found: Any, place: tuple[str, ...]) -> float:
    for name in place:
        if isinstance(found, list):
            found = found[-1] if found else None  # the last round
        inside = found if isinstance(found, dict) else {}
        found = inside.get(name)
        if name == "best" and found is not None:  # names another part
            found = inside.get(found)
    return math.nan if found is None or isinstance(found, (str, dict)) else float(found)
