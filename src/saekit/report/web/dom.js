// Elements without markup, and text as it is shown. All that comes from data goes in as text nodes.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child);
  }
  return node;
}

export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  return fill(node, children);
}

export function shape(tag, attributes, parent, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

export function replace(node, ...children) {
  node.replaceChildren();
  return fill(node, children);
}

export function button(label, onclick, attributes = {}) {
  return element("button", { type: "button", onclick, ...attributes }, label);
}

export function link(label, href, attributes = {}) {
  return element("a", { href, ...attributes }, label);
}

// Soft hyphen, Arabic letter mark, zero-width and direction marks, separators of lines, byte order mark,
// invisible operators, tags, and halves of a character that stand alone: none has a shape of its own.
const INVISIBLE = new RegExp(
  "[\\u00ad\\u034f\\u061c\\u115f\\u1160\\u17b4\\u17b5\\u180e\\u200b\\u200e\\u200f\\u2028-\\u202e" +
  "\\u2060-\\u206f\\u3164\\ufeff\\ufff0-\\ufffb\\ufffe\\uffff\\u{e0000}-\\u{e0fff}]|\\p{Cs}", "gu");
const JOINS = /(?<![\p{L}\p{M}\p{Extended_Pictographic}\ufe0f])[\u200c\u200d]|[\u200c\u200d](?![\p{L}\p{M}\p{Extended_Pictographic}])/gu;

// What a reader sees of a token; an empty one is the rest of a character before it.
export function visible(token) {
  const byte = (c) => "\\x" + c.charCodeAt(0).toString(16).padStart(2, "0");
  const point = (c) => `‹U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}›`;
  return token.replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/[\x00-\x1f\x7f-\x9f]/g, byte)
    .replace(/\u00a0/g, "⍽").replace(INVISIBLE, point).replace(JOINS, point);
}

// A text of several lines as it was written.
export function lined(text) {
  return text.split("\n").map(visible).join("\n");
}

export const LONGEST = 48; // characters of a token that are shown at once

export function clipped(text, most = LONGEST) {
  if (text.length <= most) return text;
  const cut = Array.from(text.slice(0, most + 1)).slice(0, -1).join("");
  return `${cut}… (${text.length.toLocaleString("en")} characters)`;
}

// A token alone: spaces at its ends are marked, and it is never empty.
export function edged(token) {
  const shown = clipped(visible(token));
  return shown.replace(/^ +| +$/g, (spaces) => "␣".repeat(spaces.length)) || "·";
}

export function chip(token, attributes = {}) {
  return element("bdi", { class: "chip", ...attributes }, edged(token));
}

// A text of the corpus as a line of its own; its direction is that of its letters.
export function said(text, attributes = {}) {
  return element("span", { dir: "auto", class: "said", ...attributes }, visible(text));
}

export function command(text) {
  const copied = element("small", { role: "status" });
  const copy = button("copy", async () => {
    copied.textContent = (await copyText(text)) ? "copied" : "select it and copy by hand";
  }, { class: "quiet", "aria-label": "copy the command" });
  return element("span", { class: "command" }, element("code", {}, text), copy, copied);
}

export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false; // no permission, or a page that is no secure context
  }
}

// Runs once the pointer, the keyboard or the window has been still for a moment.
export function settled(run, wait = 120) {
  let timer;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => run(...given), wait);
  };
}

// Runs at most once a frame, with what was given last.
export function framed(run) {
  let waiting = false, last;
  return (...given) => {
    last = given;
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; run(...last); });
  };
}

export function download(name, text, type) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  const anchor = element("a", { href: address, download: name });
  document.body.append(anchor);
  anchor.click();
  anchor.remove();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

// What is said within a sentence, as one of its own.
export function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}
