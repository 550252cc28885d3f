// What a place shows while it is read, when it is empty, and when something went wrong.

import { element, command, replace } from "./dom.js";

export function loading(what = "Reading") {
  return element("div", { class: "loading", role: "status" }, element("p", {}, `${what}…`),
    element("div", { class: "bone" }), element("div", { class: "bone" }), element("div", { class: "bone" }));
}

export function shownProblem(error, { titled = true } = {}) {
  const remedy = error.remedy ?? "";
  const looksRun = /^(saekit|python3?|pip) /.test(remedy);
  return element("div", { class: "problem" }, titled ? [element("b", {}, error.title ?? "This page has a fault"), " "] : null,
    element("span", {}, error.message || String(error)),
    remedy ? element("p", {}, looksRun ? command(remedy) : remedy) : null);
}

// Fills a place when what it waits for is there; says what went wrong where it is not.
export async function filled(host, promise, draw, what) {
  replace(host, loading(what));
  try {
    const value = await promise;
    const made = await draw(value);
    replace(host, made);
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!error.title) console.error(error);
    replace(host, shownProblem(error));
  }
}

// A form that starts a job: a button, progress, cancel, then the result or the problem.
// Without a server it says which command does the same.
export function jobForm({ source, kind, label, fields, read, draw, by, onresult, onend }) {
  if (!source.job) {
    return element("div", { class: "missing" }, "This page has no model behind it. ",
      by ? ["The same from a terminal: ", command(by)] : "Open it through saekit serve.");
  }
  const out = element("div", { class: "job-result", "aria-live": "polite" });
  let running = null;
  const progress = element("progress", { max: 1, hidden: true, "aria-label": "progress" }), said = element("small");
  const start = element("button", { type: "submit" }, label);
  const stop = element("button", { type: "button", class: "quiet", hidden: true, onclick: () => running?.abort() }, "cancel");
  const run = async () => {
    if (running) return;
    let args;
    try {
      args = read();
    } catch (error) {
      replace(out, shownProblem(error));
      return;
    }
    running = new AbortController();
    const mine = running;
    start.disabled = true;
    stop.hidden = progress.hidden = false;
    progress.removeAttribute("value");
    said.textContent = "";
    try {
      const result = await source.job(kind, args, { signal: mine.signal, onProgress: ({ text, fraction }) => {
        said.textContent = text ?? "";
        if (fraction === null || fraction === undefined) progress.removeAttribute("value");
        else progress.value = fraction;
      } });
      onresult?.(result, args);
      replace(out, draw(result, args));
    } catch (error) {
      if (error.name === "AbortError") replace(out, element("p", { class: "empty" }, "Cancelled."));
      else {
        if (!error.title) console.error(error);
        replace(out, shownProblem(error));
      }
    } finally {
      running = null;
      start.disabled = false;
      stop.hidden = progress.hidden = true;
      said.textContent = "";
      onend?.();
    }
  };
  const form = element("form", { class: "job", onsubmit: (event) => { event.preventDefault(); run(); } }, fields, element("div", { class: "controls" }, start, stop, progress, said));
  const box = element("div", {}, form, out);
  box.start = run;
  return box;
}
