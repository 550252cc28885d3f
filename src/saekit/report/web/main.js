// Entry of the explorer: the server's page, and a folder of files.

import { start } from "./app.js";
import { sourceOfPage } from "./sources.js";
import { libraryPage } from "./library.js";
import { saePage } from "./sae.js";
import { latentPage } from "./latent.js";
import { promptPage } from "./prompt.js";
import { comparePage } from "./compare.js";
import { runPage } from "./run.js";
import { studyPage } from "./study.js";
import { jobsPage } from "./jobs.js";
import { markedPage } from "./marked.js";
import { markLatents, saveView } from "./marking.js";

function pageOf(path) {
  const [first, , third] = path;
  if (!first) return libraryPage;
  if (first === "sae" && path.length === 2) return saePage;
  if (first === "sae" && third === "latent" && path.length === 4) return latentPage;
  if (first === "sae" && third === "prompt" && path.length === 3) return promptPage;
  if (first === "compare") return comparePage;
  if (first === "run" && path.length === 2) return runPage;
  if (first === "study" && path.length === 2) return studyPage;
  if (first === "jobs") return jobsPage;
  if (first === "marked" && path.length <= 2) return markedPage;
  return null;
}

const source = sourceOfPage();
if (source.live) source.mark = (weights, latents) => markLatents(source, weights, latents); // what the one-file report has not
const links = [["Library", "#/"], ["Compare", "#/compare"]];
if (source.live) links.push(["Marked", "#/marked"], ["Jobs", "#/jobs"]);
start(source, pageOf, { links, save: source.live ? () => saveView(source) : null });
