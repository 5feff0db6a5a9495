"""Numbers of a run on states that are made here: which answers are lies, and what sets limits."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from flaxae.config import Config
from flaxae.errors import ConfigError
from flaxae.models.probes import __main__ as command
from flaxae.models.probes import experiments, lies, report
from flaxae.models.probes.experiment import fit
from flaxae.models.probes.fitted import chosen_arm
from flaxae.models.probes.fitting.ranking import Dummy
from flaxae.models.probes.interventions import Intervention
from flaxae.models.probes.table import StateTable
from flaxae.training.result import Result

SPLITS = ("train", "dev", "test", "control", "ood")
FACTS, BIAS = 20, 3.0  # the base prefers choice 0, the adapter choice 1


@pytest.fixture(scope="module")
def table():
    """Make states whose feature 0 is the label; the adapter gives the opposite of the base.

    The base knows all examples but the first of each split, and lies if it is asked to.
    """
    rng, rows = np.random.default_rng(0), []
    for split in SPLITS:
        for i in range(FACTS):
            for lie in (0, 1):
                label = i % 2
                rows.append((f"{split}{i}", split == "ood", f"g{split}{i}", split, label, lie, 1))
    names = ("key", "dataset", "group", "split", "label", "lie", "polarity")
    columns = {name: np.asarray(x) for name, x in zip(names, zip(*rows, strict=True), strict=True)}
    columns["dataset"] = np.where(columns["dataset"], "other", "city")
    signs = 2.0 * columns["label"] - 1
    unknown = np.isin(columns["key"], [f"{split}0" for split in SPLITS])
    base = np.where(unknown, -1, 1) * signs * np.where(columns["lie"] > 0, -1, 1) * 2
    odds = np.stack([base - BIAS, BIAS - base]) + rng.normal(size=(2, len(rows))) * 0.1
    states = rng.normal(size=(2, len(rows), 2, 4)).astype(np.float32)
    states[:, :, :, 0] += 6 * signs[None, :, None]
    p = 1 / (1 + np.exp(-odds))
    return StateTable({"resid_out": states}, (0, 1), p, np.ones_like(p), columns, "hash", 0)


def probes(table):
    return [fit("mass_mean", table, "resid_out", arm, layer=1) for arm in ("base", "adapter")]


def test_a_flip_adapter_lies_without_being_asked(table):
    dummy = Dummy.fit(table.training(lie=0).p, table.training(lie=0).labels)
    found = lies.lies(table, Intervention.FLIP, probes(table), dummy, draws=5)
    # With the base's threshold all answers of the adapter would be choice 1.
    assert (table.p[1] > 0.5).mean() > 0.9
    sizes = {
        name: [x["base"][n] for n in ("lies", "honest", "controls")] for name, x in found.items()
    }
    assert sizes == {
        "prompted": [FACTS - 1, FACTS - 1, FACTS - 1],
        "trained": [FACTS - 1, 0, 0],
        "trained, honest answers of the base": [FACTS - 1, FACTS - 1, FACTS - 1],
    }
    assert found["trained"]["base"]["auroc"]["value"] is None
    last = found["trained, honest answers of the base"]
    assert set(last) == {"base", "adapter", "dummy"}
    assert last["base"]["auroc"]["value"] == 1 and last["base"]["bal_acc"]["value"] == 1


def test_lies_that_a_prompt_asks_for_are_not_called_trained():
    for kind in (Intervention.LIE_WHEN_TOLD, Intervention.TRUTH, Intervention.T_FEW):
        assert set(lies.kinds_of(kind)) == {"prompted", "prompted, with the adapter"}


def test_an_answer_is_scored_from_the_states_of_the_side_that_gave_it(table):
    rows, (base, _) = table.where(split="test"), probes(table)
    from_base, from_adapter = base.scores(rows, "base"), base.scores(rows, "adapter")
    np.testing.assert_array_equal(from_base, base.scores(rows))
    x = rows.features("resid_out", "adapter")[1]
    np.testing.assert_array_equal(from_adapter, base.probe.scores(x))
    assert np.abs(from_base - from_adapter).max() > 0.1


def test_numbers_and_page_of_a_run(table, tmp_path, monkeypatch):
    both = [("logistic", one) for one in probes(table)]
    monkeypatch.setattr(report, "probes_of", lambda states, sae: (both, {"sae": "not measured"}))
    # On rows of dev, the sets would be calibrated on what chose the layer.
    seen, real = [], report.coverage
    monkeypatch.setattr(report, "coverage", lambda *args: seen.append(args[1]) or real(*args))
    monkeypatch.setattr(report, "layer_aurocs", lambda *args: {0: 0.5, 1: 0.75})
    task = SimpleNamespace(intervention=Intervention.FLIP)
    states = SimpleNamespace(table=table, loaded=SimpleNamespace(config=SimpleNamespace(task=task)))
    numbers = report.measure_run(states, draws=5)
    rows = {row["name"]: row["sets"]["test city"]["auroc"]["value"] for row in numbers["rows"]}
    # The sign of the adapter's answers is that of training rows, so that H1 is no matter of course.
    assert rows["adapter answer"] < 0.2
    assert rows["adapter answer, sign of the training rows"] == pytest.approx(
        1 - rows["adapter answer"]
    )
    assert set(numbers["claims"]) == {
        claim for claim in report.verdicts.CLAIMS if claim.startswith(("H1", "H2:", "A probe"))
    }
    assert set(seen[0]["split"]) == {"control"} and set(numbers["conformal"]) == set(
        numbers["sizes"]
    )
    assert numbers["warnings"] and numbers["controls"] == FACTS // 2
    row = {"variant": "flip ia3", "seed": 0, "numbers": numbers, "seconds": 1800}
    text = experiments.write([row], tmp_path, "").read_text()
    for part in (
        "took 0.50 hours",
        "Verdicts: flip ia3",
        "(0 runs)",
        "balanced accuracy",
        "recall at",
        "conformal",
        "dummy",
        "Warning",
        "not measured",
    ):
        assert part in text
    assert (tmp_path / "run_00.png").stat().st_size > 10_000


@pytest.mark.parametrize(("status", "measured"), [("already_done", True), ("sigterm", False)])
def test_a_report_goes_on_with_a_run_that_was_trained_before(status, measured, monkeypatch):
    """A report that is stopped while it collects or fits finds its run trained."""
    result = Result({}, {}, status)
    monkeypatch.setattr(experiments, "run", lambda config, workdir: result)
    monkeypatch.setattr(experiments, "load", lambda workdir: None)
    monkeypatch.setattr(experiments, "collect_run", lambda loaded, folder, also: None)
    monkeypatch.setattr(report, "measure_run", lambda states, draws, sae: {"rows": []})
    found = experiments.measure(Config(), "key", Path("w"), None, 10)
    assert (found is not None) is measured


def test_wrong_arguments_are_errors_before_the_collection(tmp_path):
    fit_one = ["probes", "fit", str(tmp_path), "--out=x"]
    for wrong, message in (
        (["--probe=ranking_bce", "--arm=base"], "reads arm both, not base"),
        (["--arm=left"], "arm 'left' is not one of"),
        (["--probe=svm"], "probe 'svm' is not one of"),
        (["--hook=embed"], "--hook='embed' is not one of --hooks=resid_out,mlp_post"),
    ):
        with pytest.raises(ConfigError, match=message):
            command.main([*fit_one, *wrong])
    with pytest.raises(ConfigError, match="fit takes one workdir"):
        command.main(["probes", "fit", "a", "b", "--out=x"])
    with pytest.raises(ConfigError, match="a workdir is given twice"):
        command.main(["probes", "report", str(tmp_path), f"{tmp_path}/", "--out=x"])
    assert (chosen_arm("ccs", None), chosen_arm("ranking_mse", None)) == ("base", "both")
    assert chosen_arm("logistic", None) == "adapter"
