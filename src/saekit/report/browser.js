// The list of latents: search, filter, sort, pages; each latent opens in place.

const PER_PAGE = 50;
const START = { q: "", in: "any", min: "", max: "", sort: "", dir: "desc", page: "1", latent: "" };
const SCOPES = {
  any: "contexts and logits", on: "tokens it fires on", text: "contexts", logits: "logits",
};
const COLUMNS = [["id", "latent"], ["density", "density"], ["max", "max"], ["mean", "mean"]];
const SORTS = ["", "relevance", ...COLUMNS.map(([key]) => key)];  // "": by what is searched for

class Browser {
  constructor(host, data) {
    this.host = host;
    this.data = data;
    this.texts = {};
    this.lower = data.strings.map((s) => s.toLowerCase());
    this.place = new Map(data.id.map((id, i) => [id, i]));
    this.state = { ...START };
    this.build();
    addEventListener("hashchange", () => this.fromHash());
    document.addEventListener("keydown", (event) => this.key(event));
    this.fromHash();
  }

  build() {
    const changed = () => this.set({ ...this.form(), page: "1", latent: "" });
    this.q = element("input", {
      type: "search", placeholder: "token text, or a latent's number", "aria-label": "Search",
      oninput: () => { clearTimeout(this.timer); this.timer = setTimeout(changed, 120); },
    });
    this.scope = element("select", { "aria-label": "Where to search", onchange: changed });
    for (const [value, label] of Object.entries(SCOPES)) {
      this.scope.append(element("option", { value }, label));
    }
    const bound = (label) => element("input", {
      type: "text", inputmode: "decimal", size: 8, placeholder: label,
      "aria-label": `Density ${label}`, onchange: changed,
    });
    [this.min, this.max] = [bound("at least"), bound("at most")];
    this.count = element("p", { class: "count", role: "status" });
    this.wrong = element("p", { class: "wrong", role: "alert" });
    this.list = element("tbody");
    this.heads = COLUMNS.map(([key, label]) => {
      const button = element("button", { type: "button", onclick: () => this.sortBy(key) }, label);
      return element("th", { scope: "col", "data-key": key }, button);
    });
    const fires = element("th", { scope: "col" }, "peaks on");
    const promotes = element("th", { scope: "col", class: "roomy" }, "promotes");
    const turn = (label, by, key) => element(
      "button", { type: "button", title: `key ${key}`, onclick: () => this.turn(by) }, label);
    [this.back, this.next] = [turn("← previous", -1, "["), turn("next →", 1, "]")];
    this.where = element("span");
    this.host.replaceChildren(
      element("div", { class: "controls" }, this.q,
        element("label", {}, "in ", this.scope),
        element("span", { class: "range" }, "density ", this.min, this.max)),
      this.wrong, this.count,
      element("table", { class: "latents" },
        element("thead", {}, element("tr", {}, ...this.heads, fires, promotes)), this.list),
      element("div", { class: "pages" }, this.back, this.where, this.next));
  }

  form() {
    return {
      q: this.q.value, in: this.scope.value, min: this.min.value.trim(), max: this.max.value.trim(),
    };
  }

  // The address holds the view: #q=billion&in=on&sort=density, or #latent=123.
  fromHash() {
    const raw = location.hash.slice(1);
    if (raw && !raw.includes("=")) {  // a link to a section: the view stays
      if (!this.page) this.show(false);
      return;
    }
    const given = Object.fromEntries(new URLSearchParams(raw));
    this.state = { ...START };
    for (const key of Object.keys(START)) if (key in given) this.state[key] = given[key];
    if (!Object.hasOwn(SCOPES, this.state.in)) this.state.in = START.in;
    if (!SORTS.includes(this.state.sort)) this.state.sort = START.sort;
    [this.q.value, this.scope.value] = [this.state.q, this.state.in];
    [this.min.value, this.max.value] = [this.state.min, this.state.max];
    this.show(raw !== "");
  }

  set(change) {
    Object.assign(this.state, change);
    const kept = Object.entries(this.state).filter(([key, value]) => value !== START[key]);
    const hash = new URLSearchParams(kept).toString();
    history.replaceState(null, "", hash ? "#" + hash : location.pathname + location.search);
    this.show(false);
  }

  sortBy(key) {
    const same = this.sorting().sort === key;
    const first = key === "id" ? "asc" : "desc";
    const dir = same ? (this.state.dir === "asc" ? "desc" : "asc") : first;
    this.set({ sort: key, dir, page: "1", latent: "" });
  }

  turn(by) {
    const page = Math.min(this.n_pages, Math.max(1, this.page + by));
    if (page !== this.page) this.set({ page: String(page), latent: "" });
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (event.key === "/") { event.preventDefault(); this.q.focus(); }
    if (event.key === "[") this.turn(-1);
    if (event.key === "]") this.turn(1);
  }

  // The text of one latent that a search looks through, made at the first search.
  text(scope, i) {
    const made = (this.texts[scope] ??= new Array(this.data.id.length));
    if (made[i] !== undefined) return made[i];
    const words = (tokens) => tokens.map((t) => this.lower[t]).join("");
    const parts = [];
    if (scope === "on") {
      for (const [tokens, acts] of this.data.contexts[i]) {
        parts.push(tokens.map((t, j) => (acts[j] ? this.lower[t] : "\u0000")).join(""));
      }
    }
    if (scope === "text" || scope === "any") {
      for (const [tokens] of this.data.contexts[i]) parts.push(words(tokens));
    }
    if (scope === "logits" || scope === "any") {
      for (const side of ["promoted", "suppressed"]) {
        for (const token of this.data[side][i][0]) parts.push(this.lower[token]);
      }
    }
    return (made[i] = parts.join("\u0000"));
  }

  // The column that sorts: the one chosen, else relevance where text is searched for, else max.
  sorting() {
    const { q, sort, dir } = this.state;
    if (sort !== "") return { sort, dir };
    return q.trim() ? { sort: "relevance", dir: "desc" } : { sort: "max", dir: "desc" };
  }

  // Bounds on density; what cannot be meant is said and bounds nothing.
  bounds() {
    const wrong = [];
    const bound = (name, field, none) => {
      const text = this.state[name], value = Number(text);
      const bad = text !== "" && !Number.isFinite(value);
      field.setAttribute("aria-invalid", String(bad));
      if (bad) wrong.push(`The density "${text}" is not a number; write it as 0.001 or 1e-3.`);
      return text === "" || bad ? none : value;
    };
    const least = bound("min", this.min, -Infinity), most = bound("max", this.max, Infinity);
    if (least > most) wrong.push(`No density is at least ${least} and at most ${most}.`);
    this.wrong.textContent = wrong.join(" ");
    return [least, most];
  }

  // How well a latent answers a search: how strongly it fires on the text, where its contexts and
  // logits hold it. In [0, 3]; the parts weigh 2, 0.5 and 0.5.
  relevance(i, wanted) {
    const { contexts, promoted, max } = this.data;
    let fires = 0, near = 0;
    for (const [tokens, acts] of contexts[i]) {
      let text = "";
      const ends = tokens.map((t) => (text += this.lower[t]).length);
      const at = text.indexOf(wanted);
      if (at < 0) continue;
      near += 1;
      tokens.forEach((_, j) => {  // tokens that the first place of the text lies on
        if (ends[j] > at && (ends[j - 1] ?? 0) < at + wanted.length) {
          fires = Math.max(fires, Math.abs(acts[j] ?? 0) / (Math.abs(max[i]) || 1));
        }
      });
    }
    const rank = promoted[i][0].findIndex((t) => this.lower[t].includes(wanted));
    const share = contexts[i].length ? near / contexts[i].length : 0;
    return 2 * fires + 0.5 * share + (rank < 0 ? 0 : 0.5 / (1 + rank));
  }

  matching() {
    const { q, in: scope } = this.state;
    const { sort, dir } = this.sorting();
    const wanted = q.toLowerCase();
    const number = /^#?\d+$/.test(q.trim()) ? Number(q.trim().replace("#", "")) : null;
    const only = q.trim().startsWith("#") && number !== null;  // #123 is that latent alone
    const [least, most] = this.bounds();
    const found = [];
    for (let i = 0; i < this.data.id.length; i++) {
      const density = this.data.density[i] ?? 0;
      if (density < least || density > most) continue;
      const named = this.data.id[i] === number;
      if (wanted && !named && (only || !this.text(scope, i).includes(wanted))) continue;
      found.push(i);
    }
    const column = sort === "relevance"
      ? new Map(found.map((i) => [i, this.relevance(i, wanted)])) : null;
    const value = (i) => {
      const found = column ? column.get(i) : this.data[sort][i];
      return found === null ? null : Math.abs(found);  // strength is size: some are negative
    };
    const sign = dir === "asc" ? 1 : -1;
    const exact = (i) => (this.data.id[i] === number ? 0 : 1);  // a number finds its latent first
    return found.sort((a, b) => {
      if (exact(a) !== exact(b)) return exact(a) - exact(b);
      const [x, y] = [value(a), value(b)];
      if (x === null || y === null) return (x === null) - (y === null) || a - b;  // unknown last
      return sign * (x - y) || a - b;
    });
  }

  show(scroll) {
    const found = this.matching();
    this.n_pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
    const opened = this.state.latent === "" ? -1 : this.place.get(Number(this.state.latent)) ?? -1;
    const at = found.indexOf(opened);
    const page = at >= 0 ? Math.floor(at / PER_PAGE) + 1 : Number(this.state.page) || 1;
    this.page = Math.min(this.n_pages, Math.max(1, page));
    const first = (this.page - 1) * PER_PAGE;
    this.list.replaceChildren();
    for (const i of found.slice(first, first + PER_PAGE)) this.list.append(this.row(i));
    const total = this.data.id.length.toLocaleString("en");
    const { sort: sorted, dir } = this.sorting();
    let said = `${found.length.toLocaleString("en")} of ${total} latents`;
    if (sorted === "relevance" && found.length > 1) said += ", those that fire most on the text first";
    if (this.state.latent !== "" && at < 0) {
      said += opened < 0 ? `; there is no latent ${this.state.latent}`
        : `; latent ${this.state.latent} is not among them`;
    }
    this.count.textContent = said;
    this.where.textContent = `page ${this.page} of ${this.n_pages}`;
    this.back.disabled = this.page === 1;
    this.next.disabled = this.page === this.n_pages;
    for (const head of this.heads) {
      const order = dir === "asc" ? "ascending" : "descending";
      head.setAttribute("aria-sort", head.dataset.key === sorted ? order : "none");
    }
    if (at >= 0) {
      const row = this.list.children[at - first];
      this.toggle(row, opened);
      if (scroll) row.scrollIntoView({ block: "start" });
    } else if (scroll) this.host.scrollIntoView({ block: "start" });
  }

  row(i) {
    const { id, density, max, mean, contexts, promoted } = this.data;
    const button = element("button", {
      type: "button", "aria-expanded": "false", class: "open",
      onclick: () => this.toggle(row, i),
    }, String(id[i]));
    const peaks = contexts[i].slice(0, 6).map(([tokens, , peak]) => tokens[peak]);
    const number = (value) => element("td", { class: "number" }, readable(value));
    const row = element("tr", { "data-latent": id[i] },
      element("td", {}, button), number(density[i]), number(max[i]), number(mean[i]),
      element("td", {}, ...[...new Set(peaks)].map((t) => this.chip(t))),
      element("td", { class: "roomy" }, ...promoted[i][0].slice(0, 5).map((t) => this.chip(t))));
    return row;
  }

  chip(number) {
    return element("span", { class: "chip" }, visible(this.data.strings[number]) || "·");
  }

  toggle(row, i) {
    const button = row.querySelector("button");
    const open = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!open));
    if (open) row.nextSibling.remove();
    else row.after(element("tr", { class: "detail" }, element("td", { colspan: 6 }, this.detail(i))));
  }

  detail(i) {
    const { id, contexts, spread, density, max } = this.data;
    const readout = element("output");
    const link = element("a", { href: `#latent=${id[i]}` }, `latent ${id[i]}`);
    const box = element("div", {}, element("p", {}, link, ` · density ${readable(density[i])}` +
      ` · max ${readable(max[i])} `, readout));
    const logits = element("div", { class: "logits" });
    for (const side of ["promoted", "suppressed"]) {
      const [tokens, values] = this.data[side][i];
      if (!tokens.length) continue;
      const chips = tokens.map((t, j) =>
        element("span", { class: "pair" }, this.chip(t), element("small", {}, readable(values[j]))));
      logits.append(element("p", {}, element("b", {}, side + " "), ...chips));
    }
    box.append(logits, this.histogram(i));
    if (!contexts[i].length) box.append(element("p", {}, "No context: it never fired."));
    for (const context of contexts[i]) box.append(this.context(context, max[i], readout));
    const known = new Set(contexts[i].map((one) => JSON.stringify(one)));
    // Of a latent that is rarely on, the strongest are all that there are.
    if (spread[i].some((one) => !known.has(JSON.stringify(one)))) {
      const note = "From its whole range, one of each part of equal width: the strongest contexts "
        + "alone flatter a latent.";
      box.append(element("p", { class: "heading" }, note));
      for (const context of spread[i]) box.append(this.context(context, max[i], readout));
    }
    return box;
  }

  // How often it is how strong: bars of the square root of counts, so that rare ones are seen.
  histogram(i) {
    const counts = this.data.histogram[i], box = element("div", { class: "sizes" });
    const most = Math.max(0, ...counts);
    if (!most) return box;
    const [width, height] = [10 * counts.length, 34];
    const label = `Activations by size, from 0 to ${readable(this.data.max[i])}: ` + counts.join(", ");
    const svg = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
      "aria-label": label }, box);
    counts.forEach((n, j) => {
      const tall = n ? Math.max(1, height * Math.sqrt(n / most)) : 0;
      const bar = shape("rect", { x: 10 * j, y: height - tall, width: 9, height: tall, class: "bar" }, svg);
      shape("title", {}, bar, `${n.toLocaleString("en")} tokens in part ${j + 1} of ${counts.length}`);
    });
    shape("line", { x1: 0, x2: width, y1: height - 0.5, y2: height - 0.5, class: "axis" }, svg);
    box.append(element("small", {}, " activations by size, 0 to ", readable(this.data.max[i]),
      " (square root of counts)"));
    return box;
  }

  context([tokens, acts, peak], max, readout) {
    const line = element("p", { class: "context" });
    tokens.forEach((number, j) => {
      const token = this.data.strings[number], act = acts[j] ?? 0;
      if (token === "" && !act) return;
      const span = element("span", { class: j === peak ? "peak" : "" }, visible(token) || "·");
      if (act) {
        const share = Math.min(1, Math.abs(act) / (Math.abs(max) || 1));
        span.classList.add("on");
        if (act < 0) span.classList.add("negative");
        span.style.setProperty("--share", (0.12 + 0.88 * share).toFixed(3));
        span.title = readable(act);
        span.addEventListener("click", () => {
          readout.textContent = `· ${visible(token)} ${readable(act)}`;
        });
      }
      line.append(span);
      if (token.includes("\n")) line.append(element("wbr"));
    });
    const strength = element("small", { class: "value" }, readable(acts[peak] ?? 0));
    return element("div", { class: "row" }, strength, line);
  }
}
