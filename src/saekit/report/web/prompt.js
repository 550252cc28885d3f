// A text at every site of an SAE: tokens, latents by layer, sizes, logits, steering. A pointer shows, a
// click holds; what is held is in the address.

import { element, replace, chip, edged, visible, framed, settled } from "./dom.js";
import { readable, exact, quantity, counted, tip } from "./numbers.js";
import { heatmap, spark } from "./charts.js";
import { tokenStrip, readout } from "./strip.js";
import { exampleLines } from "./examples.js";
import { runOf, steeredTable, numbers } from "./latent.js";
import { siteOf } from "./library.js";
import { filled, jobForm, shownProblem } from "./states.js";
import { saeAt, latentAt, keepState } from "./routes.js";

const ROWS = 150; // latents of one token that are listed
const GLANCE = 30; // of them while the pointer only passes: as many as are in sight
const UNITS = { max: "times its maximum", act: "units of activation", norm: "mean norms of the site" };
const SPACE = 1e7; // a cell is numbered pos * SPACE + latent

export async function promptPage(host, { source, path, state }) {
  const overview = await source.sae(path[1]), card = overview.card ?? {}, id = card.id ?? path[1];
  document.title = `Prompt · ${card.title ?? id} · saekit`;
  const views = element("div"), text = element("textarea", { rows: 3, dir: "auto", maxlength: 10000, "aria-label": "text", placeholder: "a text to read" });
  text.value = state.text ?? "";
  const form = jobForm({ source, kind: "prompt", label: "Read it", fields: text, by: `saekit prompt ${runOf(card, id)} "TEXT"`,
    read: () => {
      if (!text.value.length) throw Object.assign(new Error("Write a text of one token or more."), { title: "The prompt is empty" });
      return { sae: id, text: text.value };
    },
    onresult: (_, args) => keepState({ text: args.text }),
    draw: (result, args) => {
      const more = (held) => source.job("prompt", { ...args, ...held }); // what a long reply left out
      promptViews(views, { source, id, reading: result, text: args.text, state: { ...state, site: state.site ?? (path[1].includes("~") ? card.site : undefined) }, more });
      return element("p", { class: "count" }, `${result.tokens.length} tokens at ${result.sites.length === 1 ? result.sites[0] : `${result.sites.length} sites`}`);
    } });
  replace(host, element("header", {}, element("p", { class: "crumbs" }, element("a", { href: saeAt(id) }, visible(card.title ?? id))), element("h1", {}, "A prompt")), form, views);
  if (state.text && source.job) form.start();
  return { key: (event) => { if (event.key === "/") { event.preventDefault(); text.focus(); return true; } return false; } };
}

// reading: {tokens: [{id, text, pos, counts}], sites, numbers, d_sae, entries: {site: [pos, latent, value]}, histograms, metrics}
export function promptViews(host, { source, id, reading, text, state, more = null, examples = null, logits = null }) {
  const { tokens, sites, entries } = reading;
  const strengths = {}, tops = {}, at = tokens.map(() => []); // at[position]: [site, latent, value] each
  sites.forEach((site) => { strengths[site] = new Map(); tops[site] = new Float64Array(tokens.length); });
  const take = (found) => sites.forEach((site, l) => {
    const [ps, latents, values] = found[site] ?? [[], [], []], map = strengths[site], top = tops[site];
    for (let k = 0; k < ps.length; k++) {
      const key = ps[k] * SPACE + latents[k];
      if (map.has(key)) continue;
      map.set(key, values[k]);
      top[ps[k]] = Math.max(top[ps[k]], Math.abs(values[k]));
      at[ps[k]].push([l, latents[k], values[k]]);
    }
  });
  take(entries);
  // A reply is kept small: of a long text it has the strongest of each token. The rest is asked for what is held.
  const partial = more !== null && sites.some((site) => (reading.n_entries?.[site] ?? 0) > (entries[site]?.[0].length ?? 0));
  const read = { pos: new Set(), latent: new Set() };
  const complete = settled(async () => {
    const { pos, latent } = held;
    if (!partial || (read.pos.has(pos) && read.latent.has(latent))) return;
    try {
      const found = await more({ pos, latent });
      take(found.position.entries);
      take(found.strip.entries);
      read.pos.add(pos);
      read.latent.add(latent);
      if (held.pos === pos && held.latent === latent) { drawStripColours(); tell(pos); drawLayers(); drawLatents(); }
    } catch (error) {
      replace(latentNote, shownProblem(error));
    }
  }, 60);
  const value = (site, pos, latent) => strengths[site]?.get(pos * SPACE + latent) ?? 0;
  const strongest = (site, pos) => {
    const [ps, latents, values] = entries[site] ?? [[], [], []];
    let best = 0, latent = 0;
    for (let k = 0; k < ps.length; k++) if (ps[k] === pos && Math.abs(values[k]) > best) { best = Math.abs(values[k]); latent = latents[k]; }
    return latent;
  };
  const whole = (raw, least, most, otherwise) => {
    const n = Number(raw);
    return raw !== undefined && raw !== "" && Number.isInteger(n) && n >= least && n <= most ? n : otherwise;
  };
  const held = { pos: whole(state.pos, 0, tokens.length - 1, tokens.length - 1), site: sites.includes(state.site) ? state.site : sites[Math.floor(sites.length / 2)],
    threshold: Math.min(0.95, Math.max(0, Number(state.threshold ?? 0.25) || 0)) };
  held.latent = whole(state.latent, 0, reading.d_sae - 1, strongest(held.site, held.pos));
  let over = {}; // what the pointer is on: shown, not held
  const now = () => ({ ...held, ...over });
  const strings = tokens.map((t) => t.text), places = tokens.map((_, j) => j);
  const parts = Object.fromEntries(["controls", "strip", "layers", "latents", "sizes", "examples", "logits", "steer"].map((k) => [k, element("div")]));
  const say = readout(), rerun = framed(() => { drawStripColours(); drawLatents(); });
  const choose = (change) => { // held, in the address
    Object.assign(held, change);
    over = {};
    keepState({ pos: held.pos, site: held.site, latent: held.latent, threshold: held.threshold });
    drawAll();
    again();
  };
  const preview = (change) => { over = change; rerun(); };

  const drawControls = () => {
    const field = (key, most) => element("input", { type: "number", min: 0, max: most, value: String(held[key]), "aria-label": key, onchange: (event) => {
      const n = Number(event.target.value);
      if (event.target.value !== "" && Number.isInteger(n) && n >= 0 && n <= most) choose({ [key]: n });
      else event.target.value = String(held[key]);
    } });
    const slider = element("input", { type: "range", min: 0, max: 0.95, step: 0.05, value: String(held.threshold), "aria-label": "threshold",
      oninput: () => { held.threshold = Number(slider.value); level.textContent = held.threshold.toFixed(2); rerun(); }, onchange: () => choose({ threshold: Number(slider.value) }) });
    const level = element("span", { class: "number" }, held.threshold.toFixed(2));
    replace(parts.controls, element("div", { class: "controls pinned" },
      sites.length > 1 ? element("label", {}, "site ", element("select", { onchange: (event) => choose({ site: event.target.value }) },
        sites.map((s) => element("option", { value: s, selected: s === held.site }, s)))) : element("span", {}, `site ${sites[0]}`),
      element("label", {}, "position ", field("pos", tokens.length - 1)), element("label", {}, "latent ", field("latent", reading.d_sae - 1)),
      id ? element("a", { href: latentAt(siteId(), held.latent) }, `latent ${held.latent}`) : null,
      element("label", {}, "threshold ", slider, level)));
  };
  // A folded SAE has an index a site: its own id with the site behind it.
  const siteId = () => (sites.length > 1 && !id.includes("~") ? `${id}~${held.site}` : sites.length > 1 ? `${id.split("~")[0]}~${held.site}` : id);

  let strip = null;
  const drawStrip = () => {
    strip = tokenStrip({ strings, tokens: places, channels: [{ name: "activation", unit: "", at: [], values: [] }] }, {
      held: held.pos, label: "the prompt", className: "prompt-strip", out: (j) => tokens[j].counts === 0 || tokens[j].counts === false,
      onsay: (_, stays) => { if (!stays) return; tell(held.pos); },
      onhover: (j) => { preview(j === null ? {} : { pos: j }); tell(j ?? held.pos); },
      onpick: (j) => choose({ pos: j, latent: strongest(held.site, j) }) });
    replace(parts.strip, say.box, strip);
    tell(held.pos);
    drawStripColours();
  };
  const tell = (j) => say.say(`${edged(strings[j])} · position ${j} · latent ${held.latent}: ${exact(value(held.site, j, held.latent))}; the strongest latent here: ${exact(tops[held.site][j])}`, j === held.pos);
  const drawStripColours = () => {
    const { site, latent } = now();
    for (const node of strip.querySelectorAll(".tok")) {
      const j = Number(node.dataset.j), v = value(site, j, latent), share = tops[site][j] ? Math.min(1, Math.abs(v) / tops[site][j]) : 0;
      node.classList.toggle("on", share > 0);
      node.classList.toggle("cold", v < 0);
      node.style.setProperty("--share", `${(100 * share).toFixed(1)}%`);
    }
  };

  const layerOf = (site) => site.replace(/^L(\d+)\..*$/, "$1");
  const oneEach = new Set(sites.map(layerOf)).size === sites.length; // else a layer's number does not tell its sites apart
  const shortSite = (site) => (oneEach ? layerOf(site) : site);
  const drawLayers = () => {
    if (sites.length < 2) { replace(parts.layers); return; }
    replace(parts.layers, element("h2", {}, "The held latent, every token and layer"), heatmap({
      title: `Latent ${held.latent}`, x: strings.map((s) => edged(s).slice(0, 12)), y: sites.map(shortSite), unit: "strength", xLabel: "token", yLabel: "layer",
      values: sites.map((s) => places.map((j) => value(s, j, held.latent))), mark: [held.pos, sites.indexOf(held.site)],
      onpick: (i, j) => choose({ pos: i, site: sites[j] }) }));
  };

  // At one site there is room for what each latent is strongest on.
  const one = sites.length === 1 && source?.quick && id, known = new Map();
  const drawLatents = () => {
    const { pos } = now(), rows = new Map();
    for (const [l, latent, v] of at[pos]) {
      const row = rows.get(latent) ?? { latent, mass: 0, moment: 0, cells: new Map() };
      row.mass += Math.abs(v);
      row.moment += Math.abs(v) * (reading.numbers?.[l] ?? l);
      if (Math.abs(v) > held.threshold * tops[sites[l]][pos]) row.cells.set(sites[l], v);
      rows.set(latent, row);
    }
    const shown = [...rows.values()].filter((row) => row.cells.size);
    for (const row of shown) row.mean = row.moment / row.mass;
    if (sites.length > 1) shown.sort((a, b) => a.mean - b.mean || b.mass - a.mass);
    else shown.sort((a, b) => b.mass - a.mass);
    const table = element("table", { class: "grid-table" }, element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "latent"),
      sites.length > 1 ? element("th", { scope: "col" }, "mean layer") : null, sites.map((s) => element("th", { scope: "col", title: s }, sites.length > 1 ? shortSite(s) : "activation")),
      one ? element("th", { scope: "col", class: "words" }, "strongest on") : null)));
    const body = element("tbody");
    for (const row of shown.slice(0, pos === held.pos ? ROWS : GLANCE)) {
      const line = element("tr", { class: row.latent === held.latent ? "on" : null }, element("th", { scope: "row", "data-latent": row.latent }, String(row.latent)),
        sites.length > 1 ? element("td", {}, row.mean.toFixed(2)) : null);
      for (const site of sites) {
        const v = row.cells.get(site);
        if (v === undefined) { line.append(document.createElement("td")); continue; }
        const cell = document.createElement("td");
        cell.className = v < 0 ? "cell cold" : "cell";
        cell.dataset.site = site;
        cell.dataset.latent = row.latent;
        cell.title = `${site}, latent ${row.latent}: ${exact(v)}`;
        cell.textContent = Math.abs(v) < 10 ? v.toFixed(1) : v.toFixed(0);
        cell.style.setProperty("--share", `${(100 * Math.min(1, Math.abs(v) / tops[site][pos])).toFixed(1)}%`);
        if (row.latent === held.latent && site === held.site) cell.classList.add("held");
        line.append(cell);
      }
      if (one) line.append(element("td", { class: "words" }, (known.get(row.latent) ?? []).map((text) => chip(text))));
      body.append(line);
    }
    table.append(body);
    replace(latentNote, `Token ${edged(strings[pos])} at position ${pos}: `, shown.length ? `${counted(shown.length, "latent")} over ${held.threshold.toFixed(2)} of the strongest${sites.length > 1 ? " of a layer, early layers first" : ""}.` : "no latent is on.",
      shown.length > ROWS ? ` The first ${ROWS} are listed; raise the threshold for fewer.` : "",
      partial && !read.pos.has(pos) ? " Only the strongest are read yet; a click reads the others." : "");
    replace(latentHost, table);
    const asked = one && pos === held.pos ? shown.slice(0, ROWS).map((row) => row.latent).filter((i) => !known.has(i)) : [];
    if (asked.length) {
      for (const i of asked) known.set(i, []);
      source.previews(id, asked).then(({ peaks }) => { asked.forEach((i, k) => known.set(i, peaks[k])); drawLatents(); }, () => {}); // without an index there are none
    }
    const line = pos === held.pos ? table.querySelector("tr.on") : null; // the held latent stays in sight
    if (line && (line.offsetTop < latentHost.scrollTop || line.offsetTop + line.offsetHeight > latentHost.scrollTop + latentHost.clientHeight)) {
      latentHost.scrollTop = line.offsetTop - latentHost.clientHeight / 2;
    }
  };
  const latentNote = element("p", { class: "count", role: "status" });
  const latentHost = element("div", { class: "wide scroll", tabindex: 0, role: "region", "aria-label": "latents of the token",
    onclick: (event) => {
      const cell = event.target.closest("[data-latent]");
      if (cell) choose({ latent: Number(cell.dataset.latent), site: cell.dataset.site ?? held.site, pos: now().pos });
    },
    onpointerover: (event) => {
      const cell = event.target.closest("[data-latent]");
      if (!cell) return;
      over = { latent: Number(cell.dataset.latent), site: cell.dataset.site ?? held.site, pos: now().pos };
      drawStripColours();
    },
    onpointerleave: () => { over = {}; drawStripColours(); } });
  replace(parts.latents, element("h2", {}, sites.length > 1 ? "Latents of the token, by layer" : "Latents of the token"), latentNote, latentHost);

  const drawSizes = () => {
    const found = reading.histograms;
    if (!found) { replace(parts.sizes); return; }
    replace(parts.sizes, element("h2", {}, sites.length > 1 ? "Activations at every site" : "Activations by size"), element("p", { class: "about" },
      `How many latents are how strong, over all tokens; from 0 to ${readable(found.edges.at(-1))}, heights by log(1 + count).`),
    element("div", { class: "small-charts" }, sites.map((site) => element("button", { type: "button", "aria-pressed": String(site === held.site), onclick: () => choose({ site }) },
      site, spark(found.counts[site] ?? [], { label: `${site}: ${(found.counts[site] ?? []).join(", ")}`, title: (i) => `${readable(found.edges[i])} to ${readable(found.edges[i + 1])}: ${found.counts[site][i]}` })))));
  };

  const drawExamples = () => {
    const title = element("h2", {}, `Where latent ${held.latent} is strongest`), body = element("div");
    replace(parts.examples, title, body);
    if (examples) { replace(body, examples(held)); return; }
    filled(body, source.latent(siteId(), held.latent), (record) => [element("p", {}, element("a", { href: latentAt(siteId(), held.latent) }, `all of latent ${held.latent}`)),
      exampleLines(record, "top", { most: 5 })], "Reading its examples");
  };

  const cells = (title, list, signed) => element("div", {}, element("h4", {}, title), element("ol", { class: "pairs" }, (list ?? []).map(([piece, logit, prob]) => element("li", {}, chip(String(piece)),
    tip(element("span", { class: "number" }, prob === undefined || prob === null || signed ? (logit > 0 ? "+" : "") + readable(logit) : `${(100 * prob).toFixed(1)} %`),
      [`logit ${exact(logit)}`, prob === undefined || prob === null ? "" : `probability ${exact(prob)}`].filter(Boolean))))));
  // A list of a position: of all positions, that of the held one.
  const of = (list) => {
    const byPosition = Array.isArray(list?.[0]) && (list[0].length === 0 || Array.isArray(list[0][0]));
    return byPosition ? list[list.length === 1 ? 0 : held.pos] : list;
  };
  const threes = (found, name) => [cells(name, of(found.top)), cells("largest rise", of(found.up), true), cells("largest fall", of(found.down), true)];
  const logitViews = (result, args) => [
    element("h3", {}, `After ${edged(strings[args.pos])}, position ${args.pos}`),
    element("div", { class: "logit-lists" }, cells("model alone", of(result.input)), result.recon ? threes(result.recon, `reconstructed at ${args.site}`) : null),
    result.steered ? [element("h3", {}, `Steered: latent ${args.latent} by ${args.factor} ${UNITS[args.unit]}`), element("div", { class: "logit-lists" }, threes(result.steered, "steered"))] : null];
  // The forms of the model stay while others are held; logits that were computed once follow what is held.
  const moved = [], named = () => { const node = element("span", {}); moved.push(node); return node; };
  const unitNow = Object.hasOwn(UNITS, state.unit ?? "") ? state.unit : "max";
  let computed = false, computing = false, late = false;
  const factor = element("input", { type: "number", value: String(Number(state.factor) || 0), min: -1e9, max: 1e9, step: 0.5, "aria-label": "steering" });
  const unit = element("select", { "aria-label": "unit of steering" }, Object.entries(UNITS).map(([v, l]) => element("option", { value: v, selected: v === unitNow }, l)));
  const logitForm = logits || !source ? null : jobForm({ source, kind: "logits", label: "Compute", by: `saekit serve`,
    fields: element("div", { class: "controls" }, element("label", {}, named(), factor), unit),
    read: () => {
      computing = true;
      return { sae: id, text, site: held.site, pos: held.pos, n: 10,
        ...(Number(factor.value) ? { latent: held.latent, factor: Number(factor.value), unit: unit.value } : {}) };
    },
    onresult: (_, args) => { computed = true; keepState({ factor: args.factor, unit: args.factor ? args.unit : undefined }); },
    draw: logitViews, onend: () => { computing = false; if (late) { late = false; again(); } } });
  const again = settled(() => {
    if (!computed || !host.isConnected) return;
    if (computing) late = true; else logitForm.start();
  }, 300);
  const by = element("input", { type: "text", value: "2, 4", size: 10, "aria-label": "times its maximum" }), n = element("input", { type: "number", required: true, value: "40", min: 1, max: 200, "aria-label": "tokens" });
  const steerForm = source?.job ? jobForm({ source, kind: "steer", label: "Steer", by: `saekit steer ${id} LATENT --prompt "TEXT"`,
    fields: element("div", { class: "controls" }, element("label", {}, named(), by, " times its maximum"), element("label", {}, "tokens ", n)),
    read: () => ({ sae: siteId(), latent: held.latent, prompt: text, scale: numbers(by.value, "How far to steer"), n: Number(n.value), temperature: 0, seed: 0, seeds: 1 }),
    draw: (result, args) => [element("h3", {}, `Latent ${args.latent}${sites.length > 1 ? ` at ${siteOf(args.sae)}` : ""}`), steeredTable(result, args)] }) : null;
  const drawLogits = () => {
    for (const node of moved) node.textContent = `steer latent ${held.latent} by `;
    if (logits) { replace(parts.logits, element("h2", {}, "Next tokens"), logits(held, { cells, of, threes })); return; }
    if (logitForm && !parts.logits.firstChild) {
      replace(parts.logits, element("h2", {}, "Next tokens"), element("p", { class: "about" },
        "By the model alone; with the site replaced by the SAE's reconstruction; and with the held latent moved. Changes are differences of logits."), logitForm);
      if (Number(factor.value)) logitForm.start();
    }
    if (steerForm && !parts.steer.firstChild) replace(parts.steer, element("h2", {}, "Continue the text with the latent moved"), steerForm);
  };

  const metrics = (reading.metrics ?? []).length ? element("section", {}, element("h2", {}, "Reconstruction of this text"), element("p", { class: "about" }, "Over the tokens that count at each site; of one text FVU says little."),
    element("details", { open: reading.metrics.length <= 6 }, element("summary", {}, sites.length > 1 ? "FVU and L0 at every site" : "FVU and L0"), element("div", { class: "wide" }, element("table", {}, element("thead", {}, element("tr", {}, Object.keys(reading.metrics[0]).map((k) => element("th", { scope: "col" }, { fvu: "FVU", l0: "L0", mse: "MSE", l1: "L1" }[k] ?? k)))),
      element("tbody", {}, reading.metrics.map((row) => element("tr", {}, Object.values(row).map((v) => element("td", { class: typeof v === "number" ? "number" : null }, typeof v === "number" ? quantity(v) : v ?? "–")))))))) ) : null;

  const drawAll = () => { drawControls(); drawStrip(); drawLayers(); drawLatents(); drawSizes(); drawExamples(); drawLogits(); complete(); };
  replace(host, parts.controls, element("p", { class: "about" }, "The stronger a token's colour, the stronger the held latent on it, relative to the strongest latent of that token. "
    + "Point to look, click to hold. Tokens that no site counts are struck through."
    + (sites.length > 1 ? " Strengths are in the units that the SAE was trained in, so that layers compare; examples and steering are in act units of the held site." : "")), parts.strip, parts.latents, parts.layers, parts.sizes, parts.examples, parts.logits, parts.steer, metrics);
  try {
    drawAll();
  } catch (error) {
    console.error(error);
    replace(host, shownProblem(error));
  }
}
