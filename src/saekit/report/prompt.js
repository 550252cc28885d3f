// A prompt at every layer: choose a token, a layer and a latent; every view follows.

const data = JSON.parse(document.getElementById("data").textContent);
const state = { site: data.sites[0], pos: data.tokens.length - 1, latent: 0, threshold: 0.3, steer: 0 };
let hovered = null; // a token under the pointer, shown but not chosen

// With the spaces at its ends, and never empty.
const edged = (token) => visible(token).replace(/^ | $/g, "␣") || "·";

// strength[site] maps "position,latent" to strength; top[site][position] is the largest.
const strength = {}, top_ = {};
for (const site of data.sites) {
  const [pos, latent, value] = data.entries[site];
  strength[site] = new Map(pos.map((p, i) => [`${p},${latent[i]}`, value[i]]));
  top_[site] = data.tokens.map(() => 0);
  pos.forEach((p, i) => { top_[site][p] = Math.max(top_[site][p], value[i]); });
}
const at = (site, pos, latent) => strength[site].get(`${pos},${latent}`) ?? 0;
const view = (name) => document.querySelector(`#${name} .view`);
const shownPos = () => hovered ?? state.pos;

function choose(change) {
  Object.assign(state, change);
  draw();
}

function strongestLatent(site, pos) {
  const [ps, latents, values] = data.entries[site];
  let best = -1, latent = 0;
  ps.forEach((p, i) => { if (p === pos && values[i] > best) { best = values[i]; latent = latents[i]; } });
  return latent;
}

function drawControls() {
  const number = (key, max) => element("input", {
    type: "number", min: 0, max, value: state[key], "aria-label": key,
    onchange: (event) => {
      const value = Math.trunc(Number(event.target.value));
      if (event.target.value !== "" && value >= 0 && value <= max) choose({ [key]: value });
      else event.target.value = state[key];
    },
  });
  const layers = element("select", { onchange: (event) => choose({ site: event.target.value }) });
  for (const site of data.sites) {
    const option = element("option", { value: site }, site);
    if (site === state.site) option.selected = true;
    layers.append(option);
  }
  const threshold = element("input", {
    type: "range", min: 0, max: 0.95, step: 0.05, value: state.threshold,
    onchange: (event) => choose({ threshold: Number(event.target.value) }),
  });
  document.getElementById("controls").replaceChildren(
    element("label", {}, "layer", layers),
    element("label", {}, "position", number("pos", data.tokens.length - 1)),
    element("label", {}, "latent", number("latent", data.d_sae - 1)),
    element("label", {}, `threshold ${state.threshold.toFixed(2)}`, threshold));
}

function drawStrip() {
  const nodes = data.tokens.map(([id, token, layers], pos) => {
    const value = at(state.site, pos, state.latent), largest = top_[state.site][pos];
    const button = element("button", {
      type: "button", "aria-pressed": pos === state.pos,
      title: `position ${pos}, id ${id}, counts at ${layers} layers, strength ${value}`,
      onclick: () => choose({ pos, latent: strongestLatent(state.site, pos) }),
      onmouseenter: () => { hovered = pos; drawHeatmap(); },
      onmouseleave: () => { hovered = null; drawHeatmap(); },
    }, edged(token));
    button.style.setProperty("--share", largest ? (value / largest).toFixed(3) : "0");
    if (!layers) button.classList.add("out");
    return button;
  });
  view("strip").replaceChildren(element("div", { class: "strip" }, ...nodes));
}

function latentsOf(pos) {
  const rows = new Map();
  data.sites.forEach((site, l) => {
    const [ps, latents, values] = data.entries[site];
    ps.forEach((p, i) => {
      if (p !== pos) return;
      const row = rows.get(latents[i]) ?? { latent: latents[i], mass: 0, moment: 0, cells: new Map() };
      row.mass += values[i];
      row.moment += values[i] * data.numbers[l];
      if (values[i] > state.threshold * top_[site][pos]) row.cells.set(site, values[i]);
      rows.set(latents[i], row);
    });
  });
  const shown = [...rows.values()].filter((row) => row.cells.size);
  for (const row of shown) row.mean = row.moment / row.mass;
  return shown.sort((a, b) => a.mean - b.mean || b.mass - a.mass);
}

function drawHeatmap() {
  const pos = shownPos(), rows = latentsOf(pos);
  const head = element("tr", {}, element("th", {}, "latent"), element("th", {}, "mean layer"));
  for (const site of data.sites) {
    head.append(element("th", { title: site }, site.replace(/^L(\d+)\.resid_post$/, "$1")));
  }
  const body = rows.map((row) => {
    const line = element("tr", {}, element("th", {}, String(row.latent)),
      element("td", {}, row.mean.toFixed(2)));
    if (row.latent === state.latent) line.className = "on";
    for (const site of data.sites) {
      const value = row.cells.get(site);
      if (value === undefined) { line.append(element("td")); continue; }
      const cell = element("td", {
        class: "cell", title: `${site}, latent ${row.latent}: ${value}`,
        onclick: () => choose({ site, latent: row.latent, pos }),
      }, value < 10 ? value.toFixed(1) : value.toFixed(0));
      cell.style.setProperty("--share", (value / top_[site][pos]).toFixed(3));
      if (row.latent === state.latent && site === state.site) cell.classList.add("on");
      line.append(cell);
    }
    return line;
  });
  const note = `Token ${edged(data.tokens[pos][1])} at position ${pos}: ${rows.length} latents over the threshold.`;
  view("heatmap").replaceChildren(element("p", { class: "count" }, note),
    element("div", { class: "wide scroll" }, element("table", { class: "grid-table" },
      element("thead", {}, head), element("tbody", {}, ...body))));
}

function drawHistograms() {
  const svg = "http://www.w3.org/2000/svg", width = 100, height = 34;
  const every = Object.values(data.histograms.counts).flat();
  const tallest = Math.log1p(Math.max(1, ...every));
  const edges = data.histograms.edges;
  const nodes = data.sites.map((site) => {
    const counts = data.histograms.counts[site];
    const chart = document.createElementNS(svg, "svg");
    chart.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const step = width / counts.length;
    counts.forEach((count, i) => {
      if (!count) return;
      const bar = document.createElementNS(svg, "rect");
      const tall = height * Math.log1p(count) / tallest;
      const places = { x: i * step, y: height - tall, width: step, height: tall, class: "bars" };
      for (const [name, value] of Object.entries(places)) bar.setAttribute(name, value);
      const title = document.createElementNS(svg, "title");
      title.textContent = `${edges[i]} to ${edges[i + 1]}: ${count}`;
      bar.append(title);
      chart.append(bar);
    });
    return element("button", {
      type: "button", "aria-pressed": site === state.site, onclick: () => choose({ site }),
    }, site, chart);
  });
  view("histograms").replaceChildren(
    element("p", { class: "count" }, `Strength from 0 to ${edges[edges.length - 1]}.`),
    element("div", { class: "small" }, ...nodes));
}

function drawExamples() {
  const known = data.examples[`${state.site}/${state.latent}`];
  const title = element("p", { class: "count" }, `Latent ${state.latent} at ${state.site}.`);
  if (!known || !known.length) {
    view("examples").replaceChildren(title, element("p", { class: "missing" },
      "No example of it is in this page."));
    return;
  }
  const largest = Math.max(...known.map((one) => one[3]));
  const rows = known.map(([tokens, values, peak, value]) => {
    const text = element("p", { class: "context" });
    tokens.forEach((token, i) => {
      const span = element("span", { title: String(values[i]) }, i === peak ? edged(token) : token.replace(/\n/g, "↵"));
      if (values[i]) {
        span.classList.add("on");
        span.style.setProperty("--share", Math.min(values[i] / largest, 1).toFixed(3));
      }
      if (i === peak) span.classList.add("peak");
      text.append(span);
    });
    return element("div", { class: "row" }, element("span", { class: "value" }, String(value)), text);
  });
  view("examples").replaceChildren(title, ...rows);
}

function logitList(title, cells, signed) {
  const items = cells.map(([id, logit, prob]) => {
    const number = prob === undefined ? (logit > 0 ? "+" : "") + logit.toFixed(2) : `${(100 * prob).toFixed(1)} %`;
    return element("li", {}, element("span", { class: "chip" }, edged(data.pieces[id] ?? "")),
      element("span", { class: "number", title: `logit ${logit}` }, number));
  });
  return element("div", {}, element("h4", {}, title), element("ol", {}, ...items));
}

function drawLogits() {
  const pos = state.pos, recon = data.recon[state.site], nodes = [];
  const lists = (...children) => element("div", { class: "logit-lists" }, ...children);
  nodes.push(element("h3", {}, `Reconstruction at ${state.site}`), lists(
    logitList("model alone", data.input[pos]), logitList("reconstructed", recon.top[pos]),
    logitList("largest change", recon.up[pos]), logitList("smallest change", recon.down[pos])));
  if (data.steered.length) {
    const choices = element("select", {
      "aria-label": "steering", onchange: (event) => choose({ steer: Number(event.target.value) }),
    });
    data.steered.forEach((one, i) => {
      const unit = one.unit === "norm" ? "mean norms" : "act units";
      const option = element("option", { value: i },
        `latent ${one.latent} at ${one.site}, ${one.factor} ${unit}`);
      if (i === state.steer) option.selected = true;
      choices.append(option);
    });
    const one = data.steered[state.steer];
    nodes.push(element("h3", {}, "Steered: ", choices), lists(
      logitList("steered", one.top[pos]),
      logitList("largest change", one.up[pos]), logitList("smallest change", one.down[pos])));
  }
  view("logits").replaceChildren(...nodes);
}

function draw() {
  drawControls();
  drawStrip();
  drawHeatmap();
  drawHistograms();
  drawExamples();
  drawLogits();
}

state.site = data.sites[Math.floor(data.sites.length / 2)];
state.latent = strongestLatent(state.site, state.pos);
draw();
