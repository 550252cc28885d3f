// Entry of the one-file page of a prompt: the same views as the explorer's, over what the file holds.

import { element, replace } from "./dom.js";
import { quantity, startTips } from "./numbers.js";
import { promptViews } from "./prompt.js";
import { tokenStrip, readout } from "./strip.js";
import { parsed } from "./routes.js";

const data = JSON.parse(document.getElementById("data").textContent);
const reading = { ...data, tokens: data.tokens.map(([id, text, counts], pos) => ({ id, text, pos, counts })), metrics: [] };
const named = (list) => list.map(([id, ...numbers]) => [data.pieces[id] ?? "", ...numbers]);

function examples(held) {
  const known = data.examples[`${held.site}/${held.latent}`];
  if (!known || !known.length) return element("p", { class: "missing" }, "No example of it is in this page.");
  const most = Math.max(...known.map((one) => one[3])), say = readout();
  return [say.box, known.map(([tokens, values, peak, value]) => {
    const at = values.map((_, j) => j).filter((j) => values[j]);
    return element("div", { class: "row" }, element("span", { class: "value" }, quantity(value, { unit: "strength" })), tokenStrip({
      strings: tokens, tokens: tokens.map((_, j) => j), peak, channels: [{ name: "strength", unit: "", at, values: at.map((j) => values[j]), most }] },
    { onsay: say.say, className: "text" }));
  })];
}

let steered = 0;

function logits(held, { cells, threes }) {
  const recon = data.recon[held.site], at = held.pos, host = element("div");
  const part = (found) => ({ top: named(found.top[at]), up: named(found.up[at]), down: named(found.down[at]) });
  const draw = () => {
    const one = data.steered[steered];
    const choice = element("select", { "aria-label": "steering", onchange: (event) => { steered = Number(event.target.value); draw(); } },
      data.steered.map((s, k) => element("option", { value: String(k), selected: k === steered },
        `latent ${s.latent} at ${s.site}, ${s.factor} ${s.unit === "norm" ? "mean norms" : "act units"}`)));
    replace(host, element("p", { class: "about" }, "By the model alone; with the held layer replaced by the SAE's reconstruction; and with a latent's direction added. Changes are differences of logits."),
      element("div", { class: "logit-lists" }, cells("model alone", named(data.input[at])), threes(part(recon), `reconstructed at ${held.site}`)),
      one ? [element("h3", {}, "Steered: ", choice), element("div", { class: "logit-lists" }, threes(part(one), "steered"))] : null);
  };
  draw();
  return host;
}

startTips();
promptViews(document.getElementById("views"), { source: null, id: null, reading, text: "", state: parsed(location.hash).state, examples, logits });
