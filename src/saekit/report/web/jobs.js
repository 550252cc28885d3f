// Jobs of the server: what waits, what runs, what became of it.

import { element, button, replace, visible, command } from "./dom.js";
import { shownProblem } from "./states.js";

const EVERY = 1500;

export async function jobsPage(host, { source }) {
  document.title = "Jobs · saekit";
  if (!source.live) {
    replace(host, element("h1", {}, "Jobs"), element("p", { class: "missing" }, "There is no server behind this page. ", command("saekit serve")));
    return {};
  }
  let timer = null;
  const body = element("div", { "aria-live": "polite" });
  replace(host, element("h1", {}, "Jobs"), element("p", { class: "about" },
    "A job goes on when its page is closed. The model is loaded by the first one."), body);
  const draw = (list) => {
    if (!list.length) { replace(body, element("p", { class: "empty" }, "No job was started yet. Try a prompt, or steer a latent.")); return; }
    replace(body, element("div", { class: "wide" }, element("table", {}, element("thead", {}, element("tr", {},
      ["job", "state", "progress", ""].map((h) => element("th", { scope: "col" }, h)))), element("tbody", {}, list.map((job) => {
      const open = ["waiting", "running"].includes(job.state), why = typeof job.error === "object" ? job.error?.detail : job.error;
      return element("tr", {}, element("td", {}, job.kind, " ", element("small", {}, visible(String(job.sae ?? "")))),
        element("td", {}, element("span", { class: `badge ${{ running: "state-live", failed: "state-damaged", done: "state-ok" }[job.state] ?? ""}` }, job.state)),
        element("td", {}, open ? element("progress", { max: 1, value: job.progress?.fraction === null ? null : String(job.progress?.fraction ?? 0), "aria-label": "progress" }) : null,
          " ", element("small", { dir: "auto" }, why ?? job.progress?.text ?? "")),
        element("td", {}, open ? button("cancel", async () => { await source.cancel(job.id).catch(() => {}); look(); }, { class: "quiet" }) : null));
    })))));
  };
  let closed = false;
  const look = async () => {
    clearTimeout(timer);
    try {
      const said = await source.jobs();
      draw(Array.isArray(said) ? said : said.jobs ?? []);
    } catch (error) {
      replace(body, shownProblem(error));
    }
    if (!closed) timer = setTimeout(look, EVERY);
  };
  await look();
  return { close: () => { closed = true; clearTimeout(timer); } };
}
