// Entry of the one-file report of a study.

import { start } from "./app.js";
import { sourceInPage } from "./source.js";
import { studyPage } from "./study.js";
import { studyAt } from "./routes.js";

const source = sourceInPage(), [id] = Object.keys(source.data.studies);
source.alone = true; // no page next to it to link to
start(source, (path) => (path[0] === "study" && path.length === 2 ? studyPage : null), { home: studyAt(id) });
