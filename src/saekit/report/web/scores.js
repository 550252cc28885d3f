// Scores with their intervals, what they mean and where they come from.

import { element } from "./dom.js";
import { readable, exact, tip, about } from "./numbers.js";

export const near = (v) => (typeof v === "number" ? String(+v.toPrecision(4)).replace(/-/g, "−") : readable(v));

export function interval(score) {
  if (score.low === null || score.low === undefined || score.high === null || score.high === undefined) return "no interval";
  return `${near(score.low)} to ${near(score.high)}`;
}

export function scoreCard(score) {
  const undefinedScore = score.value === null || score.value === undefined;
  const value = element("strong", {}, undefinedScore ? "undefined" : near(score.value));
  const better = { lower: "lower is better", higher: "higher is better" }[score.better];
  const card = element("div", { class: "card", tabindex: 0 }, element("b", {}, score.label ?? ""), value,
    undefinedScore ? element("small", {}, score.reason ?? "") : [element("small", {}, interval(score)),
      element("small", {}, score.unit ?? ""), better ? element("small", {}, better) : null]);
  return tip(card, () => about(score.value, score));
}

export function scoreTable(scores) {
  return element("div", { class: "wide" }, element("table", {}, element("thead", {}, element("tr", {},
    ["score", "value", "95 % interval", "unit"].map((h) => element("th", { scope: "col" }, h)),
    element("th", { scope: "col" }, tip(element("span", { tabindex: 0 }, "n"), ["Independent units behind it: blocks of text, documents or latents."])))),
  element("tbody", {}, scores.map((s) => element("tr", {},
    element("td", {}, s.about ? tip(element("span", { tabindex: 0 }, s.label ?? ""), [s.about, s.source ? `from ${s.source}` : ""].filter(Boolean)) : s.label),
    element("td", { class: "number", title: exact(s.value) }, s.value === null ? `undefined: ${s.reason ?? ""}` : near(s.value)),
    element("td", { class: "number" }, interval(s)), element("td", {}, s.unit ?? ""),
    element("td", { class: "number" }, s.n === null || s.n === undefined ? "–" : exact(s.n)))))));
}

const SHORT = { fvu: "FVU", l0: "L0", ce_rise: "CE rise", ce_recovered_zero: "CE recovered", kl: "KL", dead: "dead" };

// The scores that tell SAEs apart at a glance, in this order, or what there is of others.
export function leading(scores, most = 4) {
  const known = "fvu" in scores ? Object.keys(SHORT) : Object.keys(scores);
  return known.filter((name) => scores[name]?.value !== null && scores[name]).slice(0, most).map((name) => [name, scores[name]]);
}

export function scoreMini(name, score) {
  if (!score) return null;
  const known = score.value !== null && score.value !== undefined;
  const bounds = known && score.low !== null && score.low !== undefined
    ? element("small", {}, ` ±${near(+((score.high - score.low) / 2).toPrecision(2))}`) : null;
  return element("span", { class: "mini" }, element("small", {}, `${SHORT[name] ?? score.label ?? name} `),
    tip(element("span", { class: "quantity", tabindex: 0 }, known ? near(+score.value.toPrecision(3)) : "undefined", bounds), () => about(score.value, score)));
}
