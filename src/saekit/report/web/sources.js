// A server, and files of a static host, as sources of the pages.
//
// Files (StaticSource), below data/: library.json, ID/overview.json, ID/columns.json {names, values},
// ID/latents.bin (a record each: JSON, raw deflate, one after the other; panels {NAME: PANEL} and label inside),
// ID/latents.idx.json {"offsets": [0, ..., bytes]}, runs/ID.json, studies/ID.json.

import { EmbeddedSource, LocalSource, Problem, PAGE, inflated, missing, rowsOf } from "./source.js";

const escape = encodeURIComponent;

// ---------------------------------------------------------------------------------------- a server

export class ServerSource {
  constructor(base = "/api/v1") {
    this.base = base;
    this.kind = "server";
    this.live = this.quick = true; // quick: previews of many rows cost little
  }

  async ask(path, { method = "GET", body, signal, headers = {} } = {}) {
    const options = { method, signal, credentials: "same-origin", headers: { Accept: "application/json", ...headers } };
    if (method !== "GET") options.headers["X-Saekit"] = "1";
    if (body !== undefined) {
      options.headers["Content-Type"] = "application/json";
      options.body = JSON.stringify(body);
    }
    let reply, said;
    try {
      reply = await fetch(this.base + path, options);
      if (reply.status === 204) return null;
      said = (reply.headers.get("Content-Type") ?? "").includes("json") ? await reply.json() : null;
    } catch (error) { // in the middle of an answer too
      if (error.name === "AbortError") throw error;
      throw new Problem({ title: "The server does not answer", detail: "saekit serve has ended, or cannot be reached.",
        remedy: "saekit serve" });
    }
    if (reply.ok) {
      if (said && reply.headers.get("ETag") && typeof said === "object") tags.set(said, reply.headers.get("ETag"));
      return said;
    }
    if (reply.status === 401) {
      throw new Problem({ title: "Not signed in", status: 401, remedy: said?.remedy ?? "",
        detail: said?.detail ?? "Open the link that saekit serve printed last; each link works once." });
    }
    throw new Problem({ title: said?.title ?? `Error ${reply.status}`, detail: said?.detail ?? reply.statusText,
      remedy: said?.remedy ?? "", status: reply.status });
  }

  signIn(token) { return this.ask("/session", { method: "POST", body: { token } }); }
  meta() { return (this.known ??= this.ask("/meta").catch((error) => { this.known = null; throw error; })); }
  library() { return this.ask("/library"); }
  sae(id) { return this.ask(`/saes/${escape(id)}`); }
  columns(id, names) { return this.ask(`/saes/${escape(id)}/columns?names=${escape(names.join(","))}`); }

  latents(id, { where = "", limit = PAGE, cursor = null, signal } = {}) {
    const query = new URLSearchParams({ limit: String(limit) });
    if (where.trim()) query.set("where", where.trim());
    if (cursor) query.set("cursor", cursor);
    return this.ask(`/saes/${escape(id)}/latents?${query}`, { signal });
  }

  search(id, { q, scope = "on", limit = PAGE, signal } = {}) {
    const query = new URLSearchParams({ q, in: scope, limit: String(limit) });
    return this.ask(`/saes/${escape(id)}/search?${query}`, { signal });
  }

  latent(id, i, { signal } = {}) { return this.ask(`/saes/${escape(id)}/latents/${escape(i)}`, { signal }); }
  previews(id, latents) { return this.ask(`/saes/${escape(id)}/previews?latents=${latents.join(",")}`); }
  run(id) { return this.ask(`/runs/${escape(id)}`); }
  study(id) { return this.ask(`/studies/${escape(id)}`); }
  jobs() { return this.ask("/jobs"); }
  oneJob(id) { return this.ask(`/jobs/${escape(id)}`); }
  cancel(id) { return this.ask(`/jobs/${escape(id)}`, { method: "DELETE" }); }

  // Starts a job and resolves with its result. With an abort it is cancelled.
  async job(kind, args, { onProgress, signal } = {}) {
    const { id } = await this.ask("/jobs", { method: "POST", body: { kind, ...args }, signal });
    let wait = 120;
    for (;;) {
      if (signal?.aborted) {
        await this.cancel(id).catch(() => {}); // it may have ended meanwhile
        throw new DOMException("cancelled", "AbortError");
      }
      const now = await this.ask(`/jobs/${escape(id)}`);
      if (now.state === "done") return now.result;
      if (now.state === "failed" || now.state === "cancelled") {
        const why = now.error && typeof now.error === "object" ? now.error : { detail: now.error };
        throw new Problem({ title: now.state === "failed" ? "The job failed" : "The job was cancelled", ...why });
      }
      onProgress?.(now.progress ?? { text: now.state, fraction: null });
      await new Promise((done) => setTimeout(done, wait));
      wait = Math.min(1000, wait * 1.3);
    }
  }

  lists() { return this.ask("/lists"); }
  list(number) { return this.ask(`/lists/${escape(number)}`); }
  makeList(list) { return this.ask("/lists", { method: "POST", body: list }); }
  // `list` as it was read: one that was changed meanwhile is refused.
  changeList(list, changes) {
    return this.ask(`/lists/${escape(list.id)}`, { method: "PATCH", body: changes, headers: { "If-Match": `"${list.version}"` } });
  }
  removeList(number) { return this.ask(`/lists/${escape(number)}`, { method: "DELETE" }); }
  views() { return this.ask("/views"); }
  saveView(name, address) { return this.ask("/views", { method: "POST", body: { name, address } }); }
  renameView(number, name) { return this.ask(`/views/${escape(number)}`, { method: "PATCH", body: { name } }); }
  removeView(number) { return this.ask(`/views/${escape(number)}`, { method: "DELETE" }); }
  restore(exported) { return this.ask("/labels", { method: "POST", body: exported }); }

  // `known`: the label that the page shows, which is the one to be replaced. more: its note, and who wrote it.
  async setLabel(id, i, text, known, more = {}) {
    const path = `/saes/${escape(id)}/latents/${escape(i)}/label`;
    const there = known ? await this.ask(path) : null;
    if (there && there.text !== known.text) {
      throw new Problem({ title: "The label was changed elsewhere", detail: `It is now "${there.text}". Load the page again to change that one.`, status: 412 });
    }
    const tag = there ? tags.get(there) : null;
    if (!text.trim()) return known ? this.ask(path, { method: "DELETE", headers: tag ? { "If-Match": tag } : {} }) : null;
    return this.ask(path, { method: "PUT", body: { text, ...more }, headers: tag ? { "If-Match": tag } : {} });
  }

  labels() { return this.ask("/labels"); }
}

const tags = new WeakMap();

// ---------------------------------------------------------------------------- files of a static host

const WHOLE = 64e6; // bytes of a packed file that a search reads at once

export class StaticSource extends LocalSource {
  constructor(base = "data") {
    super();
    this.base = base;
    this.kind = "static";
    this.quick = false;
    this.read = new Map();
  }

  async file(path, range = null) {
    let reply;
    try {
      reply = await fetch(`${this.base}/${path}`, range ? { headers: { Range: `bytes=${range[0]}-${range[1] - 1}` } } : {});
    } catch {
      throw new Problem({ title: "A file cannot be read", detail: `${path} cannot be reached.`,
        remedy: "Open this folder through a web server, such as: python3 -m http.server" });
    }
    if (!reply.ok) throw missing(`${path} is not in this site (status ${reply.status}).`);
    return reply;
  }

  json(path) {
    if (!this.read.has(path)) {
      const asked = this.file(path).then((reply) => reply.json());
      asked.catch(() => this.read.delete(path));
      this.read.set(path, asked);
    }
    return this.read.get(path);
  }

  async meta() { return { version: "", folder: "", read_only: true, kinds: [] }; }
  async library() { return this.json("library.json"); }
  async sae(id) { return this.json(`${escape(id)}/overview.json`); }
  async run(id) { return this.json(`runs/${escape(id)}.json`); }
  async study(id) { return this.json(`studies/${escape(id)}.json`); }
  async labels() { return { labels: [] }; }

  async table(id) {
    const key = `table ${id}`;
    if (!this.read.has(key)) {
      const made = this.json(`${escape(id)}/columns.json`).then(({ names, values }) => {
        const named = Object.fromEntries(names.map((name, k) => [name, values[k]]));
        return rowsOf(named, values[0]?.length ?? 0);
      });
      made.catch(() => this.read.delete(key));
      this.read.set(key, made);
    }
    return this.read.get(key);
  }

  async offsets(id) { return (await this.json(`${escape(id)}/latents.idx.json`)).offsets; }

  async latent(id, i) {
    const offsets = await this.offsets(id), at = Number(i);
    if (!Number.isInteger(at) || at < 0 || at >= offsets.length - 1) {
      throw missing(`There is no latent ${i}; there are 0 to ${offsets.length - 2}.`);
    }
    const [from, to] = [offsets[at], offsets[at + 1]];
    let bytes;
    if (this.whole?.id === id) bytes = this.whole.bytes.subarray(from, to);
    else {
      const reply = await this.file(`${escape(id)}/latents.bin`, [from, to]);
      bytes = new Uint8Array(await reply.arrayBuffer());
      if (reply.status === 200 && bytes.length !== to - from) { // the host ignores ranges
        this.whole = { id, bytes };
        bytes = bytes.subarray(from, to);
      }
    }
    const record = JSON.parse(await inflated(bytes));
    return { label: null, links: {}, previous: at > 0 ? at - 1 : null, next: at + 2 < offsets.length ? at + 1 : null, ...record };
  }

  async each(id, visit, signal) {
    const offsets = await this.offsets(id), size = offsets[offsets.length - 1];
    if (size > WHOLE) {
      throw new Problem({ title: "Too large to search here", detail:
        `Search reads every latent, ${Math.round(size / 1e6)} MB. Use the query, or the server.`, remedy: "saekit serve" });
    }
    if (this.whole?.id !== id) {
      const reply = await this.file(`${escape(id)}/latents.bin`);
      this.whole = { id, bytes: new Uint8Array(await reply.arrayBuffer()) };
    }
    for (let i = 0; i + 1 < offsets.length; i++) {
      if (signal?.aborted) throw new DOMException("cancelled", "AbortError");
      const record = JSON.parse(await inflated(this.whole.bytes.subarray(offsets[i], offsets[i + 1])));
      visit(record, record.strings.map((s) => s.toLowerCase()), i);
    }
  }
}

// The source that this page was made for. A page of files says so: <meta name="saekit-source" content="static">.
export function sourceOfPage() {
  if (window.SAEKIT_DATA) return new EmbeddedSource(window.SAEKIT_DATA);
  const kind = document.querySelector('meta[name="saekit-source"]')?.content ?? "server";
  return kind === "static" ? new StaticSource() : new ServerSource();
}
