// Marking from any page: a latent into a list, the address of a page into the saved views.

import { element, button, replace, visible, lined } from "./dom.js";
import { counted } from "./numbers.js";
import { filled, shownProblem } from "./states.js";

// A text that is edited in its place. save(text) may refuse; what it says is shown.
export function editable(text, { label, save, long = false, empty = "", needed = false, word = "edit" }) {
  let value = text;
  const shown = element("span", { dir: "auto", class: "said" }), note = element("small", { role: "status" });
  const field = element(long ? "textarea" : "input", { "aria-label": label, maxlength: long ? 10000 : 200, rows: long ? 2 : null });
  const draw = () => replace(shown, value ? lined(value) : element("span", { class: "none" }, empty));
  const press = button(value ? word : needed ? word : "add", () => open(), { class: "quiet", "aria-label": `edit ${label}` });
  const close = () => { form.hidden = true; shown.hidden = press.hidden = false; press.focus(); };
  const open = () => {
    field.value = value;
    note.textContent = "";
    form.hidden = false;
    shown.hidden = press.hidden = true;
    field.focus();
  };
  const form = element("form", { class: "controls", hidden: true, onsubmit: async (event) => {
    event.preventDefault();
    const said = field.value.trim();
    if (needed && !said) { note.textContent = "It needs a character or more."; return; }
    try {
      await save(said);
      value = said;
      draw();
      close();
      press.textContent = value || needed ? word : "add";
    } catch (error) {
      replace(note, shownProblem(error));
    }
  } }, field, element("button", { type: "submit" }, "save"), button("cancel", close, { class: "quiet" }));
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { event.stopPropagation(); close(); }
    if (long && event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  draw();
  return element("span", { class: "editable" }, shown, press, form, note);
}

// A button for what cannot be taken back: pressed twice it does it.
export function twice(text, run) {
  let sure = false, timer;
  const press = button(text, () => {
    if (sure) { clearTimeout(timer); run(); return; }
    sure = true;
    press.textContent = `${text}: sure?`;
    timer = setTimeout(() => { sure = false; press.textContent = text; }, 4000);
  }, { class: "quiet" });
  return press;
}

function dialog(label, ...body) {
  const close = element("form", { method: "dialog" }, element("button", { type: "submit" }, "close"));
  const box = element("dialog", { "aria-label": label, class: "marking" }, element("h2", {}, label), body, close);
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  box.showModal();
  return box;
}

// Changes a list as it is now; where someone else changed it meanwhile, once more.
async function changed(source, number, change) {
  for (let tries = 0; ; tries++) {
    const list = await source.list(number);
    try {
      return await source.changeList(list, { items: change(list.items) });
    } catch (error) {
      if (error.status !== 412 || tries) throw error;
    }
  }
}

// Latents of one SAE into lists and out of them.
export function markLatents(source, weights, latents) {
  const what = latents.length === 1 ? `Latent ${latents[0]}` : counted(latents.length, "latent");
  const body = element("div"), wrong = element("div", { role: "alert" }), said = element("p", { role: "status", class: "count" });
  const same = (item) => item.weights === weights && latents.includes(item.latent);
  const there = (list) => new Set(list.items.filter(same).map((item) => item.latent)).size;
  const attempt = async (run) => {
    wrong.replaceChildren();
    try {
      said.textContent = await run();
    } catch (error) {
      replace(wrong, shownProblem(error));
    }
  };
  const row = (list) => {
    const box = element("input", { type: "checkbox", checked: there(list) === latents.length, onchange: () => attempt(async () => {
      const into = box.checked;
      let now;
      try {
        now = await changed(source, list.id, (items) => {
          const known = new Set(items.filter(same).map((item) => item.latent));
          return into ? [...items, ...latents.filter((i) => !known.has(i)).map((latent) => ({ weights, latent, note: "" }))]
            : items.filter((item) => !same(item));
        });
      } catch (error) {
        box.checked = !into;
        throw error;
      }
      count.textContent = counted(now.items.length, "latent");
      return into ? `In "${list.name}" now.` : `No longer in "${list.name}".`;
    }) });
    const count = element("small", {}, counted(list.items.length, "latent"));
    return element("li", {}, element("label", {}, box, " ", element("bdi", {}, visible(list.name)), " "), count);
  };
  const name = element("input", { type: "text", maxlength: 200, placeholder: "name of a new list", "aria-label": "name of a new list" });
  const form = element("form", { class: "controls", onsubmit: (event) => {
    event.preventDefault();
    if (!name.value.trim()) return;
    attempt(async () => {
      const made = await source.makeList({ name: name.value.trim(), items: latents.map((latent) => ({ weights, latent, note: "" })) });
      if (!body.querySelector("ul")) replace(body, element("ul", { class: "choices" }));
      body.querySelector("ul").append(row(made));
      name.value = "";
      return `In "${made.name}" now.`;
    });
  } }, name, element("button", { type: "submit" }, "make it"));
  dialog(`${what}: lists`, body, form, said, wrong);
  name.focus();
  filled(body, source.lists().then(({ lists }) => Promise.all(lists.map((one) => source.list(one.id)))), (lists) => lists.length
    ? element("ul", { class: "choices" }, lists.map(row)) : element("p", { class: "empty" }, "There is no list yet."), "Reading the lists");
}

// The address of the page that is shown, under a name.
export function saveView(source) {
  const said = element("p", { role: "status" }), address = location.hash || "#/";
  const name = element("input", { type: "text", maxlength: 200, "aria-label": "name of the view", value: document.title.replace(/ · saekit$/, "") });
  const form = element("form", { class: "controls", onsubmit: async (event) => {
    event.preventDefault();
    try {
      await source.saveView(name.value.trim(), address);
      replace(said, "Saved: it is on the page ", element("a", { href: "#/marked", onclick: () => box.close() }, "Marked"), ".");
      form.hidden = true;
    } catch (error) {
      replace(said, shownProblem(error));
    }
  } }, name, element("button", { type: "submit" }, "save"));
  name.required = true;
  const box = dialog("Save this view", element("p", { class: "about" }, "The page with its query, text and choices, as its address has them."), form, said);
  name.focus();
  name.select();
}
