// Examples of a latent: rows of tokens, strongest colour where it is strongest.

import { element, button, replace } from "./dom.js";
import { quantity } from "./numbers.js";
import { tokenStrip, around, readout } from "./strip.js";

export function exampleLines(record, band, { most = Infinity, short = true, onsay, unit = "activation" } = {}) {
  const list = record.examples?.[band] ?? [];
  const largest = Math.abs(record.values?.max ?? 0) || Math.max(1e-30, ...list.map((e) => Math.abs(e.value ?? 0)));
  if (!list.length) return element("p", { class: "empty" }, "No example of this kind.");
  return element("div", { class: "examples" }, list.slice(0, most).map((example, number) => {
    const part = short ? around(example) : { from: 0, to: example.tokens.length };
    const strip = tokenStrip({ strings: record.strings, tokens: example.tokens, peak: example.peak ?? example.token ?? null, ...part,
      channels: [{ name: unit, unit: "", at: example.at, values: example.acts, most: largest }] },
    { onsay, label: `example ${number + 1}`, className: "text" });
    const where = [`row ${example.row ?? "?"} of the corpus`, ...(example.start === undefined ? [] : [`from token ${example.start} of it`]), `document ${example.doc ?? "?"}`];
    const value = quantity(example.peak === null ? 0 : example.value, { unit, about: where.join(", ") });
    return element("div", { class: "row" }, element("span", { class: "value" }, value), strip);
  }));
}

let panels = 0;

// Bands as tabs, context short or whole, and a readout that stays in sight.
export function examplePanel(record, bands, { unit } = {}) {
  const names = Object.keys(record.examples ?? {});
  const order = [...Object.keys(bands ?? {}).filter((b) => names.includes(b)), ...names.filter((b) => !(b in (bands ?? {})))];
  const full = order.filter((b) => record.examples[b].length);
  if (!Object.keys(bands ?? {}).length && record.values?.density > 0) return element("p", { class: "empty" }, "Its index keeps no examples; the notes on the page of its SAE say why.");
  if (!full.length) return element("p", { class: "empty" }, "It never fired on the indexed text: a dead latent has no example.");
  const panel = `band-${(panels += 1)}`;
  const say = readout(), body = element("div", { role: "tabpanel", id: panel });
  let chosen = full[0], short = true;
  const draw = () => {
    tabs.forEach((tab) => {
      const on = tab.dataset.band === chosen;
      tab.setAttribute("aria-selected", String(on));
      tab.tabIndex = on ? 0 : -1;
    });
    const about = chosen === "all" ? null : bands?.[chosen]?.about;
    const shown = chosen === "all" ? full : [chosen];
    replace(body, about ? element("p", { class: "about" }, about) : null, shown.map((band) => [
      chosen === "all" ? element("h4", {}, bands?.[band]?.title ?? band) : null,
      exampleLines(record, band, { short, onsay: say.say, unit })]));
    say.say("");
  };
  const tab = (band, text, n) => button([text, " ", element("small", {}, String(n))], () => { chosen = band; draw(); },
    { role: "tab", "data-band": band, "aria-controls": panel });
  const tabs = [...full.map((band) => tab(band, bands?.[band]?.title ?? band, record.examples[band].length)),
    tab("all", "all", full.reduce((n, band) => n + record.examples[band].length, 0))];
  const list = element("div", { class: "tabs", role: "tablist", "aria-label": "kinds of examples" }, tabs);
  list.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const at = tabs.findIndex((t) => t.dataset.band === chosen), next = tabs[(at + by + tabs.length) % tabs.length];
    chosen = next.dataset.band;
    draw();
    next.focus();
  });
  const context = element("input", { type: "checkbox", onchange: (event) => { short = !event.target.checked; draw(); } });
  const breaks = element("input", { type: "checkbox", onchange: (event) => body.classList.toggle("unbroken", !event.target.checked), checked: true });
  draw();
  return element("div", { class: "example-panel" },
    element("div", { class: "controls" }, list, element("label", {}, context, " whole rows"), element("label", {}, breaks, " line breaks")),
    say.box, body);
}
