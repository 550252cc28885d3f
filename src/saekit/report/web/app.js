// The shell of the pages: address to page, keys, theme, help.

import { element, button, replace } from "./dom.js";
import { startTips } from "./numbers.js";
import { loading, shownProblem } from "./states.js";
import { parsed } from "./routes.js";

const KEYS = [
  ["/", "search, or the text of the prompt"], ["j k", "next and previous latent"], ["o", "open a row of the table in place"],
  ["[ ]", "pages of the table"], ["{ }", "its first and last page"], ["m", "lists: add the latent, or take it out"], ["s", "save this view"], ["r", "a random latent"], ["l", "edit the label"], ["u", "up, to the SAE"], ["p", "this latent in a prompt"],
  ["← →", "move along tokens of a strip"], ["Enter", "hold the token"], ["Esc", "leave a field, close a tip"], ["t", "light or dark"], ["?", "this help"],
];

const WRITES = ["m", "s", "l"]; // keys that need a server

function store(key, value) {
  try {
    if (value === undefined) return localStorage.getItem(key);
    localStorage.setItem(key, value);
  } catch {
    // private windows and pages from a file may have no storage; the choice lasts as long as the page
  }
  return null;
}

function setTheme(theme) {
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  dispatchEvent(new Event("saekit-theme"));
}

// pageOf(path): the function that fills a place with the page of an address, or null.
// links: pages named in the bar. With `home` the bare address goes there. `save` keeps the view that is shown.
export async function start(source, pageOf, { home = null, links = [], save = null } = {}) {
  setTheme(store("saekit-theme"));
  const isDark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const toggle = () => { const to = isDark() ? "light" : "dark"; setTheme(to); store("saekit-theme", to); };
  const help = element("dialog", { "aria-label": "Keys" }, element("h2", {}, "Keys"), element("dl", { class: "keys" },
    KEYS.filter(([key]) => save || !WRITES.includes(key)).map(([key, what]) => [element("dt", {}, key.split(" ").map((k) => element("kbd", {}, k))), element("dd", {}, what)])),
  element("form", { method: "dialog" }, element("button", {}, "close")));
  const main = element("main", { id: "main", tabindex: -1 });
  const nav = element("nav", { "aria-label": "pages" }, links.map(([text, to]) => element("a", { href: to }, text)));
  const skip = element("a", { href: "#main", class: "skip", onclick: (event) => { event.preventDefault(); main.focus(); } }, "to the page");
  document.body.prepend(skip, element("div", { class: "topbar" }, element("a", { href: home ?? "#/", class: "brand" }, "saekit"), nav, element("span", { class: "grow" }),
    save ? button("☆", save, { class: "quiet", "aria-label": "save this view", title: "save this view, key s" }) : null,
    button("◐", toggle, { class: "quiet", "aria-label": "light or dark", title: "light or dark, key t" }),
    button("?", () => help.showModal(), { class: "quiet", "aria-label": "keys", title: "keys" })), main, help);
  startTips();
  let turn = 0, current = null, shown = null, moving = false;
  const go = (to) => { location.hash = to; };
  const show = async () => {
    const { path, state } = parsed(location.hash);
    if (home && !path.length) { location.replace(home); return; }
    const top = scrolls.get(location.hash);
    moving = true;
    const mine = ++turn, page = pageOf(path), host = element("div", { class: "page" });
    current?.close?.();
    current = null;
    for (const a of nav.querySelectorAll("a")) {
      const here = a.getAttribute("href") === `#/${path[0] ?? ""}`;
      if (here) a.setAttribute("aria-current", "page"); else a.removeAttribute("aria-current");
    }
    const wait = setTimeout(() => { if (mine === turn) replace(main, loading()); }, 150);
    try {
      if (!page) throw Object.assign(new Error(`There is no page at ${location.hash}.`), { title: "Not found", remedy: "" });
      const made = await page(host, { source, path, state, go });
      if (mine !== turn) { made?.close?.(); return; }
      current = made ?? null;
      clearTimeout(wait);
      replace(main, host);
      const same = shown === path.join("/");
      shown = path.join("/");
      if (!same || top) scrollTo(0, top ?? 0);
      if (top) { // where what comes later is as high as it was
        await made?.ready;
        if (mine === turn && scrollY < top) scrollTo(0, top);
      }
    } catch (error) {
      if (mine !== turn) return;
      if (!error.title) console.error(error);
      replace(main, element("h1", {}, error.title ?? "This page has a fault"), shownProblem(error, { titled: false }), element("p", {}, element("a", { href: home ?? "#/" }, "back to the start")));
    } finally {
      clearTimeout(wait);
      if (mine === turn) { main.removeAttribute("aria-busy"); moving = false; }
    }
  };
  const scrolls = new Map(); // where each address was left, for the way back
  history.scrollRestoration = "manual"; // the browser scrolls before the page is there
  addEventListener("scroll", () => { // an address that was just left or entered is not the page that is shown
    if (!moving && parsed(location.hash).path.join("/") === shown) scrolls.set(location.hash, scrollY);
  }, { passive: true });
  addEventListener("hashchange", show);
  document.addEventListener("keydown", (event) => {
    const typed = event.getModifierState("AltGraph"); // as brackets are on many keyboards
    if ((!typed && (event.ctrlKey || event.altKey)) || event.metaKey || document.querySelector("dialog[open]")) return;
    if (event.target instanceof Element && event.target.closest("input, select, textarea")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (event.key === "?") { help.showModal(); return; }
    if (event.key === "t") { toggle(); return; }
    if (event.key === "s" && save) { event.preventDefault(); save(); return; }
    current?.key?.(event);
  });
  const token = /^#token=(.+)$/.exec(location.hash)?.[1];
  if (token) { // used once, and gone from the address before anything else is read
    history.replaceState(null, "", "#/");
    try {
      await source.signIn(decodeURIComponent(token));
    } catch (error) {
      // A link that was used may still belong to this browser's session; the page itself will tell.
      if (error.status !== 401) { replace(main, shownProblem(error)); return; }
    }
  }
  await show();
}

