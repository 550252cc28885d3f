// A line of tokens with one or several channels of values: hover or arrows show, a click holds.

import { element, visible, clipped, edged, replace } from "./dom.js";
import { readable, exact } from "./numbers.js";

const LONG = 2000; // tokens drawn at once

// strip: {strings, tokens, channels: [{name, unit, at, values, signed?, most?, scale?}], peak?, from?, to?}
// onsay(text, held): what is under the pointer or held; onpick(j): a click or Enter on a token.
export function tokenStrip({ strings, tokens, channels, peak = null, from = 0, to = tokens.length },
  { onsay, onpick, onhover, held = null, label = "Tokens", out, className = "" } = {}) {
  const values = channels.map((c) => new Map(c.at.map((j, k) => [j, c.values[k]])));
  const most = channels.map((c) => c.most ?? c.scale ?? Math.max(1e-30, ...c.values.map((v) => Math.abs(v ?? 0))));
  const line = element("div", { class: `strip ${className}`, dir: "auto", tabindex: 0, role: "group",
    "aria-label": `${label}, ${to - from} tokens. Arrow keys move, Enter holds.` });
  let cursor = null, holds = held;
  const nodes = new Map();
  const paint = (shown) => {
    const channel = channels[shown];
    nodes.forEach((node, j) => {
      const v = values[shown]?.get(j);
      node.classList.remove("on", "cold");
      node.style.removeProperty("--share");
      if (v === undefined || v === null || v === 0) return;
      const share = Math.min(1, Math.abs(v) / most[shown]);
      node.classList.add("on");
      if (v < 0) node.classList.add("cold");
      node.style.setProperty("--share", `${(100 * (0.1 + 0.9 * share)).toFixed(1)}%`);
    });
    line.classList.toggle("signed", Boolean(channel?.signed));
  };
  const limit = Math.min(to, from + LONG);
  const add = (first, last) => {
    for (let j = first; j < last; j++) {
      const text = strings[tokens[j]] ?? "";
      // An empty token is the rest of a character before it; it is shown where it carries a value.
      if (text === "" && j !== peak && !values.some((v) => v.get(j))) continue;
      const shown = text === "" ? "·" : clipped(visible(text));
      const node = element("bdi", { class: "tok", "data-j": j }, shown);
      if (j === peak) node.classList.add("peak");
      if (j === holds) node.classList.add("held");
      if (out?.(j)) node.classList.add("out");
      nodes.set(j, node);
      line.append(node);
      if (text.includes("\n")) line.append(element("br", { class: "break" }));
    }
  };
  add(from, limit);
  if (limit < to) {
    const more = element("button", { type: "button", class: "quiet", onclick: () => {
      more.remove();
      add(limit, to);
      paint(0);
    } }, `show ${(to - limit).toLocaleString("en")} more tokens`);
    line.append(more);
  }
  paint(0);
  const told = (j) => {
    const text = strings[tokens[j]] ?? "";
    const known = channels.map((c, k) => {
      const v = values[k].get(j);
      const share = v !== undefined && c.most ? `, ${readable((100 * Math.abs(v)) / c.most)} % of its maximum` : "";
      return `${c.name} ${v === undefined ? "0" : exact(v)}${c.unit ? " " + c.unit : ""}${share}`;
    });
    return `${edged(text)} · ${known.join(" · ")} · position ${j}`;
  };
  const show = (j) => onsay?.(j === null ? (holds === null ? "" : told(holds)) : told(j), j === null && holds !== null);
  const move = (j) => {
    nodes.get(cursor)?.classList.remove("cursor");
    cursor = j;
    nodes.get(j)?.classList.add("cursor");
    nodes.get(j)?.scrollIntoView({ block: "nearest", inline: "nearest" });
    show(j);
    onhover?.(j);
  };
  const hold = (j) => {
    nodes.get(holds)?.classList.remove("held");
    holds = holds === j && !onpick ? null : j;
    nodes.get(holds)?.classList.add("held");
    show(null);
    onpick?.(j);
  };
  const of = (event) => {
    const node = event.target instanceof Element ? event.target.closest(".tok") : null;
    return node ? Number(node.dataset.j) : null;
  };
  line.addEventListener("pointerover", (event) => { const j = of(event); if (j !== null) { show(j); onhover?.(j); } });
  line.addEventListener("pointerleave", () => { show(null); onhover?.(null); });
  line.addEventListener("click", (event) => { const j = of(event); if (j !== null) hold(j); });
  line.addEventListener("blur", () => { nodes.get(cursor)?.classList.remove("cursor"); onhover?.(null); });
  line.addEventListener("keydown", (event) => {
    const keys = [...nodes.keys()], here = keys.indexOf(cursor ?? holds ?? peak ?? keys[0]);
    const by = { ArrowRight: 1, ArrowLeft: -1, Home: -keys.length, End: keys.length }[event.key];
    if (by) {
      event.preventDefault();
      move(keys[Math.max(0, Math.min(keys.length - 1, cursor === null ? Math.max(0, here) : here + by))]);
    } else if ((event.key === "Enter" || event.key === " ") && cursor !== null) {
      event.preventDefault();
      hold(cursor);
    }
  });
  if (channels.length < 2) return line;
  const choices = channels.map((c, k) => element("label", {},
    element("input", { type: "radio", name: `channel-${(tokenStrip.number = (tokenStrip.number ?? 0) + (k ? 0 : 1))}`,
      checked: k === 0, onchange: () => paint(k) }), ` ${c.name}`));
  return element("div", {}, element("div", { class: "controls", role: "radiogroup", "aria-label": "what colours the tokens" }, choices), line);
}

// Where to cut a row so that its peak is near the middle of few tokens.
export function around(example, each = 14) {
  const middle = example.peak ?? example.token ?? Math.floor(Math.min(example.tokens.length, 2 * each) / 2);
  return { from: Math.max(0, middle - each), to: Math.min(example.tokens.length, middle + each + 1) };
}

// The readout of strips: says what is under the pointer, or what is held.
export function readout() {
  const box = element("output", { class: "readout", dir: "auto" });
  const say = (text, held) => {
    box.classList.toggle("held", Boolean(held && text));
    replace(box, text || "Point at a token to read its value; click it to hold it.");
  };
  say("");
  return { box, say };
}
