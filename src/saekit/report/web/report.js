// Entry of the one-file report: one SAE and its latents.

import { start } from "./app.js";
import { sourceInPage } from "./source.js";
import { saePage } from "./sae.js";
import { latentPage } from "./latent.js";
import { saeAt } from "./routes.js";

function pageOf(path) {
  if (path[0] === "sae" && path.length === 2) return saePage;
  if (path[0] === "sae" && path[2] === "latent" && path.length === 4) return latentPage;
  return null;
}

const source = sourceInPage(), [id] = Object.keys(source.data.saes);
source.alone = true; // no page beside it to link to
start(source, pageOf, { home: saeAt(id) });
