// The table of latents: a query, a search of text, columns of choice, pages, CSV of what is shown.

import { element, button, chip, replace, settled, download, visible } from "./dom.js";
import { readable, exact, tip, counted } from "./numbers.js";
import { sortOf, sorted } from "./query.js";
import { turns } from "./source.js";
import { shownProblem } from "./states.js";
import { exampleLines } from "./examples.js";

const LIMIT = 50;
const FIRST = ["density", "max", "mean", "count", "token", "documents"]; // shown where nothing was chosen, filled with the next few
const N_FIRST = 6;
const PATIENCE = 300; // ms that rows wait for their previews
const SCOPES = { any: "everything", on: "tokens it fires on", text: "its examples", logits: "its logits" };

export class LatentTable {
  // options: source, id, overview, state {where, q, in, cols}, onstate(change), href(latent)
  constructor(options) {
    Object.assign(this, options);
    this.known = this.overview.columns ?? [];
    this.previews = this.source.quick && Object.keys(this.overview.bands ?? {}).length > 0;
    this.seen = new Map(); // previews by latent
    const before = history.state?.table; // the page that this entry of the history was left at
    this.page = before?.page ?? 0;
    this.cursor = before?.cursor ?? null;
    this.picked = -1;
    this.build();
  }

  names() {
    const all = this.known.map((c) => c.name).filter((name) => name !== "latent");
    if (this.state.cols) return this.state.cols.split(",").filter((name) => all.includes(name));
    const first = FIRST.filter((name) => all.includes(name));
    // What a preview says already needs no column of its own.
    const rest = all.filter((name) => !first.includes(name) && !(this.previews && name === "promotes"));
    return [...first, ...rest].slice(0, N_FIRST);
  }

  build() {
    const go = () => this.change({ where: this.where.value.trim(), q: this.q.value.trim(), in: this.scope.value === "any" ? "" : this.scope.value });
    this.where = element("input", { type: "text", class: "query", spellcheck: "false", autocomplete: "off",
      placeholder: "density<1e-3 and max>=2 sort -max limit 20", "aria-label": "Query over columns",
      "aria-describedby": "query-help", value: this.state.where ?? "", onchange: go });
    this.q = element("input", { type: "search", placeholder: "text or #7", "aria-label": "Search text",
      value: this.state.q ?? "", oninput: settled(go, 250) });
    this.scope = element("select", { "aria-label": "Where to search", onchange: go },
      Object.entries(SCOPES).map(([value, label]) => element("option", { value, selected: (this.state.in || "any") === value }, label)));
    this.status = element("p", { class: "count", role: "status" });
    this.wrong = element("div", { role: "alert" });
    this.head = element("tr");
    this.body = element("tbody");
    const turn = (text, to, title) => button(text, () => this.turn(to), { title });
    this.back = [turn("« first", "first", "key {"), turn("‹ previous", "before", "key [")];
    this.forth = [turn("next ›", "next", "key ]"), turn("last »", "last", "key }")];
    this.at = element("span");
    this.box = element("div", { class: "latent-table" },
      element("div", { class: "controls" },
        element("label", { class: "grow" }, element("span", {}, "query "), this.where),
        element("label", { class: "search" }, element("span", {}, "search "), this.q), this.scope,
        this.chooser(), button("CSV", () => this.csv(), { title: "download the rows shown" }),
        this.markable() ? button("list…", () => this.mark(this.shownLatents()), { title: "add the rows shown to a list; key m: the row that j and k are at" }) : null),
      element("details", { class: "query-help", id: "query-help" }, element("summary", {}, "How to write a query"),
        element("p", {}, "Compare columns with numbers (", element("code", {}, "density<1e-3"), "), texts with ",
          element("code", {}, 'label has "name"'), "; join with ", element("code", {}, "and or not ( )"), "; ",
          element("code", {}, "missing NAME"), " where there is no value; then ", element("code", {}, "sort -max, density"), " and ",
          element("code", {}, "limit 20"), ". The same words work in ", element("code", {}, "saekit query"), "."),
        element("dl", {}, this.known.map((c) => [element("dt", {}, element("code", {}, c.name), c.unit ? ` (${c.unit})` : ""),
          element("dd", {}, c.about ?? c.label ?? "")]))),
      this.wrong, this.status,
      element("div", { class: "wide" }, element("table", { class: "latents" }, element("thead", {}, this.head), this.body)),
      element("div", { class: "pages" }, this.back, this.at, this.forth));
    this.ready = this.load();
  }

  chooser() {
    const boxes = this.known.filter((c) => c.name !== "latent").map((c) => element("label", { class: "choice" },
      element("input", { type: "checkbox", value: c.name, checked: this.names().includes(c.name), onchange: () => {
        const cols = boxes.map((b) => b.firstChild).filter((b) => b.checked).map((b) => b.value);
        this.state.cols = cols.join(",");
        this.onstate({ cols: this.state.cols });
        this.draw();
      } }), ` ${c.label ?? c.name}`, c.unit ? element("small", {}, ` ${c.unit}`) : null));
    const previews = element("label", { class: "choice" }, element("input", { type: "checkbox", checked: this.previews,
      onchange: (event) => { this.previews = event.target.checked; this.draw(); } }), " peaks and promoted tokens");
    return element("details", { class: "menu" }, element("summary", {}, "columns"),
      element("div", { class: "menu-box" }, previews, boxes));
  }

  change(change) {
    if (Object.entries(change).every(([key, value]) => (this.state[key] ?? "") === value)) return;
    Object.assign(this.state, change);
    this.where.value = this.state.where ?? "";
    this.q.value = this.state.q ?? "";
    this.first();
    this.onstate(change);
    this.load();
  }

  first() {
    this.leave(0, null);
  }

  leave(page, cursor) {
    Object.assign(this, { page, cursor });
    history.replaceState({ ...history.state, table: { page, cursor } }, "");
  }

  async load() {
    this.asked?.abort();
    const asked = (this.asked = new AbortController());
    this.box.setAttribute("aria-busy", "true");
    if (!this.data) this.status.textContent = "Reading the latents…";
    try {
      const { q, where = "" } = this.state;
      let data;
      if (q) data = await this.searched(q, where, asked.signal);
      else data = await this.source.latents(this.id, { where, limit: LIMIT, cursor: this.cursor, signal: asked.signal });
      if (asked.signal.aborted) return;
      // Rows that come with their previews do not change under the reader; one that waits for long comes without.
      if (this.previews) await Promise.race([this.peek(data).catch(() => {}), new Promise((done) => setTimeout(done, PATIENCE))]);
      if (asked.signal.aborted) return;
      this.data = data;
      this.wrong.replaceChildren();
      this.box.classList.remove("stale");
      this.where.setAttribute("aria-invalid", "false");
      this.draw();
    } catch (error) {
      if (error.name === "AbortError" || asked.signal.aborted) return;
      if (this.page && !this.data) { this.first(); await this.load(); return; } // the index is another by now
      this.where.setAttribute("aria-invalid", "true");
      this.wrong.replaceChildren(shownProblem(error));
      this.box.classList.add("stale");
      this.status.textContent = "";
    } finally {
      if (this.asked === asked) this.box.removeAttribute("aria-busy");
    }
  }

  // A search gives latents; their values come from the columns, and the query keeps some of them.
  async searched(q, where, signal) {
    const found = await this.source.search(this.id, { q, scope: this.state.in || "any", limit: 200, signal });
    const list = found.rows.map((row) => (Array.isArray(row) ? row[0] : typeof row === "object" ? row.latent : row));
    let keep = list;
    const names = this.known.map((c) => c.name).filter((name) => name !== "latent");
    const numeric = names.filter((name) => this.known.find((c) => c.name === name).kind !== "text");
    if (where && list.length) {
      const clause = `(${list.map((i) => `latent=${i}`).join(" or ")})`;
      const some = await this.source.latents(this.id, { where: whereOf(where, clause), limit: 200, signal });
      const at = some.columns.indexOf("latent"), order = some.rows.map((row) => row[at]);
      keep = sortOf(where) ? order : list.filter((i) => order.includes(i));
    }
    const from = this.page * LIMIT, shown = keep.slice(from, from + LIMIT);
    const { values } = await this.source.columns(this.id, numeric);
    return {
      total: where ? keep.length : found.total, reach: keep.length, columns: ["latent", ...numeric], ranked: true,
      rows: shown.map((i) => [i, ...values.map((column) => column[i] ?? null)]),
      ...turns(from, LIMIT, keep.length),
    };
  }

  pages() { return Math.max(1, Math.ceil((this.data?.reach ?? this.data?.total ?? 0) / LIMIT)); }

  turn(to) {
    const { cursor, before, last } = this.data ?? {}, end = this.pages() - 1;
    const place = { first: [0, null], before: [this.page - 1, before], next: [this.page + 1, cursor], last: [end, last] }[to];
    const up = to === "first" || to === "before";
    if (this.box.hasAttribute("aria-busy") || (up ? !this.page : !place[1])) return; // nowhere to go, or still on the way
    this.leave(...place);
    this.picked = -1;
    this.load();
    this.box.scrollIntoView({ block: "nearest" });
  }

  draw() {
    if (!this.data) return;
    const { columns, rows, total, cursor } = this.data;
    const place = Object.fromEntries(columns.map((name, k) => [name, k]));
    const names = this.names().filter((name) => name in place), order = sortOf(this.state.where ?? "");
    const written = "label" in place && rows.some((row) => row[place.label] !== null);
    const label = written && !names.includes("label") ? ["label"] : [];
    const head = (name, text, lines, sortable = true) => {
      const press = sortable ? button(text, () => {
        const down = order?.name === name ? !order.down : name !== "latent";
        this.change({ where: sorted(this.state.where ?? "", name, down) });
      }) : text;
      if (lines?.length && sortable) tip(press, lines);
      return element("th", { scope: "col", "data-key": name,
        "aria-sort": order?.name === name ? (order.down ? "descending" : "ascending") : "none" }, press);
    };
    const known = (name) => this.known.find((c) => c.name === name) ?? { name, label: name };
    replace(this.head, element("th", {}, element("span", { class: "hidden" }, "open")), head("latent", "latent", []),
      label.map((name) => head(name, "label", [])),
      names.map((name) => { const c = known(name); return head(name, c.label ?? name, [c.name, c.unit, c.about].filter(Boolean)); }),
      this.previews ? [element("th", { scope: "col" }, "peaks on"), element("th", { scope: "col", class: "roomy" }, "promotes")] : null);
    this.waiting = [];
    const cell = (value, name) => {
      if (typeof value === "number") {
        const c = known(name);
        return tip(element("td", { class: "number" }, readable(value)), [`${c.label ?? name}: ${exact(value)} ${c.unit ?? ""}`, c.about].filter(Boolean));
      }
      return element("td", { dir: "auto", class: "words", title: value === null || value === undefined ? null : visible(String(value)) }, value === null || value === undefined ? element("span", { class: "none" }, "–")
        : known(name).kind === "token" ? chip(value) : visible(String(value)));
    };
    replace(this.body, rows.map((row) => {
      const i = row[place.latent], line = element("tr", { "data-latent": i });
      const open = button("", () => this.open(line, i), { class: "open", "aria-expanded": "false", "aria-label": `show latent ${i} here` });
      const cells = [element("td", {}, open), element("td", { class: "number" }, element("a", { href: this.href(i) }, String(i))),
        [...label, ...names].map((name) => cell(row[place[name]], name))];
      if (this.previews) {
        const places = [element("div", { class: "one-line" }), element("div", { class: "one-line" })];
        cells.push(element("td", { class: "peaks" }, places[0]), element("td", { class: "roomy" }, places[1]));
        this.waiting.push([i, places]);
      }
      return fillRow(line, cells);
    }));
    if (!rows.length) {
      this.body.append(element("tr", {}, element("td", { colspan: 20, class: "empty" }, this.state.where || this.state.q
        ? "No latent answers to this." : "The index holds no latent.")));
    }
    const all = this.overview.card?.d_sae ?? total;
    this.status.textContent = `${total.toLocaleString("en")} of ${counted(all, "latent")}` +
      (this.data.ranked && !order && rows.length > 1 ? `, those that answer best first${this.data.reach < total ? `; the first ${this.data.reach} are listed` : ""}` : "");
    this.at.textContent = `page ${this.page + 1} of ${this.pages().toLocaleString("en")}`;
    for (const one of this.back) one.disabled = this.page === 0;
    for (const one of this.forth) one.disabled = !cursor;
    this.preview();
  }

  // Reads the peaks and promoted tokens of rows, in one request; those that were read before are not asked for again.
  async peek(data) {
    const at = data.columns.indexOf("latent"), asked = data.rows.map((row) => row[at]).filter((i) => !this.seen.has(i));
    if (!asked.length) return;
    if (this.asking?.data !== data) this.asking = { data, reply: this.source.previews(this.id, asked) };
    const { peaks, promotes } = await this.asking.reply;
    asked.forEach((i, k) => this.seen.set(i, [peaks[k], promotes[k]]));
  }

  async preview() {
    const { data, waiting } = this;
    const fill = () => waiting.forEach(([i, places]) => places.forEach((place, k) => replace(place, (this.seen.get(i)?.[k] ?? []).map((text) => chip(text)))));
    fill();
    if (waiting.every(([i]) => this.seen.has(i))) return;
    await this.peek(data).catch(() => {}); // the page of a row says why there is none
    fill();
  }

  async open(line, i) {
    const press = line.querySelector(".open"), opened = press.getAttribute("aria-expanded") === "true";
    press.setAttribute("aria-expanded", String(!opened));
    if (opened) { line.nextSibling?.remove(); return; }
    const host = element("td", { colspan: 30 }, element("p", { class: "count" }, "Reading…"));
    line.after(element("tr", { class: "detail" }, host));
    try {
      const record = await this.source.latent(this.id, i);
      replace(host, element("p", {}, element("a", { href: this.href(i) }, `All of latent ${i}`)),
        exampleLines(record, "top", { most: 4, short: true }));
    } catch (error) {
      replace(host, shownProblem(error));
    }
  }

  // j and k walk through the rows, o opens one in place, Enter goes to its page, [ ] { } turn pages.
  key(event) {
    const rows = [...this.body.querySelectorAll("tr[data-latent]")];
    const turned = { "[": "before", "]": "next", "{": "first", "}": "last" }[event.key];
    if (turned) { this.turn(turned); return true; }
    if (event.key === "j" || event.key === "k") {
      rows[this.picked]?.classList.remove("picked");
      this.picked = Math.max(0, Math.min(rows.length - 1, this.picked + (event.key === "j" ? 1 : -1)));
      rows[this.picked]?.classList.add("picked");
      rows[this.picked]?.querySelector("a")?.focus({ preventScroll: true });
      rows[this.picked]?.scrollIntoView({ block: "nearest" });
      return true;
    }
    if (event.key === "o" && rows[this.picked]) { this.open(rows[this.picked], Number(rows[this.picked].dataset.latent)); return true; }
    if (event.key === "m" && rows[this.picked] && this.markable()) { event.preventDefault(); this.mark([Number(rows[this.picked].dataset.latent)]); return true; }
    if (event.key === "/") { event.preventDefault(); this.q.focus(); this.q.select(); return true; }
    return false;
  }

  markable() { return this.source.mark && this.overview.card?.weights; }
  shownLatents() { return [...this.body.querySelectorAll("tr[data-latent]")].map((row) => Number(row.dataset.latent)); }
  mark(latents) { if (latents.length) this.source.mark(this.overview.card.weights, latents); }

  csv() {
    if (!this.data) return;
    const { columns, rows } = this.data, names = ["latent", ...this.names().filter((name) => columns.includes(name))];
    download(`${this.id}.latents.csv`, csv(names, rows.map((row) => names.map((name) => row[columns.indexOf(name)]))), "text/csv");
  }
}

function fillRow(line, cells) {
  line.append(...cells.flat());
  return line;
}

function whereOf(where, clause) {
  const tail = /(^|\s)(sort|limit)\s/i.exec(where);
  const head = (tail ? where.slice(0, tail.index) : where).trim(), rest = tail ? where.slice(tail.index).trim() : "";
  return [head ? `(${head}) and ${clause}` : clause, rest].filter(Boolean).join(" ");
}

// A text that a spreadsheet would take for a formula gets an apostrophe before it.
export function csv(names, rows) {
  const cell = (value) => {
    if (value === null || value === undefined) return "";
    if (typeof value === "number") return String(value);
    const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
  };
  return [names, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}
