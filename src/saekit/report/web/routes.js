// The address holds the page and its state: #/sae/ID/latent/5?where=... A part with "/" in it is escaped.

const part = encodeURIComponent;

export function address(path, state = {}) {
  const kept = Object.entries(state).filter(([, v]) => v !== undefined && v !== null && v !== "");
  const query = new URLSearchParams(kept.map(([k, v]) => [k, String(v)])).toString();
  return `#/${path.map((p) => part(String(p))).join("/")}${query ? `?${query}` : ""}`;
}

export const saeAt = (id, state) => address(["sae", id], state);
export const latentAt = (id, i, state) => address(["sae", id, "latent", i], state);
export const promptAt = (id, state) => address(["sae", id, "prompt"], state);
export const compareAt = (state) => address(["compare"], state);
export const runAt = (id) => address(["run", id]);
export const markedAt = (list) => address(["marked", ...(list === undefined ? [] : [list])]);
export const studyAt = (id) => address(["study", id]);

export function parsed(hash) {
  const text = hash.replace(/^#\/?/, ""), cut = text.indexOf("?");
  const path = cut < 0 ? text : text.slice(0, cut);
  const decoded = (p) => { try { return decodeURIComponent(p); } catch { return p; } };
  return {
    path: path.split("/").filter(Boolean).map(decoded),
    state: Object.fromEntries(new URLSearchParams(cut < 0 ? "" : text.slice(cut + 1))),
  };
}

// Puts state into the address of the page shown, without a new entry of the history.
export function keepState(change) {
  const { path, state } = parsed(location.hash);
  history.replaceState(history.state, "", address(path, { ...state, ...change }));
}
