// One run: curves that grow while it trains, checkpoints, settings, and how to go on with it.

import { element, replace, command, visible } from "./dom.js";
import { flat, quantity } from "./numbers.js";
import { lines } from "./charts.js";
import { saeAt } from "./routes.js";

const TITLES = {
  loss: "Loss", fvu: "FVU (ratio)", l0: "L0 (latents per token)", dead: "Dead latents", lr: "Learning rate",
  tokens_per_second: "Speed (tokens per second)",
};
const EVERY = 3000; // ms between looks at a run that goes on

export function curveCharts(curves) {
  if (!curves?.tokens?.length) return element("p", { class: "empty" }, "No step is logged yet.");
  const xs = curves.tokens;
  const known = [...Object.keys(TITLES).filter((name) => curves[name]),
    ...Object.keys(curves).filter((name) => !(name in TITLES) && Array.isArray(curves[name]) && name !== "tokens" && name !== "step")];
  return element("div", { class: "charts" }, known.map((name) => {
    const terms = Object.entries(curves.terms ?? {}), split = name === "loss" && terms.length > 1;
    const series = [{ name: "total", x: xs, y: curves[name] }];
    if (split) for (const [term, values] of terms) series.push({ name: term, x: xs, y: values });
    return lines({ title: TITLES[name] ?? name, x: { label: "training tokens" }, y: {}, series });
  }));
}

export async function runPage(host, { source, path }) {
  const id = path[1];
  let timer = null, seen = "";
  const body = element("div");
  const draw = (run) => {
    const now = JSON.stringify([run.status, run.curves?.tokens?.length, run.curves?.tokens?.at(-1), run.checkpoints?.length]);
    if (now === seen) return;
    seen = now;
    document.title = `${run.title ?? id} · saekit`;
    const live = run.status === "running";
    replace(body, element("header", {}, element("h1", {}, visible(run.title ?? id)), element("p", { class: "badges" },
      element("span", { class: `badge ${live ? "state-live" : ""}` }, run.status ?? "unknown"),
      run.fraction === null || run.fraction === undefined ? null : [element("progress", { max: 1, value: String(run.fraction), "aria-label": "how far the run is" }),
        ` ${Math.round(100 * run.fraction)} %`]),
    run.sae ? element("p", {}, element("a", { href: saeAt(run.sae) }, "its SAE")) : null,
    run.command && !["finished", "done"].includes(run.status) ? element("p", {}, live ? "Go on with it after a stop: " : "Go on with it: ", command(run.command)) : null),
    (run.notes ?? []).map((note) => element("p", { class: "problem", dir: "auto" }, visible(note))),
    element("section", {}, element("h2", {}, "Training"), element("p", { class: "about" },
      "Over training batches, activations scaled as in training.", live ? " Read again every 3 seconds." : "",
      run.curves?.every > 1 ? ` One record in ${run.curves.every} is drawn.` : ""), curveCharts(run.curves)),
    element("section", {}, element("h2", {}, "Checkpoints"), (run.checkpoints ?? []).length ? checkpointTable(run.checkpoints)
      : element("p", { class: "empty" }, "None was kept.")),
    run.settings && Object.keys(run.settings).length ? element("section", {}, element("h2", {}, "Settings"), element("div", { class: "wide" },
      element("table", {}, element("tbody", {}, flat(run.settings).map(([k, v]) => element("tr", {}, element("th", { scope: "row" }, k), element("td", { dir: "auto" }, v))))))) : null);
  };
  const first = await source.run(id);
  replace(host, body);
  draw(first);
  const again = async () => {
    if (!body.isConnected) return;
    let status = "running";
    if (!document.hidden) {
      try {
        const run = await source.run(id);
        status = run.status;
        draw(run);
      } catch {
        // the server may be away for a moment; the next look tells
      }
    }
    if (status === "running") timer = setTimeout(again, EVERY);
  };
  if (first.status === "running" && source.live) timer = setTimeout(again, EVERY);
  return { close: () => clearTimeout(timer) };
}

function checkpointTable(list) {
  const names = [...new Set(list.flatMap((c) => Object.keys(typeof c === "object" ? c : { step: c })))];
  return element("div", { class: "wide" }, element("table", {}, element("thead", {}, element("tr", {}, names.map((n) => element("th", { scope: "col" }, n)))),
    element("tbody", {}, list.map((c) => element("tr", {}, names.map((n) => {
      const v = typeof c === "object" ? c[n] : c;
      return element("td", { class: "number" }, typeof v === "number" ? quantity(v, { unit: n }) : visible(String(v ?? "–")));
    }))))));
}

