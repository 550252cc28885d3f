// What readers marked: lists of latents with notes, saved views, labels; out and in as JSON.

import { element, button, replace, visible, lined, command, download, settled } from "./dom.js";
import { counted } from "./numbers.js";
import { editable, twice } from "./marking.js";
import { shownProblem } from "./states.js";
import { markedAt, latentAt, saeAt, keepState } from "./routes.js";

const MOST = 200; // labels that are drawn at once

function unmarked(host) {
  replace(host, element("h1", {}, "Marked"), element("p", { class: "missing" }, "Lists, notes and views are kept by the server. ", command("saekit serve")));
  return {};
}

// The SAE of some weights in this folder, as a link's beginning.
async function saesByWeights(source) {
  const { saes = [] } = await source.library();
  const found = new Map();
  for (const card of saes) if (card.weights && !found.has(card.weights)) found.set(card.weights, card);
  return found;
}

function latentCells(saes, { weights, latent }) {
  const card = saes.get(weights);
  return card ? [element("td", {}, element("a", { href: saeAt(card.id) }, visible(card.title ?? card.id))),
    element("td", { class: "number" }, element("a", { href: latentAt(card.id, latent), class: "row-link" }, String(latent)))]
    : [element("td", {}, element("span", { class: "none", title: `weights ${weights}` }, "no such SAE in this folder")), element("td", { class: "number" }, String(latent))];
}

function decoded(address) {
  try {
    return decodeURIComponent(address);
  } catch {
    return address; // a % that is no escape
  }
}

function when(time) {
  return element("td", { class: "number", title: time }, time ? time.slice(0, 10) : "–");
}

function tableOf(heads, rows) {
  return element("div", { class: "wide" }, element("table", { class: "marked" }, element("thead", {}, element("tr", {},
    heads.map((h) => element("th", { scope: "col" }, h)))), element("tbody", {}, rows)));
}

// j and k walk through the rows, Enter opens, u goes up.
function walker(host, up) {
  return (event) => {
    const links = [...host.querySelectorAll("a.row-link")], at = links.indexOf(document.activeElement);
    if (event.key === "j" || event.key === "k") {
      links[Math.max(0, Math.min(links.length - 1, at + (event.key === "j" ? 1 : -1)))]?.focus();
      return true;
    }
    if (event.key === "u" && up) { location.hash = up; return true; }
    if (event.key === "/" && host.querySelector("input[type=search]")) {
      event.preventDefault();
      host.querySelector("input[type=search]").focus();
      return true;
    }
    return false;
  };
}

export async function markedPage(host, { source, path, state }) {
  document.title = "Marked · saekit";
  if (!source.live) return unmarked(host);
  if (path.length === 2) return listPage(host, source, path[1]);
  const [saes, all, meta] = await Promise.all([saesByWeights(source), source.labels(), source.meta()]);
  let [{ lists }, { views }] = await Promise.all([source.lists(), source.views()]);
  const locked = meta.read_only, wrong = element("div", { role: "alert" }), said = element("span", { role: "status", class: "count" });
  const attempt = async (run) => {
    wrong.replaceChildren();
    try {
      await run();
    } catch (error) {
      replace(wrong, shownProblem(error));
    }
  };
  const listBox = element("div"), viewBox = element("div");
  const drawLists = () => replace(listBox, lists.length ? tableOf(["list", "note", "latents", "changed", ""], lists.map((one) => element("tr", {},
    element("td", {}, element("a", { href: markedAt(one.id), class: "row-link" }, element("bdi", {}, visible(one.name)))), element("td", { dir: "auto", class: "said" }, lined(one.note)),
    element("td", { class: "number" }, one.n.toLocaleString("en")), when(one.time),
    element("td", {}, locked ? null : twice("delete", () => attempt(async () => { await source.removeList(one.id); lists = lists.filter((l) => l !== one); drawLists(); }))))))
    : element("p", { class: "empty" }, "No list yet. Make one here, or press m on the page of a latent or in a table of them."));
  const drawViews = () => replace(viewBox, views.length ? tableOf(["view", "page", "saved", ""], views.map((one) => element("tr", {},
    element("td", {}, element("a", { href: one.address, class: "row-link" }, element("bdi", {}, visible(one.name)))),
    element("td", {}, element("code", { class: "one-line" }, visible(decoded(one.address)))), when(one.time),
    element("td", { class: "acts" }, locked ? null : [editable("", { label: `name of ${one.name}`, needed: true, word: "rename", save: async (name) => {
      await source.renameView(one.id, name);
      one.name = name;
      setTimeout(drawViews);
    } }), twice("delete", () => attempt(async () => { await source.removeView(one.id); views = views.filter((v) => v !== one); drawViews(); }))]))))
    : element("p", { class: "empty" }, "No view yet. Press s, or ☆ above, on any page: it keeps the address with its query, text and choices."));
  const name = element("input", { type: "text", maxlength: 200, "aria-label": "name of a new list", placeholder: "name of a new list" });
  const make = element("form", { class: "controls", onsubmit: (event) => {
    event.preventDefault();
    if (name.value.trim()) attempt(async () => {
      const made = await source.makeList({ name: name.value.trim() });
      lists = [...lists, { ...made, n: 0 }];
      name.value = "";
      drawLists();
    });
  } }, name, element("button", { type: "submit" }, "make it"));
  const over = element("input", { type: "checkbox" });
  const file = element("input", { type: "file", accept: ".json,application/json", hidden: true, "aria-label": "file to import", onchange: () => attempt(async () => {
    const [chosen] = file.files;
    if (!chosen) return;
    said.textContent = "reading…";
    try {
      let given;
      try {
        given = JSON.parse(await chosen.text());
      } catch {
        throw Object.assign(new Error(`${chosen.name} is not JSON. Choose a file that "export JSON" of this page made.`), { title: "Not an export" });
      }
      if (given?.format !== "saekit.labels") {
        throw Object.assign(new Error(`${chosen.name} holds no labels and lists. Choose a file that "export JSON" of this page made.`), { title: "Not an export" });
      }
      const came = await source.restore({ ...given, replace: over.checked });
      await again();
      said.textContent = `${counted(came.labels, "label")}, ${counted(came.lists, "list")} and ${counted(came.views, "view")} came in` +
        (came.kept ? `; ${counted(came.kept, "label")} here stayed as they were` : "");
    } finally {
      if (said.textContent === "reading…") said.textContent = "";
      file.value = "";
    }
  }) });
  const again = async () => {
    [{ lists }, { views }] = await Promise.all([source.lists(), source.views()]);
    all.labels = (await source.labels()).labels;
    drawLists();
    drawViews();
    drawLabels();
  };
  const search = element("input", { type: "search", "aria-label": "Filter the labels", placeholder: "filter: label, note, SAE", value: state.q ?? "",
    oninput: settled(() => { keepState({ q: search.value }); drawLabels(); }) });
  const count = element("p", { class: "count", role: "status" }), labelBox = element("div");
  const drawLabels = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = all.labels.filter((one) => {
      const text = [one.text, one.note, one.by, one.latent, saes.get(one.weights)?.title ?? ""].join(" ").toLowerCase();
      return words.every((w) => text.includes(w));
    });
    search.hidden = !all.labels.length;
    count.textContent = all.labels.length ? `${found.length === all.labels.length ? "" : `${found.length.toLocaleString("en")} of `}${counted(all.labels.length, "label")}` +
      (found.length > MOST ? `; the first ${MOST} are shown` : "") : "";
    replace(labelBox, all.labels.length ? found.length ? tableOf(["SAE", "latent", "label", "note", "by", "changed"], found.slice(0, MOST).map((one) => element("tr", {}, latentCells(saes, one),
      element("td", { dir: "auto" }, visible(one.text)), element("td", { dir: "auto", class: "said" }, lined(one.note)), element("td", { dir: "auto" }, visible(one.by)), when(one.time)))) : element("p", { class: "empty" }, "No label answers to this.")
      : element("p", { class: "empty" }, "No label yet. Press l on the page of a latent."));
  };
  drawLists();
  drawViews();
  drawLabels();
  replace(host, element("header", {}, element("h1", {}, "Marked"), element("p", { class: "about" }, "Lists, notes, labels and views of this folder; they belong to the weights of an SAE, and stay when it is moved."),
    locked ? element("p", { class: "missing" }, { "--read-only": "The server was started with --read-only: nothing can be changed here.", "the folder": "The file of labels cannot be written: nothing can be changed here." }[meta.read_only_why] ?? visible(meta.read_only_why ?? "")) : null,
    element("div", { class: "controls" }, button("export JSON", () => attempt(async () => download("saekit-labels.json", JSON.stringify(await source.labels(), null, 1), "application/json"))),
      locked ? null : [button("import JSON", () => file.click()), file, element("label", {}, over, " in place of labels that are here")], said), wrong),
  element("section", {}, element("h2", {}, "Lists"), listBox, locked ? null : make),
  element("section", {}, element("h2", {}, "Views"), viewBox),
  element("section", {}, element("h2", {}, "Labels"), search, count, labelBox));
  return { key: walker(host, "#/") };
}

async function listPage(host, source, number) {
  if (!/^\d+$/.test(number)) throw Object.assign(new Error(`There is no list ${number}.`), { title: "Not found" });
  const [saes, all, meta] = await Promise.all([saesByWeights(source), source.labels(), source.meta()]);
  let list = await source.list(Number(number));
  const labels = new Map(all.labels.map((one) => [`${one.weights} ${one.latent}`, one.text]));
  const locked = meta.read_only, wrong = element("div", { role: "alert" }), body = element("div");
  const change = async (changes) => {
    list = await source.changeList(list, changes);
    document.title = `${list.name} · saekit`;
  };
  const rearranged = async (items, focus) => {
    wrong.replaceChildren();
    try {
      await change({ items });
      draw();
      body.querySelectorAll("tbody tr")[focus]?.querySelector("button, a")?.focus();
    } catch (error) {
      replace(wrong, shownProblem(error));
    }
  };
  const moved = (at, to) => {
    const items = [...list.items];
    items.splice(to, 0, ...items.splice(at, 1));
    return items;
  };
  const draw = () => replace(body, element("p", { class: "count" }, counted(list.items.length, "latent")), list.items.length
    ? tableOf(["SAE", "latent", "label", "note", ""], list.items.map((one, at) => element("tr", {}, latentCells(saes, one),
      element("td", { dir: "auto" }, visible(labels.get(`${one.weights} ${one.latent}`) ?? "")),
      element("td", {}, locked ? lined(one.note) : editable(one.note, { label: `note on latent ${one.latent}`, long: true, save: (note) =>
        change({ items: list.items.map((item, i) => (i === at ? { ...item, note } : item)) }) })),
      element("td", { class: "acts" }, locked ? null : [
        button("↑", () => rearranged(moved(at, at - 1), at - 1), { class: "quiet", disabled: at === 0, "aria-label": `latent ${one.latent} up` }),
        button("↓", () => rearranged(moved(at, at + 1), at + 1), { class: "quiet", disabled: at === list.items.length - 1, "aria-label": `latent ${one.latent} down` }),
        button("remove", () => rearranged(list.items.filter((_, i) => i !== at), Math.min(at, list.items.length - 2)), { class: "quiet", "aria-label": `remove latent ${one.latent} from the list` })]))))
    : element("p", { class: "empty" }, "Nothing is in it yet. Press m on the page of a latent, or in a table of them."));
  document.title = `${list.name} · saekit`;
  draw();
  replace(host, element("header", {}, element("div", { class: "crumbs" }, element("a", { href: markedAt() }, "Marked")),
    element("h1", {}, locked ? visible(list.name) : editable(list.name, { label: "name of the list", needed: true, save: (name) => change({ name }) })),
    element("p", {}, locked ? lined(list.note) : editable(list.note, { label: "note on the list", long: true, empty: "no note", save: (note) => change({ note }) })),
    locked ? null : twice("delete the list", async () => {
      try {
        await source.removeList(list.id);
        location.hash = markedAt();
      } catch (error) {
        replace(wrong, shownProblem(error));
      }
    }), wrong), body);
  return { key: walker(host, markedAt()) };
}
