// Two SAEs, or two latents, side by side.

import { element, replace, visible } from "./dom.js";
import { readable, exact, about, tip } from "./numbers.js";
import { histogram } from "./charts.js";
import { exampleLines } from "./examples.js";
import { missing } from "./blocks.js";
import { siteIds, siteOf } from "./library.js";
import { valueList, histogramPanel, logitPanel } from "./latent.js";
import { filled, jobForm } from "./states.js";
import { interval, near } from "./scores.js";
import { saeAt, latentAt, compareAt, keepState } from "./routes.js";

export async function comparePage(host, { source, state }) {
  document.title = "Compare · saekit";
  const { saes = [] } = await source.library();
  if (!saes.length) { replace(host, element("h1", {}, "Compare"), element("p", { class: "empty" }, "There is no SAE to compare.")); return {}; }
  // A folded SAE is one card with an id a site.
  const choices = saes.flatMap((c) => siteIds(c).map((id) => [id, visible(c.title ?? id) + (id.includes("~") ? ` at ${siteOf(id)}` : "")]));
  const ids = choices.map(([id]) => id);
  for (const [key, id] of [["a", state.a], ["b", state.b]]) { // "folded" is short for the first of its sites
    const whole = id && !ids.includes(id) ? ids.find((one) => one.startsWith(`${id}~`)) : null;
    if (whole) state = { ...state, [key]: whole };
    else if (id && !ids.includes(id)) throw Object.assign(new Error(`There is no SAE ${id} here; there are ${ids.slice(0, 20).join(", ")}.`), { title: "Not found" });
  }
  const at = { a: state.a ?? ids[0], b: state.b ?? saes.map((c) => c.id).find((id) => id !== (state.a ?? ids[0])) ?? ids[0], latent: state.latent ?? "", other: state.other ?? "" };
  const body = element("div");
  const pick = (key, label) => element("label", {}, `${label} `, element("select", { onchange: (event) => { at[key] = event.target.value; draw(); } },
    choices.map(([id, title]) => element("option", { value: id, selected: id === at[key] }, title))));
  const number = (key, label) => element("label", {}, `${label} `, element("input", { type: "number", min: 0, value: at[key], "aria-label": `${label} number`,
    onchange: (event) => { at[key] = event.target.value; draw(); } }));
  const draw = () => {
    keepState(at);
    filled(body, Promise.all([source.sae(at.a), source.sae(at.b)]), ([a, b]) => [at.latent !== "" || at.other !== "" ? element("section", {}, element("h2", {}, "Latents"), element("div", { class: "two wide-two" },
        one(source, at.a, at.latent, a), one(source, at.b, at.other, b))) : null,
      at.a === at.b ? null : scores(a, b, at),
      at.a === at.b ? null : element("section", {}, element("h2", {}, "Which latents are the same"), element("p", { class: "about" },
        "Each latent of the first SAE with the closest decoder direction of the second."), matches(source, at))]);
  };
  replace(host, element("h1", {}, "Compare"), element("div", { class: "controls" }, pick("a", "first"), number("latent", "latent"), pick("b", "second"), number("other", "latent")), body);
  draw();
  return {};
}

function scores(a, b, at) {
  const byLabel = (o) => new Map((o.scores ?? []).map((s) => [s.label, s]));
  const [first, second] = [byLabel(a), byLabel(b)], labels = [...new Set([...first.keys(), ...second.keys()])];
  const cell = (s) => !s || s.value === null ? element("td", {}, "–")
    : tip(element("td", { class: "number", tabindex: 0 }, near(s.value), element("br"), element("small", {}, interval(s))), () => about(s.value, s));
  // Intervals that do not touch are said; where they do, nothing follows.
  const verdict = (x, y) => {
    if (!x || !y || x.value === null || y.value === null) return "–";
    const known = [x.low, x.high, y.low, y.high].every((v) => v !== null && v !== undefined);
    const change = `${y.value - x.value > 0 ? "+" : ""}${readable(y.value - x.value)}`;
    if (!known) return `${change}; no interval`;
    if (x.high >= y.low && y.high >= x.low) return `${change}; intervals overlap`;
    if (x.better !== "lower" && x.better !== "higher") return `${change}; intervals apart`;
    const good = (x.better === "lower") === (y.value < x.value);
    return `${change}; second is ${good ? "better" : "worse"}`;
  };
  const name = (o, id) => element("a", { href: saeAt(id) }, visible(o.card?.title ?? id));
  const facts = new Map([...(a.facts ?? []), ...(b.facts ?? [])].map(([k]) => [k]));
  const said = (v) => typeof v === "number" ? exact(v) : visible(String(v ?? "–"));
  const fact = (o, k) => said((o.facts ?? []).find(([label]) => label === k)?.[1]);
  const lacking = [[a, at.a], [b, at.b]].filter(([o]) => !(o.scores ?? []).length);
  return element("section", {}, element("h2", {}, "Scores"), element("div", { class: "wide" }, element("table", { class: "side-by-side" },
    element("thead", {}, element("tr", {}, element("th", {}, ""), element("th", { scope: "col" }, name(a, at.a)), element("th", { scope: "col" }, name(b, at.b)), element("th", { scope: "col" }, "second − first"))),
    element("tbody", {}, [...facts.keys()].map((k) => element("tr", { class: fact(a, k) === fact(b, k) ? "same" : null }, element("th", { scope: "row" }, k), element("td", {}, fact(a, k)), element("td", {}, fact(b, k)), element("td"))),
      labels.map((label) => element("tr", {}, element("th", { scope: "row" }, label), cell(first.get(label)), cell(second.get(label)),
        element("td", {}, verdict(first.get(label), second.get(label))))))),
  ), lacking.map(([o, id]) => missing({ ...o.missing?.scores, text: `${visible(o.card?.title ?? id)} has no evaluation yet.` })));
}

function one(source, id, i, overview) {
  const host = element("div", { class: "panel" });
  if (i === "") { host.append(element("p", { class: "empty" }, "Choose a latent above.")); return host; }
  filled(host, source.latent(id, i), (record) => [element("h3", {}, element("a", { href: latentAt(id, i) }, `Latent ${i}`), ` of ${visible(overview.card?.title ?? id)}`, record.label ? ` · ${visible(record.label.text)}` : ""),
    valueList(record, overview.columns ?? []), exampleLines(record, "top", { most: 6 }), histogramPanel(record), logitPanel(record)]);
  return host;
}

function matches(source, at) {
  return jobForm({ source, kind: "match", label: "Match them", fields: null, by: `saekit serve`, read: () => ({ sae: at.a, other: at.b }),
    draw: (result) => matched(result, { sae: at.a, other: at.b }) });
}

export function matched(result, { sae, other }) {
  return [
    element("p", {}, Object.entries(result.share_over ?? {}).map(([over, share], k) => `${k ? "; " : ""}${readable(100 * share)} % have a match over ${over}`)),
    result.histogram ? histogram({ title: "Latents by their best cosine", ...result.histogram, unit: "cosine of decoder directions", what: "latents" }) : null,
    element("div", { class: "wide scroll" }, element("table", {}, element("thead", {}, element("tr", {}, ["first", "second", "cosine", ""].map((h) => element("th", { scope: "col" }, h)))),
      element("tbody", {}, (result.pairs ?? []).slice(0, 100).map(([x, y, cos]) => element("tr", {}, element("td", {}, element("a", { href: latentAt(sae, x) }, String(x))),
        element("td", {}, element("a", { href: latentAt(other, y) }, String(y))), element("td", { class: "number", title: exact(cos) }, readable(cos)),
        element("td", {}, element("a", { href: compareAt({ a: sae, b: other, latent: x, other: y }) }, "side by side")))))))];
}
