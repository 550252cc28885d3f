// Where the pages get their data: an object in the page itself, and what it shares with other sources (sources.js).
//
// The object (window.SAEKIT_DATA, or JSON in the element "data"):
//   {library, saes: {ID: {overview, columns: {names, values}, strings?, records: {LATENT: RECORD}}},
//    runs: {ID: RUN}, studies: {ID: STUDY}}
// Records may leave out their `strings` and number those of the SAE instead; `packed` in place of strings and
// records is both as JSON, raw deflate, base64.

import { select, QueryError } from "./query.js";

export class Problem extends Error {
  constructor({ title, detail, remedy, status }) {
    super(detail || title || "Something went wrong.");
    Object.assign(this, { title: title ?? "Error", detail: detail ?? "", remedy: remedy ?? "", status: status ?? 0 });
  }
}

export async function inflated(bytes, format = "deflate-raw") {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream(format));
  return new Response(stream).text();
}

export const PAGE = 50;

export function missing(what, remedy = "") {
  return new Problem({ title: "Not found", status: 404, detail: what, remedy });
}

// ------------------------------------------------------------------- in the page: what both share

export function rowsOf(columns, n) {
  const named = { ...columns };
  named.latent ??= Array.from({ length: n }, (_, i) => i);
  return named;
}

// Where the pages beside one of n rows begin.
export function turns(from, limit, n) {
  const more = from + limit < n;
  return { cursor: more ? String(from + limit) : null, before: from > limit ? String(from - limit) : null,
    last: more ? String(Math.floor((n - 1) / limit) * limit) : null };
}

function localPage(columns, n, { where = "", limit = PAGE, cursor = null }) {
  let order;
  try {
    order = select(where, columns, n);
  } catch (error) {
    if (error instanceof QueryError) throw new Problem({ title: "The query cannot be read", detail: error.message });
    throw error;
  }
  const from = cursor ? Number(cursor) : 0, names = Object.keys(columns).filter((name) => name !== "latent");
  const shown = order.slice(from, from + limit);
  return {
    total: order.length, columns: ["latent", ...names],
    rows: shown.map((i) => [columns.latent[i], ...names.map((name) => {
      const v = columns[name][i];
      return v === undefined || Number.isNaN(v) ? null : v;
    })]),
    ...turns(from, limit, order.length),
  };
}

// How well a latent answers a search: how strongly it fires on the text, and where its examples and
// logits hold it; 0 where nowhere. The parts weigh 2, 0.5 and 0.5.
function relevance(record, lower, wanted, scope) {
  let fires = 0, near = 0, count = 0, rank = -1;
  for (const [band, list] of Object.entries(record.examples ?? {})) {
    if (band === "negative") continue;
    for (const example of list) {
      count += 1;
      let text = "";
      const ends = example.tokens.map((t) => (text += lower[t]).length);
      const at = text.indexOf(wanted);
      if (at < 0) continue;
      near += 1;
      const most = Math.abs(record.values?.max ?? 0) || 1;
      example.at.forEach((j, k) => { // tokens that the first place of the text lies on
        if (ends[j] > at && (ends[j - 1] ?? 0) < at + wanted.length) {
          fires = Math.max(fires, Math.min(1, Math.abs(example.acts[k]) / most));
        }
      });
    }
  }
  for (const side of ["promoted", "suppressed"]) {
    const found = (record.logits?.[side] ?? []).findIndex(([t]) => lower[t].includes(wanted));
    if (found >= 0 && (rank < 0 || found < rank)) rank = found;
  }
  const logit = rank < 0 ? 0 : 1 / (1 + rank), share = count ? near / count : 0;
  if (scope === "on") return fires;
  if (scope === "text") return share;
  if (scope === "logits") return logit;
  return 2 * fires + 0.5 * share + 0.5 * logit;
}

export class LocalSource {
  live = false;

  async search(id, { q, scope = "any", limit = 200, signal } = {}) {
    const wanted = q.toLowerCase(), found = [];
    const number = /^#?\d+$/.test(q.trim()) ? Number(q.trim().replace("#", "")) : null;
    await this.each(id, (record, lower, i) => {
      const score = i === number ? 10 : relevance(record, lower, wanted, scope);
      if (score > 0) found.push([i, score]);
    }, signal);
    found.sort((a, b) => b[1] - a[1] || a[0] - b[0]);
    return { total: found.length, rows: found.slice(0, limit).map(([i]) => i) };
  }

  async jobs() { return { jobs: [] }; }
  get job() { return null; }
  get setLabel() { return null; }

  async latents(id, options = {}) {
    const columns = await this.table(id);
    return localPage(columns, columns.latent.length, options);
  }

  // The tokens that latents are strongest on, and those that they promote most.
  async previews(id, latents) {
    const records = await Promise.all(latents.map((i) => this.latent(id, i)));
    const texts = (record, numbers, n) => [...new Set(numbers)].slice(0, n).map((t) => record.strings[t] ?? "");
    return {
      peaks: records.map((r) => texts(r, (r.examples?.top ?? []).filter((e) => e.peak !== null).map((e) => e.tokens[e.peak]), 5)),
      promotes: records.map((r) => texts(r, (r.logits?.promoted ?? []).map(([t]) => t), 4)),
    };
  }

  async columns(id, names) {
    const columns = await this.table(id);
    return { names, values: names.map((name) => columns[name] ?? []) };
  }
}

// --------------------------------------------------------------------------------- in the page

// A record that `payload.packed` made small: examples as lists, edges and values left out.
function unpacked(record, columns) {
  if (record.values) return record;
  const at = columns.latent.indexOf(record.latent);
  const values = Object.fromEntries(Object.keys(columns).filter((name) => name !== "latent").map((name) => [name, columns[name][at]]));
  const example = ([tokens, places, acts, peak, row, doc, token]) => ({ tokens, at: places, acts, peak, token: token ?? peak,
    value: peak === null ? 0 : acts[places.indexOf(peak)] ?? 0, row, doc });
  const counts = record.histogram, most = Math.abs(values.max ?? 0);
  return {
    ...record, values,
    examples: Object.fromEntries(Object.entries(record.examples).map(([band, list]) => [band, list.map(example)])),
    histogram: counts && counts.length ? { counts, edges: Array.from({ length: counts.length + 1 }, (_, k) => (most * k) / counts.length) } : null,
  };
}

export class EmbeddedSource extends LocalSource {
  constructor(data) {
    super();
    this.data = data;
    this.kind = "embedded";
    this.quick = true;
    this.lower = new Map();
    this.opened = new Map();
  }

  of(kind, id, what) {
    const all = this.data[kind] ?? {};
    if (!Object.hasOwn(all, id)) throw missing(`There is no ${what} "${id}" in this page.`);
    return all[id];
  }

  async meta() { return { version: this.data.version ?? "", folder: "", read_only: true, kinds: [] }; }
  async library() { return this.data.library; }
  async sae(id) { return this.of("saes", id, "SAE").overview; }
  async run(id) { return this.of("runs", id, "run"); }
  async study(id) { return this.of("studies", id, "study"); }
  async labels() { return { labels: [] }; }

  async table(id) {
    const { columns } = this.of("saes", id, "SAE");
    if (!columns) throw missing("There is no index of latents.", "saekit index");
    const named = Object.fromEntries(columns.names.map((name, k) => [name, columns.values[k]]));
    return rowsOf(named, columns.values[0]?.length ?? 0);
  }

  // The records of an SAE, inflated when the first of them is asked for.
  async whole(id) {
    const sae = this.of("saes", id, "SAE");
    if (!sae.packed) return sae;
    if (!this.opened.has(id)) {
      const bytes = Uint8Array.from(atob(sae.packed), (c) => c.charCodeAt(0));
      this.opened.set(id, inflated(bytes).then((text) => ({ ...sae, ...JSON.parse(text) })));
    }
    return this.opened.get(id);
  }

  async latent(id, i) {
    const sae = await this.whole(id), columns = await this.table(id);
    if (!/^\d+$/.test(String(i)) || !sae.records || !Object.hasOwn(sae.records, i)) {
      throw missing(`There is no latent ${i}; there are ${columns.latent[0]} to ${columns.latent.at(-1)}.`);
    }
    const record = unpacked(sae.records[i], columns), at = columns.latent.indexOf(Number(i));
    return {
      previous: columns.latent[at - 1] ?? null, next: columns.latent[at + 1] ?? null, label: null, links: {},
      panels: {}, ...record, strings: record.strings ?? sae.strings,
    };
  }

  async each(id, visit) {
    const sae = await this.whole(id);
    if (!this.lower.has(id)) this.lower.set(id, (sae.strings ?? []).map((s) => s.toLowerCase()));
    const shared = this.lower.get(id), columns = await this.table(id);
    for (const [i, packs] of Object.entries(sae.records ?? {})) {
      const record = unpacked(packs, columns);
      visit(record, record.strings ? record.strings.map((s) => s.toLowerCase()) : shared, Number(i));
    }
  }
}

// What stands in the page, of a report.
export function sourceInPage() { return new EmbeddedSource(JSON.parse(document.getElementById("data").textContent)); }
