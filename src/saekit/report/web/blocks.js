// Blocks: what panels and studies are made of. A kind is drawn here, and no page knows who made it.

import { element, button, chip, command, visible } from "./dom.js";
import { quantity, readable, tip } from "./numbers.js";
import { lines, histogram, bars, dots, heatmap, cloud } from "./charts.js";
import { tokenStrip, readout } from "./strip.js";

const KINDS = { facts, text, label, missing, table, lines: lineBlock, bars: barBlock, dots, histogram: histogramBlock,
  scatter, heatmap: heatBlock, strip, image, texts };

// place: {latent: number -> address or null, sae: id -> address or null}
export function blockList(blocks, place) {
  return element("div", { class: "blocks" }, (blocks ?? []).map((one) => block(one, place)));
}

export function block(one, place) {
  const draw = Object.hasOwn(KINDS, one?.kind) ? KINDS[one.kind] : null;
  const figured = ["lines", "bars", "dots", "histogram", "heatmap", "scatter"].includes(one?.kind);
  const body = draw ? draw(one, place)
    : element("p", { class: "missing" }, `This page cannot draw a block of the kind "${one?.kind}".`);
  const title = one?.title && !figured ? element("h4", {}, one.title) : null;
  return element("div", { class: `block block-${draw ? one.kind : "unknown"}` }, title,
    one?.about ? element("p", { class: "about" }, one.about) : null, body,
    one?.source ? element("p", { class: "source" }, "from ", element("code", {}, one.source)) : null);
}

export function factList(facts) {
  return element("dl", { class: "facts" }, facts.map(([label, value, more]) => element("div", {},
    element("dt", {}, label),
    element("dd", { dir: "auto" }, typeof value === "number" ? [quantity(value, more ?? {}), more?.unit ? ` ${more.unit}` : ""]
      : more?.about || more?.unit ? tip(element("span", { tabindex: 0 }, visible(String(value ?? "–"))),
        [more.unit, more.about].filter(Boolean)) : visible(String(value ?? "–"))))));
}

function facts({ facts: list }) {
  return factList(list);
}

function text({ text: said }) {
  return element("p", { dir: "auto", class: "said" }, said);
}

// A line that may become the label of the latent, where the page can write one.
function label({ text: said, by }, place) {
  const note = element("small", { role: "status" });
  const use = place?.label ? button("use as label", async () => { note.textContent = await place.label(said, by); }, { class: "quiet" }) : null;
  return element("p", { class: "said", dir: "auto" }, visible(said), " ", use, note);
}

export function missing({ text: said, command: line }) {
  return element("p", { class: "missing" }, said, line ? [" Make it with ", command(line)] : null);
}

// A table that sorts by a click on a heading.
function table({ columns, rows, links = {}, title }, place) {
  const body = element("tbody");
  let by = null, down = false;
  const cell = (value, column) => {
    const kind = links[column.name];
    if (value !== null && value !== undefined && kind && place?.[kind]) {
      const href = place[kind](value);
      if (href) return element("td", { class: "number" }, element("a", { href }, String(value)));
    }
    if (typeof value === "number") return element("td", { class: "number", title: String(value) }, readable(value));
    return element("td", { dir: "auto" }, visible(String(value ?? "–")));
  };
  const fill = () => {
    let shown = rows;
    if (by !== null) {
      shown = [...rows].sort((a, b) => {
        const [x, y] = [a[by], b[by]];
        if (x === null || y === null) return (x === null) - (y === null);
        return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1);
      });
    }
    body.replaceChildren(...shown.map((row) => element("tr", {}, row.map((v, i) => cell(v, columns[i])))));
  };
  const heads = columns.map((column, i) => {
    const press = element("button", { type: "button", onclick: () => {
      down = by === i ? !down : rows.some((row) => typeof row[i] === "number");
      by = i;
      heads.forEach((h, k) => h.setAttribute("aria-sort", k === i ? (down ? "descending" : "ascending") : "none"));
      fill();
    } }, column.name, column.unit ? element("small", {}, ` ${column.unit}`) : null);
    if (column.about) tip(press, [column.unit, column.about].filter(Boolean));
    return element("th", { scope: "col", "aria-sort": "none" }, press);
  });
  fill();
  return element("div", { class: "wide", tabindex: 0, role: "region", "aria-label": title ?? "table" },
    element("table", { class: "sortable" }, element("thead", {}, element("tr", {}, heads)), body));
}

function lineBlock(one) { return lines({ ...one, height: 240 }); }
function barBlock(one) { return bars(one); }
function histogramBlock(one) { return histogram(one); }

function heatBlock({ title, x, y, values, unit, signed }) {
  return heatmap({ title, x, y, values, unit, signed });
}

function scatter({ title, x, y, points }, place) {
  return cloud({
    title, x, y, xs: Float64Array.from(points, (p) => p[0] ?? NaN), ys: Float64Array.from(points, (p) => p[1] ?? NaN),
    ids: points.map((p) => p[2]), onpick: place?.latent ? (i) => { const to = place.latent(i); if (to) location.hash = to; } : null,
  });
}

function strip(one) {
  const say = readout();
  return element("div", {}, say.box, tokenStrip(one, { onsay: say.say, className: "text" }));
}

function image({ src, alt }) {
  if (!/^data:image\/(png|jpeg|gif|webp);base64,/.test(src)) {
    return element("p", { class: "missing" }, `The image "${alt}" is not embedded; it is not shown.`);
  }
  return element("img", { src, alt, loading: "lazy" });
}

function texts({ texts: list }) {
  return element("ul", { class: "texts" }, list.map(({ text: said, mark, note }) => element("li", { class: mark ?? null },
    mark ? element("b", { class: "mark" }, mark === "hit" ? "✓ hit" : "✗ miss") : null,
    element("span", { dir: "auto", class: "said" }, visible(said)), note ? element("small", {}, note) : null)));
}

export function chips(strings, pairs, unit) {
  return element("ol", { class: "pairs" }, pairs.map(([s, value, ...rest]) => element("li", {},
    chip(strings[s] ?? ""), tip(element("span", { class: "number", tabindex: -1 }, readable(value)),
      [`${String(value)} ${unit}`, ...rest.map(String)]))));
}
