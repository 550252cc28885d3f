// Line charts and a histogram as SVG, drawn at the width they have.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const PAD = { left: 52, right: 12, top: 10, bottom: 36 };

function shape(tag, attributes, parent, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

function readable(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1e9) return +(value / 1e9).toPrecision(3) + "G";
  if (size >= 1e6) return +(value / 1e6).toPrecision(3) + "M";
  if (size >= 1e4) return +(value / 1e3).toPrecision(3) + "k";
  if (size > 0 && size < 1e-3) return value.toExponential(1).replace(/-/g, "−");
  return String(+value.toPrecision(3)).replace(/-/g, "−");
}

function ticks(low, high, n) {
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

function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const v of values) if (v !== null) { low = Math.min(low, v); high = Math.max(high, v); }
  return [low, high];
}

// An empty chart with axes; returns the SVG and the scales of both axes.
function axes(host, [x0, x1], [y0, y1], xLabel, height) {
  const width = Math.max(240, host.clientWidth);
  const svg = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" }, host);
  const right = width - PAD.right, bottom = height - PAD.bottom;
  const x = (v) => PAD.left + ((v - x0) / (x1 - x0 || 1)) * (right - PAD.left);
  const y = (v) => bottom - ((v - y0) / (y1 - y0 || 1)) * (bottom - PAD.top);
  for (const t of ticks(y0, y1, 5)) {
    shape("line", { x1: PAD.left, x2: right, y1: y(t), y2: y(t), class: "grid" }, svg);
    shape("text", { x: PAD.left - 6, y: y(t) + 4, "text-anchor": "end" }, svg, readable(t));
  }
  for (const t of ticks(x0, x1, Math.max(3, Math.floor(width / 110)))) {
    shape("line", { x1: x(t), x2: x(t), y1: bottom, y2: bottom + 4, class: "axis" }, svg);
    shape("text", { x: x(t), y: bottom + 16, "text-anchor": "middle" }, svg, readable(t));
  }
  shape("line", { x1: PAD.left, x2: right, y1: bottom, y2: bottom, class: "axis" }, svg);
  shape("text", { x: right, y: height - 4, "text-anchor": "end", class: "label" }, svg, xLabel);
  return { svg, x, y, bottom };
}

function figure(host, title) {
  const box = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const name = document.createElement("b");
  const readout = document.createElement("output");
  name.textContent = title;
  caption.append(name, readout);
  const plot = document.createElement("div");
  box.append(caption, plot);
  host.append(box);
  return { plot, readout };
}

function lineChart(host, title, xs, series, xLabel) {
  const { plot, readout } = figure(host, title);
  const values = series.flatMap((s) => s.values);
  let [low, high] = extent(values);
  if (low > 0 && low < high / 3) low = 0;
  if (low === high) { low = Math.min(0, low); high = high > low ? high * 1.1 : low + 1; }
  const last = xs.length - 1;
  const at = (i) => series.map((s, number) => {  // in the colour of its line
    const said = document.createElement("span");
    if (series.length > 1) said.className = `ink-${number % 4}`;
    said.textContent = (series.length > 1 ? s.name + " " : "") + readable(s.values[i]);
    return said;
  }).flatMap((said, number) => (number ? [", ", said] : [said]));
  const rest = () => readout.replaceChildren("last: ", ...at(last));
  const draw = () => {
    plot.replaceChildren();
    const from = xs.length > 1 ? xs[0] : 0;
    const { svg, x, y, bottom } = axes(plot, [from, xs[last]], [low, high], xLabel, 190);
    series.forEach((s, number) => {
      let path = "", pen = false;
      s.values.forEach((v, i) => {
        if (v === null) { pen = false; return; }
        path += `${pen ? "L" : "M"}${x(xs[i]).toFixed(1)},${y(v).toFixed(1)}`;
        pen = true;
      });
      shape("path", { d: path, class: `line line-${number % 4}` }, svg);
      if (xs.length === 1) {
        shape("circle", { cx: x(xs[0]), cy: y(s.values[0]), r: 3, class: `dot-${number % 4}` }, svg);
      }
    });
    const cursor = shape("line", { y1: PAD.top, y2: bottom, class: "cursor" }, svg);
    svg.addEventListener("pointermove", (event) => {
      const place = event.clientX - svg.getBoundingClientRect().left;
      let best = 0;
      xs.forEach((v, i) => {
        if (Math.abs(x(v) - place) < Math.abs(x(xs[best]) - place)) best = i;
      });
      cursor.setAttribute("x1", x(xs[best]));
      cursor.setAttribute("x2", x(xs[best]));
      cursor.classList.add("on");
      readout.replaceChildren(...at(best), ` at ${readable(xs[best])} tokens`);
    });
    svg.addEventListener("pointerleave", () => { cursor.classList.remove("on"); rest(); });
  };
  rest();
  return draw;
}

function histogramChart(host, edges, counts) {
  const { plot, readout } = figure(host, "Latents by density");
  const total = counts.reduce((a, b) => a + b, 0);
  const rest = () => { readout.textContent = `${total.toLocaleString("en")} latents that fire`; };
  rest();
  return () => {
    plot.replaceChildren();
    const first = Math.max(0, counts.findIndex((c) => c > 0));
    const from = edges[first], to = edges[edges.length - 1];
    const high = Math.max(1, ...counts);
    const { svg, x, y, bottom } = axes(
      plot, [from, to], [0, high], "log10 of the share of tokens the latent is on for", 220);
    counts.forEach((count, i) => {
      if (i < first) return;
      const left = x(edges[i]), width = Math.max(1, x(edges[i + 1]) - left - 1);
      const bar = shape("rect", {
        x: left, width, y: y(count), height: Math.max(0, bottom - y(count)), class: "bar",
      }, svg);
      bar.addEventListener("pointerenter", () => {
        readout.textContent = `${count.toLocaleString("en")} latents with density ` +
          `${readable(10 ** edges[i])} to ${readable(10 ** edges[i + 1])}`;
      });
      bar.addEventListener("pointerleave", rest);
    });
  };
}
