// Numbers as people read them, each with its unit, interval and source one hover or Tab away.

import { element } from "./dom.js";

export function readable(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  const said = (text) => String(text).replace(/-/g, "−");
  // A count is not rounded while it is short: 4,096 latents are not 4100.
  if (Number.isInteger(value) && size < 1e4) return said(value.toLocaleString("en"));
  if (size >= 1e9) return said(+(value / 1e9).toPrecision(3)) + "G";
  if (size >= 1e6) return said(+(value / 1e6).toPrecision(3)) + "M";
  if (size >= 1e4) return said(+(value / 1e3).toPrecision(3)) + "k";
  if (size > 0 && size < 1e-3) return said(value.toExponential(1));
  return said(+value.toPrecision(3));
}

export function exact(value) {
  if (typeof value !== "number") return value === null || value === undefined ? "no value" : String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en").replace(/-/g, "−");
  return String(+value.toPrecision(6)).replace(/-/g, "−");
}

export function counted(n, one, many = one + "s") {
  return `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
}

// The lines of a tip: what is known of a number, in the order in which it is asked.
export function about(value, { unit, low, high, n, about: what, source, reason, better } = {}) {
  const lines = [`${exact(value)}${unit ? " " + unit : ""}`];
  const known = (x) => x !== null && x !== undefined;
  if (known(low) && known(high)) lines.push(`95 % interval ${exact(low)} to ${exact(high)}`);
  if (known(n)) lines.push(`n = ${exact(n)} (blocks of text, documents or latents)`);
  if (reason) lines.push(reason);
  if (better === "lower" || better === "higher") lines.push(`${better} is better`);
  if (what) lines.push(what);
  if (source) lines.push(`from ${source}`);
  return lines;
}

// The leaves of nested settings with their dotted names.
export function flat(value, at = "") {
  if (value && typeof value === "object" && !Array.isArray(value) && Object.keys(value).length) {
    return Object.entries(value).flatMap(([k, v]) => flat(v, at ? `${at}.${k}` : k));
  }
  if (Array.isArray(value)) {
    if (value.some((v) => v && typeof v === "object")) return value.flatMap((v, i) => flat(v, at ? `${at}.${i}` : String(i)));
    return [[at, value.join(", ")]];
  }
  return [[at, value === null ? "null" : String(value)]];
}

const TIPS = new WeakMap();

export function tip(node, lines) {
  node.classList.add("tipped");
  TIPS.set(node, lines);
  return node;
}

// A number that tells more: by pointer, or by Tab.
export function quantity(value, facts = {}, { digits } = {}) {
  const text = digits === "exact" ? exact(value) : readable(value);
  const node = element("span", { class: "quantity", tabindex: 0 }, text);
  return tip(node, about(value, facts));
}

// One box for all tips. A tip is asked for by pointer or focus, and goes with Escape.
export function startTips() {
  const box = element("div", { id: "tip", role: "tooltip", hidden: true });
  document.body.append(box);
  let shown = null;
  const hide = () => {
    if (shown) shown.removeAttribute("aria-describedby");
    shown = null;
    box.hidden = true;
  };
  const show = (node) => {
    if (node === shown) return;
    hide();
    const given = TIPS.get(node);
    const lines = typeof given === "function" ? given() : given;
    if (!lines || !lines.length) return;
    box.replaceChildren(...lines.map((line) => element("p", { dir: "auto" }, line)));
    box.hidden = false;
    const at = node.getBoundingClientRect(), size = box.getBoundingClientRect();
    const left = Math.max(4, Math.min(innerWidth - size.width - 4, at.left));
    const below = at.bottom + 6 + size.height < innerHeight;
    box.style.left = `${left}px`;
    box.style.top = `${below ? at.bottom + 6 : Math.max(4, at.top - size.height - 6)}px`;
    node.setAttribute("aria-describedby", "tip");
    shown = node;
  };
  const find = (event) => event.target instanceof Element ? event.target.closest(".tipped") : null;
  document.addEventListener("pointerover", (event) => {
    const node = find(event);
    if (node && TIPS.has(node)) show(node);
    else if (shown && shown !== document.activeElement) hide();
  });
  document.addEventListener("focusin", (event) => {
    const node = find(event);
    if (node && TIPS.has(node) && node.matches(":focus-visible")) show(node);
    else hide();
  });
  document.addEventListener("focusout", hide);
  addEventListener("scroll", hide, { passive: true, capture: true });
  addEventListener("hashchange", hide);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
}
