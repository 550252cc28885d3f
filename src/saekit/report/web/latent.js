// One latent: everything that is known of it.

import { element, button, chip, replace, copyText, visible, lined, edged } from "./dom.js";
import { quantity, readable, exact, tip, counted } from "./numbers.js";
import { histogram, lines, bars } from "./charts.js";
import { tokenStrip, readout } from "./strip.js";
import { blockList, chips } from "./blocks.js";
import { examplePanel } from "./examples.js";
import { filled, jobForm, shownProblem } from "./states.js";
import { siteChoice } from "./library.js";
import { latentAt, saeAt, compareAt, promptAt } from "./routes.js";

const N_VALUES = 6; // values in the head; the rest is folded

function card(title, about, ...body) {
  return element("section", { class: "panel" }, element("h2", {}, title), about ? element("p", { class: "about" }, about) : null, body);
}

export function valueList(record, columns) {
  const known = columns.filter((c) => c.name in record.values && c.name !== "latent");
  const rest = Object.keys(record.values).filter((name) => !columns.some((c) => c.name === name) && name !== "latent").map((name) => ({ name }));
  const row = (c) => {
    const v = record.values[c.name];
    return element("div", {}, element("dt", {}, c.label ?? c.name), element("dd", {}, typeof v === "number"
      ? [quantity(v, { unit: c.unit, about: c.about, source: "the index" }), element("small", {}, c.unit ? ` ${c.unit}` : "")]
      : v === null || v === undefined ? element("span", { class: "none" }, "–") : c.kind === "token" ? chip(String(v)) : visible(String(v))));
  };
  const all = [...known, ...rest], head = all.slice(0, N_VALUES), more = all.slice(N_VALUES);
  return [element("dl", { class: "facts" }, head.map(row)),
    more.length ? element("details", {}, element("summary", {}, counted(more.length, "more value")), element("dl", { class: "facts" }, more.map(row))) : null];
}

export function histogramPanel(record) {
  if (!record.histogram) return element("p", { class: "empty" }, record.values?.density > 0 ? "Its index keeps no sizes of activations." : "It never fired: there is no size to count.");
  return histogram({ title: "Activations by size", ...record.histogram, log: true, unit: "activation", what: "tokens" });
}

export function logitPanel(record) {
  const found = record.logits;
  if (!found) return element("p", { class: "empty" }, "No logit lens: the SAE does not write to the residual stream of a language model.");
  const side = (name, pairs) => element("div", {}, element("h4", {}, name), chips(record.strings, pairs, "logits for one unit of the latent"));
  return [element("div", { class: "two" }, side("promotes", found.promoted ?? []), side("suppresses", found.suppressed ?? [])),
    found.histogram ? histogram({ title: "All tokens", ...found.histogram, log: true, height: 130, unit: "logit change",
      note: `mean ${readable(found.mean)}, standard deviation ${readable(found.std)}` }) : null,
    (found.sets ?? []).length ? setTable(found.sets) : null];
}

function setTable(sets) {
  return element("details", { open: true }, element("summary", {}, "Kinds of tokens that it moves together"), element("div", { class: "wide" },
    element("table", {}, element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "kind"),
      element("th", { scope: "col" }, tip(element("span", { tabindex: 0 }, "z"), ["(mean of the kind − mean) / (standard deviation / √n)", "A description, not a test."])),
      element("th", { scope: "col" }, "mean"), element("th", { scope: "col" }, "tokens"))),
    element("tbody", {}, (sets.length > 12 ? [...sets.slice(0, 6), ...sets.slice(-6)] : sets).map(([name, z, mean, n]) => element("tr", {}, element("td", {}, visible(name)),
      element("td", { class: "number" }, quantity(z, { about: "standard errors from the mean of all tokens" })),
      element("td", { class: "number" }, readable(mean)), element("td", { class: "number" }, exact(n))))))));
}

export function neighbourPanel(record, id, alone = false) {
  const { decoder = [], cofiring = [] } = record.neighbours ?? {};
  const list = (title, rows, say) => element("div", {}, element("h4", {}, title), rows.length
    ? element("ol", { class: "pairs" }, rows.map((row) => element("li", {}, element("a", { href: latentAt(id, row[0]) }, String(row[0])), say(row))))
    : element("p", { class: "empty" }, "none"));
  const both = (row) => alone ? null : element("a", { class: "quiet", href: compareAt({ a: id, latent: record.latent, b: id, other: row[0] }), title: "side by side" }, "⇄");
  return element("div", { class: "two" },
    list("closest directions", decoder, (row) => [tip(element("span", { class: "number" }, readable(row[1])), [`cosine of decoder directions ${exact(row[1])}`]), both(row)]),
    list("fire together", cofiring, (row) => [tip(element("span", { class: "number" }, readable(row[1])),
      [`phi ${exact(row[1])} over tokens`, row[2] === undefined ? "" : `${exact(row[2])} tokens with both`].filter(Boolean)), both(row)]));
}

function tokenPanel(record) {
  const found = record.tokens;
  if (!found || !(found.on ?? []).length) return element("p", { class: "empty" }, record.values?.density > 0 ? "Its index keeps no tokens." : "It fired on no token.");
  return [element("div", { class: "wide" }, element("table", {}, element("thead", {}, element("tr", {}, ["token", "times", "of its places"].map((h) => element("th", { scope: "col" }, h)))),
    element("tbody", {}, found.on.map(([s, n, share]) => element("tr", {}, element("td", {}, chip(record.strings[s] ?? "")),
      element("td", { class: "number" }, exact(n)),
      element("td", { class: "number" }, share === null || share === undefined ? "–" : quantity(100 * share, { unit: "%", about: "of all places of this token in the indexed text" }), " %")))))),
  element("p", { class: "about" }, [["first tokens of documents", found.first_share], ["last tokens", found.last_share]]
    .filter(([, v]) => typeof v === "number").map(([what, v], k) => [k ? "; " : "", quantity(100 * v, { unit: "%", about: `of its firings are ${what}` }), ` % are ${what}`]),
  found.documents === null || found.documents === undefined ? null : `; fires in ${counted(found.documents, "document")}`)];
}

function layerPanel(layers, site) {
  const xs = layers.sites.map((_, i) => i), at = layers.sites.indexOf(site);
  return [element("p", { class: "count" }, `${layers.sites[0]} to ${layers.sites.at(-1)}`, at >= 0 ? `; this page is of ${site}` : ""),
    element("div", { class: "charts" }, [["density", "share of tokens"], ["mean", "activation"], ["max", "activation"]].filter(([k]) => layers[k]).map(([k, unit]) =>
      lines({ title: k, x: { label: "layer" }, y: { label: unit }, height: 150, series: [{ name: k, x: xs, y: layers[k] }] })))];
}

function labelBox({ source, id, record }) {
  const shown = element("span", { class: "label-text", dir: "auto" }), note = element("small", { role: "status" });
  const more = element("span", { class: "label-note", dir: "auto" });
  const draw = (label) => {
    replace(shown, label ? visible(label.text) : element("span", { class: "none" }, "no label"));
    shown.title = label ? [label.by, label.time].filter(Boolean).join(", ") : "";
    replace(more, label?.note ? lined(label.note) : null);
    more.hidden = !label?.note;
  };
  draw(record.label);
  if (!source.setLabel) return { box: element("p", { class: "label" }, shown, more), edit: null, use: null };
  const field = element("input", { type: "text", maxlength: 500, "aria-label": "label of this latent", placeholder: "what it fires on" });
  const longer = element("textarea", { rows: 2, maxlength: 10000, dir: "auto", "aria-label": "note on this latent", placeholder: "a note: what speaks for it, what against" });
  const form = element("form", { class: "controls", hidden: true, onsubmit: async (event) => {
    event.preventDefault();
    note.textContent = "saving…";
    try {
      const saved = await source.setLabel(id, record.latent, field.value, record.label, { note: longer.value.trim() });
      record.label = field.value.trim() ? { text: field.value.trim(), note: longer.value.trim(), ...(saved?.label ?? saved ?? {}) } : null;
      draw(record.label);
      close();
      note.textContent = record.label ? "saved" : "removed";
    } catch (error) {
      replace(note, shownProblem(error));
    }
  } }, field, element("button", { type: "submit" }, "save"), button("cancel", () => close(), { class: "quiet" }), longer);
  const press = button("edit label", () => edit(), { class: "quiet", title: "key l" });
  const close = () => { form.hidden = true; shown.hidden = press.hidden = false; press.focus(); };
  const edit = () => {
    field.value = record.label?.text ?? "";
    longer.value = record.label?.note ?? "";
    form.hidden = false;
    shown.hidden = press.hidden = true;
    field.focus();
    field.select();
  };
  // A label that someone else wrote: one that is there is replaced when it is asked for twice.
  let asked = null;
  const use = async (text, by) => {
    if (record.label?.text === text) return "It is the label.";
    if (record.label && asked !== text) {
      asked = text;
      return `Press again to replace "${record.label.text}".`;
    }
    asked = null;
    try {
      const saved = await source.setLabel(id, record.latent, text.slice(0, 500), record.label, { by });
      record.label = { ...saved };
      draw(record.label);
      return "It is the label now.";
    } catch (error) {
      return [error.title, error.message].filter(Boolean).join(": ");
    }
  };
  for (const one of [field, longer]) one.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
    if (one === longer && event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  return { box: element("div", { class: "label" }, shown, press, more, form, note), edit, use };
}

// What else is known of it, each kind as its panel says it; drawn when it comes near the screen.
function panelSections({ id, record }, use) {
  return Object.entries(record.panels ?? {}).map(([name, panel]) => {
    const body = element("div"), box = element("section", { class: "panel wide-panel" }, element("h2", {}, panel.title ?? name),
      element("p", { class: "about" }, panel.about ?? ""), body);
    const watch = new IntersectionObserver((entries) => {
      if (!entries.some((e) => e.isIntersecting)) return;
      watch.disconnect();
      filled(body, panel, (whole) => blockList(whole.blocks, { latent: (i) => latentAt(id, i), sae: (s) => saeAt(s), label: use }));
    }, { rootMargin: "600px" });
    watch.observe(box);
    return box;
  });
}

export function activated(result) {
  const say = readout(), scale = Math.max(...result.texts.map((one) => Math.abs(one.max ?? 0))) || undefined; // one scale for all
  return [say.box, result.texts.map((one) => element("div", { class: "row" },
    element("span", { class: "value" }, quantity(one.max ?? Math.max(0, ...one.acts), { unit: "activation" })),
    tokenStrip({ ...one, channels: [{ name: "activation", unit: "", at: one.at, values: one.acts, scale }] }, { onsay: say.say, className: "text", label: "your text" })))];
}

// What the model writes at each strength; what it writes anyway is faint.
export function steeredTable(result, args = {}) {
  const own = result.alone?.texts ?? [];
  const same = (text, k) => {
    const other = own[k] ?? own[0] ?? "";
    let n = 0;
    while (n < text.length && text[n] === other[n]) n++;
    return n;
  };
  const tokens = (title, pairs) => (pairs ?? []).some(([, v]) => v) ? element("p", {}, element("small", {}, `${title} `), pairs.slice(0, 6).map(([t, v]) =>
    element("span", { class: "pair" }, chip(String(t)), tip(element("small", {}, `${v > 0 ? "+" : ""}${readable(v)}`), [`${exact(v)} nats of log probability`])))) : null;
  const row = (dose, title, alone) => element("div", { class: "row dose" },
    element("span", { class: "value" }, title), element("div", {}, dose.texts.map((text, k) => {
      const n = alone ? 0 : same(text, k);
      return element("p", { class: "said text", dir: "auto" }, n ? element("span", { class: "none" }, visible(text.slice(0, n))) : null, visible(text.slice(n)));
    }), element("p", { class: "facts small" }, [["loss of the text", dose.loss, "nats/token under the model alone: how strange it is"],
      ["activation on it", dose.act, "mean, the model alone"], ["KL of the next token", dose.kl, "nats, from the model alone"]]
      .filter(([, v]) => v !== null && v !== undefined).map(([what, v, more]) => element("span", {}, element("small", {}, `${what} `), quantity(v, { about: more })))),
    tokens("likelier next", dose.promoted), tokens("less likely", dose.suppressed)));
  return element("div", { class: "steered" }, result.alone ? row(result.alone, "alone", true) : null,
    (result.doses ?? []).map((dose, k) => {
      const times = args.scale?.[k], added = `${dose.add > 0 ? "+" : ""}${readable(dose.add)}`;
      return row(dose, tip(element("span", { tabindex: 0, class: "quantity" }, times === undefined ? added : `${readable(times)} ×`),
        [`${added} act units at every token`, times === undefined ? "" : `${readable(times)} times its maximum in the index`].filter(Boolean)), false);
    }));
}

export function ablated(result) {
  const say = readout(), all = result.tokens.map((_, j) => j);
  const change = result.change.map((v) => v ?? 0);
  const worst = all.filter((j) => change[j]).sort((a, b) => Math.abs(change[b]) - Math.abs(change[a])).slice(0, 8);
  return [say.box, tokenStrip({ strings: result.strings, tokens: result.tokens, channels: [
    { name: "change of loss without it", unit: "nats", at: all, values: change, signed: true },
    { name: "activation", unit: "", at: result.at, values: result.acts }] }, { onsay: say.say, className: "text" }),
  worst.length ? bars({ title: "Largest changes of loss", labels: worst.map((j) => edged(result.strings[result.tokens[j]] ?? "")), values: worst.map((j) => change[j]), unit: "nats; above 0 the latent helped" })
    : element("p", { class: "empty" }, "Nothing changes: the latent is off in this text.")];
}

export function numbers(text, what) {
  const found = text.split(/[\s,]+/).filter(Boolean).map(Number);
  if (!found.length || found.some((v) => !Number.isFinite(v))) {
    throw Object.assign(new Error(`"${text}" is not a list of numbers; write such as 0, 2, 4.`), { title: what });
  }
  return found;
}

function tryPanel({ source, id, record, name }) {
  const text = element("textarea", { rows: 3, required: true, dir: "auto", "aria-label": "texts, one a line", placeholder: "a text a line" });
  return jobForm({ source, kind: "activate", label: "Try", fields: text, by: `saekit prompt ${name} "TEXT"`,
    read: () => ({ sae: id, latent: record.latent, texts: text.value.split("\n").filter((t) => t.length) }), draw: activated });
}

function steerPanel({ source, id, record, name }) {
  const prompt = element("textarea", { rows: 2, maxlength: 10000, dir: "auto", "aria-label": "prompt to continue", placeholder: "a text to continue" });
  const by = element("input", { type: "text", value: record.values?.max ? "2, 4" : "5", size: 10, "aria-label": "how far" });
  const way = element("select", { "aria-label": "unit" }, element("option", { value: "scale" }, "times its maximum"), element("option", { value: "add" }, "units of activation"));
  const field = (value, label, more) => element("input", { type: "number", required: true, value: String(value), "aria-label": label, ...more });
  const n = field(40, "tokens to write", { min: 1, max: 200 }), heat = field(0, "temperature", { min: 0, max: 2, step: 0.1 });
  const seed = field(0, "seed", { min: 0 }), seeds = field(1, "texts at each strength", { min: 1, max: 8 });
  return jobForm({ source, kind: "steer", label: "Steer", by: `saekit steer ${name} ${record.latent} --prompt "TEXT" --scale 4`,
    fields: [prompt, element("div", { class: "controls" }, element("label", {}, "by ", by), way, element("label", {}, "tokens ", n),
      element("label", {}, "temperature ", heat), element("label", {}, "seed ", seed), element("label", {}, "texts ", seeds))],
    read: () => ({ sae: id, latent: record.latent, prompt: prompt.value, [way.value]: numbers(by.value, "How far to steer"),
      n: Number(n.value), temperature: Number(heat.value), seed: Number(seed.value), seeds: Number(seeds.value) }), draw: steeredTable });
}

function ablatePanel({ source, id, record }) {
  const text = element("textarea", { rows: 3, maxlength: 10000, required: true, dir: "auto", "aria-label": "text", placeholder: "a text; each token's loss with the latent set to 0" });
  const best = record.examples?.top?.[0];
  if (best) { // without the special token that begins the row: the model gets its own
    const words = best.tokens.map((t) => record.strings[t] ?? "");
    text.value = words.slice(/^<.*>$/.test(words[0]) ? 1 : 0).join("").trim();
  }
  return jobForm({ source, kind: "ablate", label: "Ablate", fields: text, by: "saekit serve",
    read: () => ({ sae: id, latent: record.latent, text: text.value }), draw: ablated });
}

// What the commands call this SAE: the command that indexes it says its folder.
export function runOf(card, id) {
  return /^saekit index (.+)$/.exec(card.index?.command ?? "")?.[1] ?? card.run ?? id;
}

export async function latentPage(host, { source, path, state, go }) {
  const number = path[3];
  const [overview, record] = await Promise.all([source.sae(path[1]), source.latent(path[1], number)]);
  const sae = overview.card ?? {}, id = sae.id ?? path[1], i = record.latent;
  document.title = `Latent ${i} · ${sae.title ?? id} · saekit`;
  const keep = { where: state.where }, name = runOf(sae, id);
  const label = labelBox({ source, id, record });
  const step = (to, text, key) => element("a", { class: "button", href: to === null || to === undefined ? null : latentAt(id, to, keep),
    "aria-disabled": to === null || to === undefined ? "true" : null, title: `key ${key}` }, text);
  const random = async () => {
    const { total, rows, columns } = await source.latents(id, { where: state.where || "density>0", limit: 1 });
    const all = state.where ? total : sae.d_sae ?? total;
    if (!rows.length) return;
    const at = columns.indexOf("latent");
    let found = rows[0][at];
    for (let tries = 0; tries < 8; tries++) { // one that is alive, where chance finds it
      const drawn = Math.floor(Math.random() * all);
      const page = await source.latents(id, { where: `density>0 and latent>=${drawn} limit 1`, limit: 1 }).catch(() => null);
      if (page?.rows.length) { found = page.rows[0][at]; break; }
    }
    go(latentAt(id, found, keep));
  };
  const copied = element("small", { role: "status" });
  const copy = button("copy link", async () => {
    copied.textContent = (await copyText(location.href)) ? "copied" : "copy it from the address bar";
  });
  const textual = source.live && sae.reads_text !== false;
  const mark = source.mark && sae.weights ? () => source.mark(sae.weights, [i]) : null;
  const links = Object.entries(record.links ?? {}).filter(([, to]) => /^(https:\/\/|#)/.test(String(to)));
  const jobs = { source, id, record, name }, inPrompt = () => promptAt(id, { site: sae.site, latent: i });
  replace(host,
    element("header", {}, element("div", { class: "crumbs links" }, element("a", { href: saeAt(id, keep) }, visible(sae.title ?? id)),
        source.alone ? null : siteChoice(overview, (one) => latentAt(one, i, keep)) ?? element("span", {}, sae.site)),
      element("div", { class: "title-row" }, element("h1", {}, `Latent ${i}`), label.box,
        element("div", { class: "controls steps" }, step(record.previous, "←", "k"), step(record.next, "→", "j"), button("random", random, { title: "key r" }),
          mark ? button("list…", mark, { title: "add it to a list: key m" }) : null, copy, copied,
          textual ? element("a", { href: inPrompt(), title: "key p" }, "prompt") : null,
        source.alone ? null : element("a", { href: compareAt({ a: id, b: id, latent: i }) }, "compare"),
          links.map(([text, to]) => element("a", { href: to, rel: "noreferrer noopener", target: to.startsWith("#") ? null : "_blank" }, text)))),
      valueList(record, overview.columns ?? [])),
    element("div", { class: "latent-grid" },
      element("div", { class: "main-column" }, card("Examples", null, examplePanel(record, overview.bands)),
        record.layers ? card("At every site", "The same latent at all sites of its SAE, on the indexed text, in act units of each.", layerPanel(record.layers, sae.site)) : null,
        panelSections({ id, record }, label.use),
        source.live ? null : card("With the model", null, element("p", { class: "missing" }, "Your own text, steering and ablation need the model: open this SAE with ", element("code", {}, "saekit serve"),
          ", or from a terminal: ", element("code", {}, `saekit prompt ${name} "TEXT"`), " and ", element("code", {}, `saekit steer ${name} ${i} --prompt "TEXT" --scale 4`), ".")),
        textual ? [card("Try your text", "Where this latent fires on a text of yours.", tryPanel(jobs)),
          card("Steer", "The model's own continuation with the latent moved at every token, prompt and answer alike.", steerPanel(jobs)),
          card("Ablate", "How the loss of every token changes when this latent is set to 0.", ablatePanel(jobs))] : null),
      element("div", { class: "side-column" }, card("Distribution", null, histogramPanel(record)),
        card("Logits", "Logit lens: what one unit of its direction does to each token of the vocabulary, by the unembedding with the final norm's gain, without its division by the norm.", logitPanel(record)),
        card("Neighbours", null, neighbourPanel(record, id, source.alone)), card("Fires on", null, tokenPanel(record)))));
  return { key: (event) => {
    const to = { j: record.next, k: record.previous }[event.key];
    if (to !== undefined && to !== null) { go(latentAt(id, to, keep)); return true; }
    if (event.key === "r") { random(); return true; }
    if (event.key === "l" && label.edit) { event.preventDefault(); label.edit(); return true; }
    if (event.key === "m" && mark) { event.preventDefault(); mark(); return true; }
    if (event.key === "u") { go(saeAt(id, keep)); return true; }
    if (event.key === "p" && textual) { go(inPrompt()); return true; }
    return false;
  } };
}

