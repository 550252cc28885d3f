// Charts as SVG and, where there are many marks, on canvas; each is drawn again at the width it gets.

import { element, shape, framed } from "./dom.js";
import { readable, exact, counted } from "./numbers.js";

const PAD = { left: 54, right: 12, top: 10, bottom: 38 };
const LINES = 6; // colours of lines
const WIDEST = 76; // px of a cell: a few cells do not fill a wide screen

export function ticks(low, high, n) {
  const rough = (high - low) / n;
  const power = 10 ** Math.floor(Math.log10(rough));
  const off = (s) => Math.abs(Math.log(s / rough));  // the next larger may leave a single tick
  const step = [1, 2, 5, 10].map((m) => m * power).reduce((a, b) => (off(b) < off(a) ? b : a));
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) {
    found.push(+(i * step).toPrecision(12));
  }
  return found;
}

function logTicks(low, high) {
  const found = [], first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
  const every = Math.max(1, Math.ceil((last - first) / 6));
  for (let p = first; p <= last; p += every) {
    const steps = last - first <= 2 ? [1, 2, 5] : [1];
    for (const m of steps) {
      const v = m * 10 ** p;
      if (v >= low * 0.999 && v <= high * 1.001) found.push(v);
    }
  }
  return found;
}

export function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const v of values) {
    if (v === null || v === undefined || Number.isNaN(v)) continue;
    if (v < low) low = v;
    if (v > high) high = v;
  }
  return [low, high];
}

// A scale from data to pixels, straight or logarithmic, with its inverse and its ticks.
export function scale([low, high], [from, to], log, n = 5) {
  if (low === high) { const pad = log ? 2 : Math.abs(low) / 10 || 1; [low, high] = log ? [low / pad, high * pad] : [low - pad, high + pad]; }
  const f = log ? Math.log : (v) => v, back = log ? Math.exp : (v) => v;
  const a = f(low), b = f(high);
  const at = (v) => from + ((f(v) - a) / (b - a)) * (to - from);
  at.invert = (p) => back(a + ((p - from) / (to - from)) * (b - a));
  at.ticks = log ? logTicks(low, high) : ticks(low, high, n);
  if (at.ticks.length < 2) at.ticks = log ? [low, high].map((v) => +v.toPrecision(2)) : at.ticks;
  return at;
}

export function figure(title, { wide = false } = {}) {
  const readout = element("output", {}), plot = element("div", { class: "plot" });
  const box = element("figure", { class: wide ? "wide-figure" : null },
    element("figcaption", {}, title ? element("b", {}, title) : null, readout), plot);
  return { box, plot, readout };
}

// Draws once the plot has a width, and again when the width changes.
export function responsive(plot, draw) {
  let width = 0;
  const again = framed(() => { if (plot.isConnected) draw(width); });
  const watch = new ResizeObserver((entries) => {
    const now = Math.floor(entries[0].contentRect.width);
    if (now === width || now === 0) return;
    width = now;
    again();
  });
  watch.observe(plot);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  addEventListener("saekit-theme", again);
  addEventListener("beforeprint", () => { if (width) draw(width); });
}

// Labels of ticks: as short as they may be while no two of them are the same.
function tickLabels(values) {
  const short = values.map((v) => readable(v).replace(".0e", "e"));
  return new Set(short).size === short.length ? short : values.map((v) => exact(v));
}

function axes(plot, width, height, x, y, labels, alt) {
  const svg = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": alt });
  const right = width - PAD.right, bottom = height - PAD.bottom;
  const [across, along] = [tickLabels(y.ticks), tickLabels(x.ticks)];
  for (const [i, t] of y.ticks.entries()) {
    shape("line", { x1: PAD.left, x2: right, y1: y(t), y2: y(t), class: "grid" }, svg);
    shape("text", { x: PAD.left - 6, y: y(t) + 4, "text-anchor": "end" }, svg, across[i]);
  }
  for (const [i, t] of x.ticks.entries()) {
    shape("line", { x1: x(t), x2: x(t), y1: bottom, y2: bottom + 4, class: "axis" }, svg);
    shape("text", { x: x(t), y: bottom + 16, "text-anchor": "middle" }, svg, along[i]);
  }
  shape("line", { x1: PAD.left, x2: right, y1: bottom, y2: bottom, class: "axis" }, svg);
  if (labels.x) shape("text", { x: right, y: height - 5, "text-anchor": "end", class: "label" }, svg, labels.x);
  if (labels.y) shape("text", { x: 2, y: height - 5, class: "label" }, svg, `↑ ${labels.y}`);
  plot.replaceChildren(svg);
  return svg;
}

const spans = (width) => [[PAD.left, width - PAD.right], Math.max(3, Math.floor(width / 110))];
const withUnit = (axis) => [axis?.label, axis?.unit && axis.unit !== axis.label ? `(${axis.unit})` : ""].filter(Boolean).join(" ");

export function lines({ title, x, y, series, height = 200 }) {
  const { box, plot, readout } = figure(title);
  const clean = series.map((s) => ({ ...s, y: s.y.map((v) => (y?.log && v !== null && v <= 0 ? null : v)) }));
  const values = clean.flatMap((s) => [...s.y, ...(s.low ?? []), ...(s.high ?? [])]);
  const xs = clean.flatMap((s) => s.x);
  let [low, high] = extent(values), [from, to] = extent(xs.filter((v) => !x?.log || v > 0));
  if (!Number.isFinite(low)) { plot.append(element("p", { class: "empty" }, "No value was recorded.")); return box; }
  if (!y?.log && low > 0 && low < high / 3) low = 0;
  if (!y?.log && low !== high && high - low < 0.02 * Math.abs(high)) { // a line that is flat but for rounding stays flat
    const middle = (low + high) / 2, reach = 0.02 * Math.abs(middle);
    [low, high] = [middle - reach, middle + reach];
  }
  if (low === high) { low = Math.min(0, low); high = high > low ? high * 1.1 : low + 1; }
  const many = series.length > 1;
  const say = (place) => clean.map((s, number) => {
    const span = element("span", { class: `ink-${number % LINES}` });
    span.textContent = `${many ? s.name + " " : ""}${readable(s.y[place(s)])}`;
    return span;
  }).flatMap((span, number) => (number ? [", ", span] : [span]));
  const rest = () => readout.replaceChildren("last: ", ...say((s) => s.y.length - 1));
  rest();
  responsive(plot, (width) => {
    const [range, n] = spans(width);
    const at = scale([from, to], range, x?.log, n);
    const up = scale([low, high], [height - PAD.bottom, PAD.top], y?.log);
    const svg = axes(plot, width, height, at, up, { x: withUnit(x), y: withUnit(y) },
      `${title ?? "Lines"}: ${series.map((s) => s.name).join(", ")}`);
    clean.forEach((s, number) => {
      if (s.low && s.high) {
        const ok = s.x.map((_, i) => i).filter((i) => s.low[i] !== null && s.high[i] !== null);
        const there = ok.map((i) => `${at(s.x[i]).toFixed(1)},${up(s.high[i]).toFixed(1)}`);
        const back = ok.reverse().map((i) => `${at(s.x[i]).toFixed(1)},${up(s.low[i]).toFixed(1)}`);
        if (there.length > 1) shape("polygon", { points: [...there, ...back].join(" "), class: `band band-${number % LINES}` }, svg);
      }
      let path = "", pen = false;
      s.y.forEach((v, i) => {
        if (v === null || v === undefined || (x?.log && s.x[i] <= 0)) { pen = false; return; }
        path += `${pen ? "L" : "M"}${at(s.x[i]).toFixed(1)},${up(v).toFixed(1)}`;
        pen = true;
      });
      shape("path", { d: path, class: `line line-${number % LINES}` }, svg);
      if (s.x.length <= 24) {
        s.y.forEach((v, i) => {
          if (v === null || v === undefined || (x?.log && s.x[i] <= 0)) return;
          shape("circle", { cx: at(s.x[i]), cy: up(v), r: 2.5, class: `dot-${number % LINES}` }, svg);
        });
      }
    });
    const cursor = shape("line", { y1: PAD.top, y2: height - PAD.bottom, class: "cursor" }, svg);
    svg.addEventListener("pointermove", (event) => {
      const place = event.clientX - svg.getBoundingClientRect().left;
      const closest = (s) => {
        let best = 0;
        s.x.forEach((v, i) => { if (Math.abs(at(v) - place) < Math.abs(at(s.x[best]) - place)) best = i; });
        return best;
      };
      const here = at(clean[0].x[closest(clean[0])]);
      cursor.setAttribute("x1", here);
      cursor.setAttribute("x2", here);
      cursor.classList.add("on");
      readout.replaceChildren(...say(closest), ` at ${readable(clean[0].x[closest(clean[0])])} ${x?.label ?? ""}`);
    });
    svg.addEventListener("pointerleave", () => { cursor.classList.remove("on"); rest(); });
  });
  return box;
}

export function histogram({ title, edges, counts, log = false, unit = "", what = "", note = "", height = 180 }) {
  const { box, plot, readout } = figure(title);
  const total = counts.reduce((a, b) => a + b, 0);
  const rest = () => { readout.textContent = note || (what ? `${total.toLocaleString("en")} ${what}` : `n = ${total.toLocaleString("en")}`); };
  rest();
  if (!total) { plot.append(element("p", { class: "empty" }, "There is nothing to count.")); return box; }
  const first = Math.max(0, counts.findIndex((c) => c > 0));
  const last = counts.length - [...counts].reverse().findIndex((c) => c > 0);
  const most = Math.max(1, ...counts), least = log ? 0.5 : 0;
  responsive(plot, (width) => {
    const [range, n] = spans(width);
    const from = log ? edges[0] : edges[first];
    const x = scale([from, edges[Math.max(last, log ? edges.length - 1 : last)]], range, false, n);
    const y = scale([least, most], [height - PAD.bottom, PAD.top], log, 4);
    const svg = axes(plot, width, height, x, y, { x: unit, y: log ? "count, log" : "count" },
      `${title ?? "Histogram"} ${unit}: ${counts.join(", ")}`);
    counts.forEach((count, i) => {
      if (!count || edges[i] < from) return;
      const left = x(edges[i]), top = y(count);
      const bar = shape("rect", {
        x: left, y: top, width: Math.max(1, x(edges[i + 1]) - left - 1),
        height: Math.max(1, height - PAD.bottom - top), class: "bar",
      }, svg);
      bar.addEventListener("pointerenter", () => {
        readout.textContent = `${count.toLocaleString("en")} from ${readable(edges[i])} to ${readable(edges[i + 1])}`;
      });
      bar.addEventListener("pointerleave", rest);
    });
  });
  return box;
}

export function bars({ title, labels, values, unit = "" }) {
  const { box, plot, readout } = figure(title);
  readout.textContent = unit;
  const [low, high] = extent([0, ...values]);
  const row = 22, signed = low < 0; // then in the colours that tokens have
  responsive(plot, (width) => {
    const wide = Math.min(width * 0.4, 10 + 7 * Math.max(...labels.map((l) => String(l).length), 4));
    const x = scale([low, high], [wide, width - 60], false);
    const height = row * labels.length;
    const svg = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
      "aria-label": `${title ?? "Bars"}: ${labels.map((l, i) => `${l} ${readable(values[i])}`).join(", ")}` });
    labels.forEach((label, i) => {
      const letters = Math.floor((wide - 10) / 6.5), text = String(label);
      shape("text", { x: wide - 6, y: row * i + 15, "text-anchor": "end" }, svg,
        text.length > letters ? text.slice(0, letters - 1) + "…" : text);
      if (values[i] === null) return;
      const a = Math.min(x(0), x(values[i])), b = Math.max(x(0), x(values[i]));
      shape("rect", { x: a, y: row * i + 4, width: Math.max(1, b - a), height: row - 8, class: `bar ${values[i] < 0 ? "minus" : signed ? "plus" : ""}` }, svg);
      shape("text", { x: b + 5, y: row * i + 15 }, svg, readable(values[i]));
    });
    plot.replaceChildren(svg);
  });
  return box;
}

// A dot and its interval for each label, and ticks at what it is read by, as floors: one colour a kind of mark.
// Where a label is too long for its column it stands above its row.
export function dots({ title, labels, values, low, high, marks = [], unit = "" }) {
  const { box, plot, readout } = figure(title);
  const rest = () => readout.replaceChildren(unit, ...marks.flatMap((m, k) =>
    [k ? " " : unit ? "; " : "", element("span", { class: `ink-${(k + 1) % LINES}` }, `| ${m.name}`)]));
  rest();
  const [from, to] = extent([...values, ...low, ...high, ...marks.flatMap((m) => m.values)]);
  if (!Number.isFinite(from)) { plot.append(element("p", { class: "empty" }, "No value was measured.")); return box; }
  const longest = Math.max(...labels.map((l) => String(l).length)) * 6.6 + 12;
  responsive(plot, (width) => {
    const over = longest > width * 0.3, left = over ? 10 : longest, row = over ? 38 : 24;
    const bottom = row * labels.length + 4, height = bottom + 22;
    const reach = (to - from || Math.abs(to) / 10 || 1) * 0.03;
    const x = scale([from - reach, to + reach], [left, width - 16], false, Math.max(3, Math.floor((width - left) / 110)));
    const svg = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
      "aria-label": `${title ?? "Scores"}: ${labels.map((l, i) => `${l} ${readable(values[i])}`).join(", ")}` });
    tickLabels(x.ticks).forEach((word, i) => {
      shape("line", { x1: x(x.ticks[i]), x2: x(x.ticks[i]), y1: 0, y2: bottom, class: "grid" }, svg);
      shape("text", { x: x(x.ticks[i]), y: bottom + 15, "text-anchor": "middle" }, svg, word);
    });
    const letters = Math.floor(((over ? width : left) - 12) / 6.6 + 0.01); // all of a label that fits exactly
    labels.forEach((label, i) => {
      const text = String(label), y = row * i + (over ? 27 : 14);
      shape("text", over ? { x: left, y: y - 12 } : { x: left - 8, y: y + 4, "text-anchor": "end" }, svg,
        text.length > letters ? text.slice(0, letters - 1) + "…" : text);
      marks.forEach((m, k) => {
        if (m.values[i] === null) return;
        shape("line", { x1: x(m.values[i]), x2: x(m.values[i]), y1: y - 7, y2: y + 7, class: `line line-${(k + 1) % LINES}` }, svg);
      });
      if (low[i] !== null && high[i] !== null) shape("line", { x1: x(low[i]), x2: x(high[i]), y1: y, y2: y, class: "line line-0" }, svg);
      if (values[i] !== null) shape("circle", { cx: x(values[i]), cy: y, r: 4, class: "dot-0" }, svg);
      const area = shape("rect", { x: 0, y: row * i, width, height: row, fill: "transparent" }, svg);
      area.addEventListener("pointerenter", () => {
        const ends = low[i] !== null && high[i] !== null ? ` [${readable(low[i])}, ${readable(high[i])}]` : "";
        readout.replaceChildren(`${label}: ${values[i] === null ? "undefined" : readable(values[i])}${ends}`, ...marks.map((m, k) =>
          element("span", { class: `ink-${(k + 1) % LINES}` }, ` | ${m.name} ${m.values[i] === null ? "–" : readable(m.values[i])}`)));
      });
    });
    svg.addEventListener("pointerleave", rest);
    plot.replaceChildren(svg);
  });
  return box;
}

// What a colour of the style is on this ground, for canvas.
export function inks(node, ...names) {
  const probe = element("span", { hidden: true });
  node.append(probe);
  const canvas = element("canvas", { width: 1, height: 1 }), g = canvas.getContext("2d", { willReadFrequently: true });
  const found = names.map((name) => {
    probe.style.color = `var(--${name})`;
    g.clearRect(0, 0, 1, 1);
    g.fillStyle = getComputedStyle(probe).color;
    g.fillRect(0, 0, 1, 1);
    return [...g.getImageData(0, 0, 1, 1).data.slice(0, 3)];
  });
  probe.remove();
  return found;
}

// Cells on canvas. `values[row][column]`, rows from the bottom as an axis goes; null stays empty.
export function heatmap({ title, x, y, values, unit = "", signed = false, xLabel = "", yLabel = "", onpick, mark, top }) {
  const { box, plot, readout } = figure(title, { wide: true });
  const [low, high] = extent(values.flat());
  const most = top ?? (signed ? Math.max(Math.abs(low), Math.abs(high)) : high);
  const rest = () => {
    readout.textContent = Number.isFinite(low) ? `${readable(low)} to ${readable(high)} ${unit}` : "no value";
  };
  rest();
  let place = null, held = mark ?? null;
  const canvas = element("canvas", { class: "cells", tabindex: onpick ? 0 : null, role: "img",
    "aria-label": `${title ?? "Heatmap"}: ${y.length} rows of ${x.length} columns, ${unit}` });
  const draw = (width) => {
    const longest = Math.max(...y.map((l) => String(l).length), 1);
    const left = Math.min(width * 0.3, 14 + 6.5 * longest), bottom = 34;
    const label = 8 + 6.5 * Math.max(...x.map((l) => String(l).length), 1); // of a column, where there is room
    const cell = Math.min(Math.max(WIDEST, Math.min(240, label)), (width - left - 4) / x.length);
    const tall = Math.max(7, Math.min(24, cell, 460 / y.length));
    const height = Math.ceil(tall * y.length) + bottom;
    const ratio = devicePixelRatio || 1;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const g = canvas.getContext("2d");
    g.scale(ratio, ratio);
    const [hot, cold, ink, faint, empty] = inks(plot, "hot", "cold", "accent", "faint", "panel");
    g.fillStyle = `rgb(${empty})`;
    g.fillRect(left, 0, cell * x.length, tall * y.length);
    const gap = cell > 4 && tall > 4 ? 1 : 0;
    values.forEach((row, j) => row.forEach((v, i) => {
      if (v === null || v === undefined || !most) return;
      const share = Math.min(1, Math.abs(v) / most);
      if (!share) return;
      g.fillStyle = `rgba(${(v < 0 ? cold : hot).join(",")},${(0.08 + 0.92 * share).toFixed(3)})`;
      g.fillRect(left + i * cell, (y.length - 1 - j) * tall, cell - gap, tall - gap);
    }));
    g.fillStyle = `rgb(${faint})`;
    g.font = "11px system-ui, sans-serif";
    g.textAlign = "right";
    g.textBaseline = "middle";
    const skip = Math.ceil(12 / tall);
    y.forEach((label, j) => { if (j % skip === 0) g.fillText(String(label), left - 5, (y.length - 1 - j + 0.5) * tall, left - 6); });
    g.textAlign = "center";
    const letters = Math.max(6, Math.floor((cell - 6) / 6.5)), cut = (label) => label.length > letters ? `${label.slice(0, letters - 1)}…` : label;
    const wide = Math.ceil((8 + 6 * Math.min(letters, Math.max(...x.map((l) => String(l).length)))) / cell);
    x.forEach((label, i) => { if (i % wide === 0) g.fillText(cut(String(label)), left + (i + 0.5) * cell, tall * y.length + 9); });
    g.textAlign = "right";
    g.fillText(xLabel, left + cell * x.length, height - 7);
    g.textAlign = "left";
    if (yLabel) g.fillText(`↑ ${yLabel}`, 2, height - 7);
    const frame = (at, colour) => {
      if (!at) return;
      g.strokeStyle = `rgb(${colour})`;
      g.lineWidth = 2;
      g.strokeRect(left + at[0] * cell - 0.5, (y.length - 1 - at[1]) * tall - 0.5, cell, tall);
    };
    frame(held, ink);
    frame(place, faint);
    draw.find = (event) => {
      const area = canvas.getBoundingClientRect();
      const i = Math.floor((event.clientX - area.left - left) / cell);
      const j = y.length - 1 - Math.floor((event.clientY - area.top) / tall);
      return i >= 0 && i < x.length && j >= 0 && j < y.length ? [i, j] : null;
    };
  };
  const say = (at) => {
    if (!at) { rest(); return; }
    readout.textContent = `${x[at[0]]}, ${y[at[1]]}: ${exact(values[at[1]][at[0]])} ${unit}`;
  };
  const again = framed(() => { if (canvas.isConnected) draw(plot.clientWidth); });
  const over = (at) => {
    if (String(at) === String(place)) return;
    place = at;
    say(at);
    again();
  };
  canvas.addEventListener("pointermove", (event) => over(draw.find?.(event) ?? null));
  canvas.addEventListener("pointerleave", () => over(null));
  if (onpick) {
    const pick = (at) => { if (at) { held = at; again(); onpick(at[0], at[1]); } };
    canvas.addEventListener("click", (event) => pick(draw.find?.(event)));
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (step) {
        const [i, j] = place ?? held ?? [0, 0];
        event.preventDefault();
        over([Math.min(x.length - 1, Math.max(0, i + step[0])), Math.min(y.length - 1, Math.max(0, j + step[1]))]);
      }
      if (event.key === "Enter") pick(place);
    });
  }
  plot.append(canvas);
  responsive(plot, draw);
  return box;
}

// Points on canvas. With `onbrush`, a rectangle drawn with the pointer is handed on in units of the data.
// `xs`, `ys` are typed arrays; points are counted a pixel, so that 131k of them are drawn in a few ms.
export function cloud({ title, xs, ys, ids, x, y, onbrush, onpick, height = 320, say }) {
  const { box, plot, readout } = figure(title, { wide: true });
  const kept = [];
  for (let i = 0; i < xs.length; i++) {
    if (Number.isNaN(xs[i]) || Number.isNaN(ys[i])) continue;
    if ((x.log && xs[i] <= 0) || (y.log && ys[i] <= 0)) continue;
    kept.push(i);
  }
  const left = xs.length - kept.length;
  const rest = () => {
    readout.textContent = counted(kept.length, "latent") + (left ? `; ${left.toLocaleString("en")} without a value left out` : "");
  };
  rest();
  if (!kept.length) {
    plot.append(element("p", { class: "empty" }, "No latent has both values" + (x.log || y.log ? " above 0." : ".")));
    return box;
  }
  const spanOf = (values) => { let a = Infinity, b = -Infinity; for (const i of kept) { if (values[i] < a) a = values[i]; if (values[i] > b) b = values[i]; } return [a, b]; };
  const xSpan = spanOf(xs), ySpan = spanOf(ys);
  const canvas = element("canvas", { class: "cloud" });
  const frame = element("div", { class: "cloud-frame" });
  const band = element("div", { class: "brush", hidden: true });
  plot.append(frame);
  let grid = null;
  responsive(plot, (width) => {
    const [range, n] = spans(width);
    const at = scale(xSpan, range, x.log, n), up = scale(ySpan, [height - PAD.bottom, PAD.top], y.log);
    const svg = axes(element("div"), width, height, at, up, { x: withUnit(x), y: withUnit(y) },
      `${title ?? "Scatter"}: ${kept.length} latents by ${x.label} and ${y.label}`);
    const ratio = Math.min(2, devicePixelRatio || 1), w = Math.round(width * ratio), h = Math.round(height * ratio);
    canvas.width = w;
    canvas.height = h;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    frame.replaceChildren(svg, canvas, band);
    const hits = new Uint16Array(w * h);
    const size = Math.round((kept.length > 20000 ? 1 : kept.length > 2000 ? 2 : 4) * ratio), half = size >> 1;
    grid = new Map();
    for (const i of kept) {
      const px = at(xs[i]), py = up(ys[i]);
      const key = ((px >> 3) << 12) | (py >> 3);
      const cell = grid.get(key);
      if (cell) { if (cell.length < 64) cell.push(i); } else grid.set(key, [i]);
      const cx = Math.round(px * ratio) - half, cy = Math.round(py * ratio) - half;
      for (let a = 0; a < size; a++) for (let b = 0; b < size; b++) {
        const q = (cy + a) * w + cx + b;
        if (hits[q] < 65535) hits[q]++;
      }
    }
    const g = canvas.getContext("2d"), image = g.createImageData(w, h), [ink] = inks(plot, "accent");
    let most = 1;
    for (const n of hits) if (n > most) most = n;
    for (let q = 0; q < hits.length; q++) {
      if (!hits[q]) continue;
      image.data[4 * q] = ink[0];
      image.data[4 * q + 1] = ink[1];
      image.data[4 * q + 2] = ink[2];
      image.data[4 * q + 3] = most < 4 ? 170 : 255 * (0.25 + (0.75 * Math.log(hits[q])) / Math.log(most));
    }
    g.putImageData(image, 0, 0);
    cloudMoves(at, up);
  });
  let scales = null, start = null, near = -1;
  const cloudMoves = (at, up) => { scales = { at, up }; };
  const point = (event) => {
    const area = canvas.getBoundingClientRect();
    return [event.clientX - area.left, event.clientY - area.top];
  };
  const closest = ([px, py]) => {
    let best = -1, far = 100;
    for (let a = -1; a <= 1; a++) for (let b = -1; b <= 1; b++) {
      for (const i of grid?.get((((px >> 3) + a) << 12) | ((py >> 3) + b)) ?? []) {
        const d = (scales.at(xs[i]) - px) ** 2 + (scales.up(ys[i]) - py) ** 2;
        if (d < far) [best, far] = [i, d];
      }
    }
    return best;
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (!onbrush) return;
    start = point(event);
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!scales) return;
    const here = point(event);
    if (start && Math.hypot(here[0] - start[0], here[1] - start[1]) > 4) {
      band.hidden = false;
      band.style.left = `${Math.min(here[0], start[0])}px`;
      band.style.top = `${Math.min(here[1], start[1])}px`;
      band.style.width = `${Math.abs(here[0] - start[0])}px`;
      band.style.height = `${Math.abs(here[1] - start[1])}px`;
      return;
    }
    near = closest(here);
    canvas.classList.toggle("near", near >= 0);
    if (near < 0) rest();
    else readout.textContent = say ? say(near) : `latent ${ids ? ids[near] : near}: ${readable(xs[near])}, ${readable(ys[near])}`;
  });
  canvas.addEventListener("pointerleave", () => { if (!start) rest(); });
  canvas.addEventListener("pointerup", (event) => {
    const from = start, here = point(event);
    start = null;
    if (from && !band.hidden) {
      band.hidden = true;
      const [a, b] = [from[0], here[0]].sort((p, q) => p - q).map((p) => scales.at.invert(p));
      const [d, c] = [from[1], here[1]].sort((p, q) => p - q).map((p) => scales.up.invert(p));
      onbrush({ x: [a, b], y: [c, d] });
    } else if (near >= 0 && onpick) onpick(ids ? ids[near] : near);
  });
  canvas.addEventListener("pointercancel", () => { start = null; band.hidden = true; });
  return box;
}

// Very small bars, for a row of a table or a layer.
export function spark(counts, { width = 100, height = 30, label = "", title } = {}) {
  const most = Math.log1p(Math.max(1, ...counts)), step = width / counts.length;
  const svg = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label,
    preserveAspectRatio: "none", class: "spark" });
  counts.forEach((n, i) => {
    if (!n) return;
    const tall = Math.max(1, (height * Math.log1p(n)) / most);
    const bar = shape("rect", { x: i * step, y: height - tall, width: Math.max(0.5, step - 0.4), height: tall, class: "bar" }, svg);
    if (title) shape("title", {}, bar, title(i));
  });
  return svg;
}
