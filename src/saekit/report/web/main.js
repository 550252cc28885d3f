// Entry of the server's page and of a static site.

import { start } from "./app.js";
import { sourceOfPage } from "./source.js";
import { saeAt } from "./routes.js";

const source = sourceOfPage();
const saes = source.kind === "embedded" ? Object.keys(source.data.saes ?? {}) : [];
const home = document.querySelector('meta[name="saekit-home"]')?.content === "sae" && saes.length === 1 ? saeAt(saes[0]) : null;
start(source, home ? { home, only: home } : {});
