"use strict";
// All texts of the data are inserted as text: by textContent and setAttribute, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const features = data.features, about = data.about;
const byNumber = new Map(features.map((f) => [f.n, f]));
const PAGE = 200; // features that the list shows at a time
const el = (id) => document.getElementById(id);
let found = [], visible = PAGE, current = null;

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children); // strings become text nodes
  return node;
}

const count = (n) => n.toLocaleString("en");
const number = (x) => String(Number(x.toPrecision(4)));
const shown = (text) => text.replace(/\n/g, "↵").replace(/\t/g, "⇥");
function percent(f) {
  const share = 100 * f.active / Math.max(about.tokens, 1);
  return (share >= 10 ? share.toFixed(1) : share.toPrecision(2)) + " %";
}

// ---- contexts and search: the same as tokens_of and search in content.py ----

function tokensOf(context) {
  const row = data.rows[context.row], values = new Map(context.values), out = [];
  const start = Math.max(0, context.peak - data.before);
  const end = Math.min(row.length, context.peak + data.after + 1);
  for (let i = start; i < end; i++) {
    out.push([data.vocabulary[row[i]], values.get(i - context.peak) || 0, i === context.peak]);
  }
  return out;
}

const index = new Map(); // texts of a feature in lower case, made at its first search
function textsOf(f) {
  if (!index.has(f.n)) {
    const contexts = [...f.top, ...f.lower].map(tokensOf);
    index.set(f.n, {
      contexts: contexts.map((c) => c.map((t) => t[0]).join("").toLowerCase()),
      active: contexts.flatMap((c) => c.filter((t) => t[1] > 0).map((t) => t[0].toLowerCase())),
      output: (f.up || []).map(([token]) => data.vocabulary[token].toLowerCase()),
    });
  }
  return index.get(f.n);
}

function matches(f, words, scope) {
  const texts = textsOf(f), all = scope === "all";
  const each = (some) => words.every((word) => some.some((text) => text.includes(word)));
  if ((all || scope === "contexts")
    && texts.contexts.some((text) => words.every((word) => text.includes(word)))) return true;
  if ((all || scope === "active") && each(texts.active)) return true;
  return (all || scope === "output") && each(texts.output);
}

function search(query, scope) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const own = /^#?(\d+)$/.exec(query.trim());
  return features.filter((f) => (own && f.n === Number(own[1])) || !words.length
    || matches(f, words, scope));
}

const ORDERS = {
  frequent: (a, b) => b.active - a.active || a.n - b.n,
  rare: (a, b) => a.active - b.active || a.n - b.n,
  largest: (a, b) => b.largest - a.largest || a.n - b.n,
  number: (a, b) => a.n - b.n,
};

// ---- the list ----

function peaksOf(f) {
  const tokens = f.top.map((c) => shown(data.vocabulary[data.rows[c.row][c.peak]]).trim() || "␣");
  return [...new Set(tokens)].slice(0, 4).join("  ");
}

function update() {
  const query = el("query").value, own = /^#?(\d+)$/.exec(query.trim());
  found = search(query, el("scope").value).sort(ORDERS[el("order").value]);
  if (own) { // the feature of this number comes first
    const first = (f) => (f.n === Number(own[1]) ? 0 : 1);
    found.sort((a, b) => first(a) - first(b));
  }
  visible = PAGE;
  el("count").textContent = query.trim()
    ? `${count(found.length)} of ${count(features.length)} features` : `${count(features.length)} features`;
  draw();
}

function draw() {
  el("list").replaceChildren(...found.slice(0, visible).map((f) => {
    const link = make("a", { href: `#feature=${f.n}` },
      make("span", { class: "number" }, String(f.n)),
      make("span", { class: "peaks" }, peaksOf(f)),
      make("span", { class: "share" }, percent(f)));
    if (current && f.n === current.n) link.setAttribute("aria-current", "true");
    return make("li", {}, link);
  }));
  el("more").hidden = found.length <= visible;
}

// ---- one feature ----

function histogram(f) {
  const most = Math.log1p(Math.max(1, ...f.counts));
  const bars = make("div", { class: "bars", role: "img",
    "aria-label": `Histogram of ${f.active} activations up to ${number(f.largest)}` });
  f.counts.forEach((n, i) => {
    const range = `${number(i * f.width)} to ${number((i + 1) * f.width)}`;
    const bar = make("span", { title: `${range}: ${count(n)} tokens`, "data-count": n });
    bar.style.height = `${100 * Math.log1p(n) / most}%`;
    bars.append(bar);
  });
  return make("div", {}, make("h3", {}, "Activations"), bars,
    make("div", { class: "axis" }, make("span", {}, "0"),
      make("span", {}, "tokens, logarithmic"), make("span", {}, number(f.counts.length * f.width))));
}

function outputs(f, name, title) {
  const rows = (f[name] || []).map(([token, value]) => make("tr", {},
    make("td", { class: "token" }, shown(data.vocabulary[token])),
    make("td", { class: "value" }, value.toFixed(2))));
  return make("div", { class: name }, make("h3", {}, title), make("table", {}, ...rows));
}

function context(f, c) {
  const text = make("div", { class: "text" });
  for (const [token, value, peak] of tokensOf(c)) {
    const span = make("span", {}, shown(token));
    if (value > 0) {
      span.title = number(value);
      span.dataset.value = value;
      span.style.backgroundColor = `rgba(var(--heat), ${(0.08 + 0.72 * value / f.largest).toFixed(3)})`;
    }
    if (peak) span.className = "peak";
    text.append(span);
  }
  const at = new Map(c.values).get(0) || 0;
  return make("div", { class: "context" }, make("div", { class: "value" }, number(at)), text);
}

function steering(f) {
  const rows = f.steered.map((s) => make("tr", {},
    make("th", { scope: "row" }, s.value === null ? "unchanged" : `${number(s.strength)} × (${number(s.value)})`),
    make("td", { class: "text" }, make("span", { class: "prompt" }, shown(about.prompt)), shown(s.text))));
  return [make("h3", {}, "Steering"),
    make("p", { class: "note" }, "Text generated while the feature is clamped at every token to "
      + "a multiple of its largest activation."),
    make("table", { class: "steered" }, ...rows)];
}

function show(f) {
  current = f;
  const parts = [make("div", { class: "top" }, make("h2", {}, `Feature ${f.n}`),
    make("a", { class: "note", href: `#feature=${f.n}` }, `#feature=${f.n}`)),
  make("p", { class: "facts" },
    make("span", {}, "active in ", make("b", {}, percent(f)), ` of tokens (${count(f.active)})`),
    make("span", {}, "largest ", make("b", {}, number(f.largest))),
    make("span", {}, "mean when active ", make("b", {}, number(f.mean))))];
  const panels = [histogram(f)];
  if (f.up) panels.push(outputs(f, "up", "Makes more likely"), outputs(f, "down", "Makes less likely"));
  parts.push(make("div", { class: "panels" }, ...panels));
  if (f.near.length) {
    parts.push(make("h3", {}, "Nearest by decoder"), make("p", { class: "near" },
      ...f.near.map(([n, cosine]) => make("a", { href: `#feature=${n}` }, `${n} `,
        make("small", {}, `${cosine.toFixed(2)} ${peaksOf(byNumber.get(n))}`)))));
  }
  parts.push(make("h3", {}, "Contexts with the largest activations"),
    ...f.top.map((c) => context(f, c)));
  if (f.steered) parts.push(...steering(f));
  if (f.lower.length) {
    parts.push(make("h3", {}, "Other contexts, drawn at random, by activation"),
      ...f.lower.map((c) => context(f, c)));
  }
  if (!f.active) parts.push(make("p", { class: "note" }, "Not active in this text."));
  el("feature").replaceChildren(...parts);
  el("feature").scrollTop = 0;
  document.title = `Feature ${f.n} of ${about.name}`;
}

function missing(n) {
  current = null;
  const why = !(n >= 0 && n < about.d_sae) ? `There is no such feature: they are 0 to ${about.d_sae - 1}.`
    : "It was not active in the text, or is not among the features of this page.";
  el("feature").replaceChildren(make("h2", {}, `Feature ${n}`), make("p", {}, why));
}

function route() {
  const hash = /^#feature=(\d+)$/.exec(location.hash);
  const n = hash ? Number(hash[1]) : found.length ? found[0].n : null;
  if (n === null) return;
  if (byNumber.has(n)) show(byNumber.get(n)); else missing(n);
  for (const link of el("list").querySelectorAll("a")) {
    const own = link.getAttribute("href") === `#feature=${n}`;
    if (own) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current");
    if (own) link.scrollIntoView({ block: "nearest" });
  }
}

function step(by) {
  const at = current ? found.findIndex((f) => f.n === current.n) : -1;
  const next = found[Math.min(Math.max(at + by, 0), found.length - 1)];
  if (!next) return;
  if (found.indexOf(next) >= visible) { visible += PAGE; draw(); }
  location.hash = `feature=${next.n}`;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target === el("query")) {
    if (event.key === "Escape") {
      event.preventDefault(); // browsers would clear the field after the list is drawn
      event.target.value = "";
      update();
      event.target.blur();
    }
    if (event.key === "ArrowDown") { event.preventDefault(); step(1); }
    if (event.key === "ArrowUp") { event.preventDefault(); step(-1); }
    return;
  }
  if (event.target.tagName === "SELECT") return;
  if (event.key === "/") { event.preventDefault(); el("query").select(); }
  if (event.key === "j") step(1);
  if (event.key === "k") step(-1);
});
el("search").addEventListener("submit", (event) => {
  event.preventDefault();
  if (found.length) location.hash = `feature=${found[0].n}`;
});
el("query").addEventListener("input", update);
el("scope").addEventListener("change", update);
el("order").addEventListener("change", update);
el("more").addEventListener("click", () => { visible += PAGE; draw(); });
addEventListener("hashchange", route);

el("title").textContent = about.name;
const written = about.hook_out && about.hook_out !== about.hook ? ` to ${about.hook_out}` : "";
el("about").textContent = `${about.model || "model"}, layer ${about.layer}, ${about.hook}${written}; `
  + `${count(about.d_sae)} latents (${about.activation}); ${count(about.tokens)} tokens read; `
  + `${count(about.alive)} of ${count(about.read)} features active`
  + (about.left_out > 0 ? `, ${count(about.left_out)} of them not on this page` : "");
update();
route();
