// One SAE: what it is, its scores, where its latents lie, and the table of latents.

import { element, replace, sentence, visible } from "./dom.js";
import { counted, flat, readable } from "./numbers.js";
import { histogram, cloud } from "./charts.js";
import { narrowed, quoted } from "./query.js";
import { block, factList, missing } from "./blocks.js";
import { scoreCard, scoreTable } from "./scores.js";
import { shownProblem, filled, jobForm } from "./states.js";
import { indexBadge, verdictBadge, siteChoice } from "./library.js";
import { curveCharts } from "./run.js";
import { LatentTable } from "./table.js";
import { keepState, latentAt, promptAt, compareAt, runAt, saeAt } from "./routes.js";

const HEADLINE = 8;

export async function saePage(host, { source, path, state }) {
  const overview = await source.sae(path[1]), card = overview.card ?? {}, id = card.id ?? path[1];
  document.title = `${card.title ?? id} · saekit`;
  const gone = overview.missing ?? {}, ready = !gone.latents && (card.index?.state ?? "ok") === "ok";
  const table = element("div", {}), plots = element("div", { class: "charts" });
  let made = null;
  const scores = overview.scores ?? [], first = scores.slice(0, HEADLINE), more = scores.slice(HEADLINE);
  const lead = scores.filter((s) => s.headline);
  const [heads, others] = lead.length ? [lead, scores.filter((s) => !s.headline)] : [first, more];
  const section = (name, title, ...body) => element("section", { id: name }, element("h2", {}, title), body);
  replace(host,
    element("header", {}, element("h1", {}, visible(card.title ?? id)),
      factList(overview.facts ?? []),
      element("p", { class: "badges" }, indexBadge(card), "verify" in card ? verdictBadge(card.verify) : null,
        card.labels ? element("span", { class: "badge" }, counted(card.labels, "label")) : null),
      element("p", { class: "links" }, source.live && card.reads_text !== false ? element("a", { href: promptAt(id) }, "try a prompt") : null,
        source.alone ? null : element("a", { href: compareAt({ a: id }) }, "compare"),
        card.run && !source.alone ? element("a", { href: runAt(card.run) }, "run and checkpoints") : null,
        siteChoice(overview, saeAt),
        card.neuronpedia ? element("a", { href: card.neuronpedia, rel: "noreferrer noopener", target: "_blank" }, "Neuronpedia ↗") : null)),
    (overview.notes ?? []).length ? section("notes", "Notes on this SAE", element("ul", { class: "notes" },
      overview.notes.map((note) => element("li", { dir: "auto" }, note)))) : null,
    section("scores", "Scores", scores.length ? [overview.about ? element("p", { class: "about" }, overview.about) : null,
      element("div", { class: "cards" }, heads.map(scoreCard)),
      ...(overview.without ?? []).map((line) => element("p", {}, element("small", {}, line))),
      others.length ? element("details", {}, element("summary", {}, "More scores"), scoreTable(others)) : null]
      : missing(gone.scores ?? { text: "There is no evaluation yet." })),
    source.alone ? section("training", "Training", training(source, card, gone)) : null,
    section("latents", "Latents", plots, ready ? table
      : [missing({ ...gone.latents, text: sentence(gone.latents?.text || "There is no index of latents yet.") }),
        source.live ? indexForm(source, id) : null]),
    (overview.blocks ?? []).map(({ title, ...one }) => section("left-out", title, block(one))),
    overview.definitions && Object.keys(overview.definitions).length ? section("definitions", "Definitions",
      element("dl", {}, Object.entries(overview.definitions).map(([k, v]) => [element("dt", {}, k), element("dd", {}, v)]))) : null,
    provenance(overview));
  densities(plots, overview.histogram);
  if (ready) {
    try {
      made = new LatentTable({ source, id, overview, state: { where: state.where ?? "", q: state.q ?? "", in: state.in ?? "", cols: state.cols ?? "" },
        onstate: keepState, href: (i) => latentAt(id, i, { where: made?.state.where }) });
      table.append(made.box);
      scatterPanel(plots, { source, id, overview, onbrush: (clause) => made.change({ where: narrowed(made.state.where ?? "", clause) }) });
    } catch (error) {
      console.error(error);
      replace(table, shownProblem(error));
    }
  }
  return { key: (event) => made?.key(event) ?? false, ready: made?.ready };
}

function training(source, card, gone) {
  if (gone.training || !card.run) return missing(gone.training ?? { text: "There is no training log.", command: "saekit train" });
  const host = element("div");
  filled(host, source.run(card.run), (run) => [
    element("p", { class: "about" }, "Training curves are over training batches, activations scaled as in training.",
      run.curves?.every > 1 ? ` One record in ${run.curves.every} is drawn.` : ""),
    curveCharts(run.curves)], "Reading the curves");
  return host;
}

// The index from here: a job of the server, which goes on when the page is closed.
function indexForm(source, id) {
  const tokens = element("input", { type: "number", required: true, value: "200000", min: 1000, max: 100000000, step: 1000, "aria-label": "tokens to read" });
  const fresh = element("input", { type: "checkbox" });
  return jobForm({ source, kind: "index", label: "Index it here", fields: element("div", { class: "controls" }, element("label", {}, "tokens ", tokens),
      element("label", { title: "Else one that was broken off goes on, with the tokens that it was asked for." }, fresh, " begin anew")),
    read: () => ({ sae: id, tokens: Number(tokens.value), fresh: fresh.checked }), draw: () => element("p", {}, "Indexed. ",
      element("button", { type: "button", onclick: () => location.reload() }, "show its latents")) });
}

function densities(plots, found) {
  if (!found) return;
  const edges = found.log10_edges ?? found.edges, counts = found.latents ?? found.counts;
  const never = found.never_fired;
  plots.append(histogram({ title: "Latents by density", edges, counts, height: 270,
    unit: "log10 of the share of tokens the latent is on for",
    note: `${counts.reduce((a, b) => a + b, 0).toLocaleString("en")} fire` + (found.on ? ` on ${found.on}` : "") +
      (never === undefined || never === null ? "" : `; ${never.toLocaleString("en")} never`) }));
}

function scatterPanel(plots, { source, id, overview, onbrush }) {
  const numeric = (overview.columns ?? []).filter((c) => c.name !== "latent" && !["text", "token"].includes(c.kind)).map((c) => c.name);
  if (numeric.length < 2) return;
  const first = (...names) => names.find((name) => numeric.includes(name));
  const pick = { x: first("density") ?? numeric[0], y: first("max", "cosine") ?? numeric[1], logX: true, logY: false };
  const host = element("div", {}), about = (name) => overview.columns.find((c) => c.name === name) ?? { name };
  const choice = (key, label) => element("label", {}, `${label} `, element("select", { onchange: (event) => { pick[key] = event.target.value; draw(); } },
    numeric.map((name) => element("option", { value: name, selected: name === pick[key] }, about(name).label ?? name))));
  const log = (key, label) => element("label", {}, element("input", { type: "checkbox", checked: pick[key],
    onchange: (event) => { pick[key] = event.target.checked; draw(); } }), ` ${label}`);
  const short = (v) => String(+v.toPrecision(3));
  const draw = () => filled(host, source.columns(id, [pick.x, pick.y, "latent"].slice(0, 2)), ({ values }) => cloud({
    title: "Latents", xs: Float64Array.from(values[0], (v) => v ?? NaN), ys: Float64Array.from(values[1], (v) => v ?? NaN),
    x: { label: about(pick.x).label ?? pick.x, unit: about(pick.x).unit, log: pick.logX },
    y: { label: about(pick.y).label ?? pick.y, unit: about(pick.y).unit, log: pick.logY }, height: 240,
    onbrush: ({ x, y }) => onbrush([[pick.x, x], [pick.y, y]].map(([name, ends]) => `${quoted(name)}>=${short(ends[0])} and ${quoted(name)}<=${short(ends[1])}`).join(" and ")),
    onpick: (i) => { location.hash = latentAt(id, i); },
    say: (i) => `latent ${i}: ${pick.x} ${readable(values[0][i])}, ${pick.y} ${readable(values[1][i])}`,
  }), "Reading the columns");
  plots.append(element("div", { class: "scatter-panel" }, element("div", { class: "controls small" }, element("span", {}, choice("x", "x"), " ", log("logX", "log")),
    element("span", {}, choice("y", "y"), " ", log("logY", "log"))), host, element("small", {}, "Draw a box to keep its latents in the table; click a point to open it.")));
  draw();
}

function provenance(overview) {
  const given = { ...(overview.settings && Object.keys(overview.settings).length ? { "Settings of the run": overview.settings } : {}), ...(overview.provenance ?? {}) };
  const parts = Object.entries(given).filter(([, part]) => part && typeof part === "object" && Object.keys(part).length);
  const loose = Object.entries(given).filter(([, part]) => part !== null && typeof part !== "object");
  const rows = (part) => element("div", { class: "wide" }, element("table", {}, element("thead", {}, element("tr", {},
    element("th", { scope: "col" }, "setting"), element("th", { scope: "col" }, "value"))), element("tbody", {}, flat(part).map(([k, v]) =>
    element("tr", {}, element("td", {}, k), element("td", { dir: "auto" }, v))))));
  if (!parts.length && !loose.length) return null;
  return element("section", { id: "provenance" }, element("h2", {}, "Configuration and provenance"),
    loose.length ? rows(Object.fromEntries(loose)) : null,
    parts.map(([name, part]) => element("details", {}, element("summary", {}, name), rows(part))));
}

