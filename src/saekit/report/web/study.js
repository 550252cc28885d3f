// A study: blocks that its own package makes.

import { element, replace, visible } from "./dom.js";
import { blockList } from "./blocks.js";
import { saeAt, latentAt } from "./routes.js";

export async function studyPage(host, { source, path }) {
  const study = await source.study(path[1]);
  document.title = `${study.title ?? path[1]} · saekit`;
  replace(host, element("header", {}, element("h1", {}, visible(study.title ?? path[1])),
    element("p", { class: "badges" }, element("span", { class: "badge" }, study.kind)),
    study.sae ? element("p", {}, element("a", { href: saeAt(study.sae) }, "its SAE")) : null),
  (study.blocks ?? []).length ? blockList(study.blocks, { sae: (id) => saeAt(id), latent: study.sae ? (i) => latentAt(study.sae, i) : null })
    : element("p", { class: "empty" }, "This study has left nothing to show yet."));
}
