// The library: SAEs, runs and studies found in a folder.

import { element, command, sentence, settled, replace, visible } from "./dom.js";
import { counted, readable, tip } from "./numbers.js";
import { saeAt, runAt, studyAt, compareAt, promptAt } from "./routes.js";
import { leading, scoreMini } from "./scores.js";
import { keepState } from "./routes.js";

const STATES = { ok: "indexed", missing: "no index", stale: "index of other weights", damaged: "damaged index" };

export function indexBadge({ index, reads_text: reads }) {
  if (!index) return null;
  return element("span", { class: `badge state-${index.state}`, title: index.reason ?? "" }, STATES[index.state] ?? index.state,
    index.state === "ok" && index.tokens ? ` · ${readable(index.tokens)} ${reads === false ? "samples" : "tokens"}` : "");
}

export function verdictBadge(verify) {
  if (!verify) return element("span", { class: "badge" }, "not verified");
  const state = { fits: "state-ok", doubt: "state-stale", unknown: "" }[verify.verdict] ?? "state-damaged";
  const badge = element("span", { class: `badge ${state}`, tabindex: 0 }, `verify: ${verify.verdict}`);
  return tip(badge, [verify.at ? `verified ${verify.at}` : "", ...(verify.against ?? [])].filter(Boolean));
}

// The ids of the sites that share an SAE, in the order of the model.
export function siteIds(card) {
  const base = card.id.split("~")[0], sites = card.sites ?? [];
  return card.id.includes("~") ? sites.map((site) => `${base}~${site}`) : [card.id];
}

export const siteOf = (id) => id.split("~").pop();

// Where an SAE has an index a site: a choice among them. to(id): the address of this page at another.
export function siteChoice(overview, to) {
  const { card = {}, siblings = [] } = overview;
  if (!siblings.length) return null;
  const ids = siteIds(card).filter((one) => one === card.id || siblings.includes(one));
  return element("label", {}, "site ", element("select", { onchange: (event) => { location.hash = to(event.target.value); } },
    ids.map((one) => element("option", { value: one, selected: one === card.id }, siteOf(one)))));
}

function sitesOf(card) {
  const sites = card.sites ?? [];
  if (!card.id.includes("~") || sites.length < 2) return ["site", card.site ?? sites.join(", ")];
  return [`${sites.length} sites`, `${sites[0]} to ${sites.at(-1)}`];
}

export function saeCard(card, { live } = {}) {
  const scores = card.scores ?? {}, ready = card.index?.state === "ok";
  return element("article", { class: "sae-card", "aria-label": card.title },
    element("h3", {}, element("a", { href: saeAt(card.id) }, visible(card.title ?? card.id))),
    element("p", { class: "facts" }, [["model", card.model], sitesOf(card),
      ["architecture", card.architecture], ["latents", card.d_sae?.toLocaleString("en")]]
      .filter(([, v]) => v).map(([k, v]) => element("span", {}, element("b", {}, k), " ", visible(String(v))))),
    Object.keys(scores).length ? element("p", { class: "minis" }, leading(scores).map(([name, s]) => scoreMini(name, s))) : null,
    element("p", { class: "badges" }, indexBadge(card), Object.keys(scores).length ? null : element("span", { class: "badge" }, "not measured"), verdictBadge(card.verify),
      card.labels ? element("span", { class: "badge" }, counted(card.labels, "label")) : null),
    !ready && card.index?.command ? element("p", { class: "missing" }, sentence(card.index.reason || "Its latents have no index yet."), " ", command(card.index.command)) : null,
    element("p", { class: "links" }, live && card.reads_text !== false ? element("a", { href: promptAt(card.id) }, "prompt") : null,
      element("a", { href: compareAt({ a: card.id }) }, "compare"),
      card.run ? element("a", { href: runAt(card.run) }, "run") : null,
      card.neuronpedia ? element("a", { href: card.neuronpedia, rel: "noreferrer noopener", target: "_blank" }, "Neuronpedia ↗") : null));
}

export async function libraryPage(host, { source, state }) {
  document.title = "Library · saekit";
  const [library, meta] = await Promise.all([source.library(), source.meta().catch(() => null)]);
  const { saes = [], runs = [], studies = [], notes = [] } = library;
  const grid = element("div", { class: "sae-grid" }), count = element("p", { class: "count", role: "status" });
  const search = element("input", { type: "search", placeholder: "filter: model, site, architecture", "aria-label": "Filter the SAEs",
    value: state.q ?? "", oninput: settled(() => { keepState({ q: search.value }); draw(); }) });
  const orders = { title: "name", d_sae: "latents", fvu: "FVU", l0: "L0" };
  const order = element("select", { "aria-label": "Sort by", onchange: () => { keepState({ sort: order.value }); draw(); } },
    Object.entries(orders).map(([value, label]) => element("option", { value, selected: state.sort === value }, `by ${label}`)));
  const draw = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = saes.filter((c) => {
      const text = [c.id, c.title, c.model, c.site, ...(c.sites ?? []), c.architecture].join(" ").toLowerCase();
      return words.every((w) => text.includes(w));
    });
    const key = (c) => (order.value in (c.scores ?? {}) ? c.scores[order.value].value ?? Infinity : c[order.value] ?? "");
    shown.sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0));
    count.textContent = `${shown.length === saes.length ? "" : `${shown.length} of `}${counted(saes.length, "SAE")}`;
    replace(grid, shown.map((c) => saeCard(c, { live: source.live })));
  };
  draw();
  const none = element("p", { class: "missing" }, "There is no SAE in this folder yet. Train one: ", command("saekit demo"),
    " or fetch a published one: ", command("saekit pull NAME"));
  replace(host, element("header", {}, element("h1", {}, "Library"),
    meta?.folder ? element("p", { class: "count" }, "of ", element("code", {}, meta.folder)) : null),
  notes.map((note) => element("p", { class: "missing", dir: "auto" }, visible(note))),
  saes.length ? [element("div", { class: "controls" }, search, order), count, grid] : none,
  runs.length ? element("section", {}, element("h2", {}, "Runs"), element("div", { class: "wide" }, element("table", {},
    element("thead", {}, element("tr", {}, ["run", "state", "done", "steps"].map((h) => element("th", { scope: "col" }, h)))),
    element("tbody", {}, runs.map((r) => element("tr", {}, element("td", {}, element("a", { href: runAt(r.id) }, visible(r.title ?? r.id))),
      element("td", {}, r.status ?? "–"), element("td", {}, r.fraction === null || r.fraction === undefined ? "–" : element("progress",
        { max: 1, value: String(r.fraction), "aria-label": `${Math.round(100 * r.fraction)} %`, title: `${Math.round(100 * r.fraction)} %` })),
      element("td", { class: "number" }, readable(r.steps)))))))) : null,
  studies.length ? element("section", {}, element("h2", {}, "Studies"), element("div", { class: "sae-grid" }, studies.map((s) =>
    element("article", { class: "sae-card" }, element("h3", {}, element("a", { href: studyAt(s.id) }, visible(s.title ?? s.id))),
      element("p", { class: "badges" }, element("span", { class: "badge" }, s.kind)), s.about ? element("p", {}, s.about) : null)))) : null);
}
