"""All probes of a report, each fitted on affirmative statements and on those of both polarities."""

from collections.abc import Sequence

from flaxae.models.probes.experiment import fit, fit_latents
from flaxae.models.probes.fitted import BOTH_SIDES, Fitted
from flaxae.models.probes.importance import has_factors
from flaxae.models.probes.run_states import States
from flaxae.models.probes.table import check_arms
from flaxae.sparse_autoencoder.api import SAE

ARMS = ("base", "adapter", "both")
HOOK, FEATURES = "resid_out", "mlp_post"
SAE_STATES = "sae_states"  # role of the regression that a dictionary's is compared with
Probes = list[tuple[str, Fitted]]  # (role: the kind or SAE_STATES, probe)


def probes_of(states: States, sae: SAE | None) -> tuple[Probes, dict[str, str]]:
    """Fit all probes of the report.

    Args:
        states: of a run.
        sae: a dictionary of states of the base, or None.

    Returns:
        The probes with their roles, the regressions of ARMS on both polarities first, and why
        others are missing.
    """
    table, skipped = states.table, {}
    negated = bool((table["polarity"] < 0).any())
    out: Probes = []
    for polarity in ((1, -1), (1,)) if negated else ((1, -1),):
        found = _of_polarity(states, sae, polarity, skipped)
        check_arms([fitted.record for _, fitted in found])
        out += found
    if not negated:
        skipped["ttpd"] = "there are no negated statements"
        return out, skipped
    for i, arm in enumerate(ARMS[:2]):
        out.append(("ttpd", fit("ttpd", table, HOOK, arm, layer=out[i][1].layers[0])))
    return out, skipped


def _of_polarity(
    states: States, sae: SAE | None, polarity: Sequence[int], skipped: dict[str, str]
) -> Probes:
    """Fit all probes but TTPD on statements of some polarity; add the missing ones to `skipped`."""
    table, model, out = states.table, states.loaded.model, []

    def add(kind: str, hook: str, arm: str, layer: int | None = None, role: str = "") -> Fitted:
        """Fit a probe."""
        found = fit(
            kind, table, hook, arm, polarity=polarity, model=model, layer=layer, seed=table.seed
        )
        out.append((role or kind, found))
        return found

    base, adapter, _ = (add("logistic", HOOK, arm) for arm in ARMS)
    layer = adapter.layers[0]
    for kind in ("mass_mean", "lda", "mlp"):
        add(kind, HOOK, "adapter", layer)
    for kind in ("layer_conv", "layer_diff"):
        add(kind, HOOK, "adapter")
    if bool((table.training(lie=0).p[0] != table.training(lie=0).p[1]).any()):
        for kind in BOTH_SIDES:
            add(kind, HOOK, "both", layer)
    else:
        skipped["ranking"] = "the adapter answers like the base"
    add("ccs", HOOK, "base", base.layers[0])
    if FEATURES in table.states:
        add("logistic", FEATURES, "adapter")
        if has_factors(model, FEATURES):
            add("weighted", FEATURES, "adapter")
            add("selected", FEATURES, "adapter")
        else:
            skipped["weighted, selected"] = f"no IA3 factors of the adapter scale {FEATURES}"
    if sae is None:
        skipped["sae"] = "not measured: give a dictionary of the base's states with --sae"
        return out
    for arm in ARMS[:2]:
        found = fit_latents(table, sae, arm, polarity)
        out.append(("sae", found))
        add("logistic", found.hook, arm, found.layers[0], SAE_STATES)
    return out
