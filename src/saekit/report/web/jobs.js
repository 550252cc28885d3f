// Jobs of the server: what waits, what runs, what became of it.

import { element, button, replace, visible, clipped, command } from "./dom.js";
import { filled, shownProblem } from "./states.js";
import { activated, ablated, steeredTable } from "./latent.js";
import { matched } from "./compare.js";
import { latentAt, saeAt, promptAt } from "./routes.js";

const EVERY = 1500;
const SHOWN = { activate: activated, ablate: ablated, steer: steeredTable, match: matched };

// Where what a job made is shown again by its own page; null: it is shown here.
function placeOf({ kind, asked = {} }) {
  if (kind === "prompt" || kind === "logits") return promptAt(asked.sae, { text: asked.text, site: asked.site, pos: asked.pos, latent: asked.latent });
  return kind === "index" ? saeAt(asked.sae) : null;
}

function askedLine({ asked = {} }) {
  const text = asked.text ?? asked.prompt ?? (asked.texts ?? []).join(" / ");
  const latent = asked.latent ?? null;
  return [asked.sae ? element("a", { href: saeAt(asked.sae) }, visible(asked.sae)) : null, asked.other ? [" and ", visible(asked.other)] : null,
    latent === null ? null : [", ", element("a", { href: latentAt(asked.sae, latent) }, `latent ${latent}`)],
    text ? element("small", { dir: "auto" }, ` ${clipped(visible(text), 80)}`) : null];
}

export async function jobsPage(host, { source }) {
  document.title = "Jobs · saekit";
  if (!source.live) {
    replace(host, element("h1", {}, "Jobs"), element("p", { class: "missing" }, "There is no server behind this page. ", command("saekit serve")));
    return {};
  }
  let timer = null, drawn = "";
  const body = element("div"), result = element("section");
  replace(host, element("h1", {}, "Jobs"), element("p", { class: "about" },
    "A job goes on when its page is closed, and its result stays here. The first one loads the model."), body, result);
  const show = (job) => {
    const inside = element("div");
    replace(result, element("h2", {}, `Result: ${job.kind}`), element("p", {}, askedLine(job)), inside);
    filled(inside, source.oneJob(job.id), (whole) => SHOWN[job.kind](whole.result, job.asked ?? {}), "Reading the result");
    result.scrollIntoView({ block: "nearest" });
  };
  const draw = (list) => {
    const now = JSON.stringify(list);
    if (now === drawn) return; // what the keyboard is on stays
    drawn = now;
    if (!list.length) { replace(body, element("p", { class: "empty" }, "No job since the server was started. Try a prompt, or steer a latent.")); return; }
    replace(body, element("div", { class: "wide" }, element("table", { class: "jobs" }, element("thead", {}, element("tr", {},
      ["job", "of", "state", "asked", ""].map((h) => element("th", { scope: "col" }, h)))), element("tbody", {}, list.map((job) => {
      const open = ["waiting", "running"].includes(job.state), why = typeof job.error === "object" ? job.error?.detail : job.error, to = placeOf(job);
      return element("tr", {}, element("td", {}, job.kind), element("td", {}, askedLine(job)),
        element("td", {}, element("span", { class: `badge ${{ running: "state-live", failed: "state-damaged", done: "state-ok" }[job.state] ?? ""}` }, job.state),
          open ? [" ", element("progress", { max: 1, value: job.progress?.fraction === null ? null : String(job.progress?.fraction ?? 0), "aria-label": "progress" })] : null,
          why || open ? element("small", { dir: "auto" }, ` ${why ?? job.progress?.text ?? ""}`) : null),
        element("td", { title: job.made }, job.made ? new Date(job.made).toLocaleTimeString("en-GB") : "–"),
        element("td", {}, open ? button("cancel", async () => { await source.cancel(job.id).catch(() => {}); look(); }, { class: "quiet" })
          : job.state !== "done" ? null : to && job.asked?.sae ? element("a", { href: to }, "open") : job.kind in SHOWN ? button("show", () => show(job), { class: "quiet" }) : null));
    })))));
  };
  let closed = false;
  const look = async () => {
    clearTimeout(timer);
    try {
      const said = await source.jobs();
      draw(Array.isArray(said) ? said : said.jobs ?? []);
    } catch (error) {
      drawn = "";
      replace(body, shownProblem(error));
    }
    if (!closed) timer = setTimeout(look, EVERY);
  };
  await look();
  return { close: () => { closed = true; clearTimeout(timer); } };
}
