// The frame: theme, tabs, keys, and which view is shown.

import { call, keepKey } from "./api.js";
import * as compare from "./compare.js";
import * as reader from "./document.js";
import { announce, h, plural } from "./dom.js";
import * as map from "./map.js";
import * as route from "./route.js";
import * as search from "./search.js";
import { failure } from "./states.js";

const VIEWS = { search, compare, document: reader, map };
const TITLES = { search: "Search", compare: "Compare", document: "Document", map: "Map" };
const main = document.getElementById("main");
let served = null;
let shown = null;
let stop = new AbortController();

async function show() {
  const { view, params } = route.read();
  stop.abort();
  stop = new AbortController();
  for (const tab of document.querySelectorAll(".tabs a")) {
    const isCurrent = tab.dataset.view === view;
    if (isCurrent) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
    // The question goes along from view to view.
    tab.href = route.link(tab.dataset.view, { q: params.q, instruction: params.instruction });
  }
  document.title = `${params.q ? `${params.q} - ` : ""}${TITLES[view]} - diffembed`;
  document.body.dataset.view = view;
  if (served === null && !(await loadServed())) return;
  if (shown !== view) {
    main.replaceChildren();
    VIEWS[view].mount(main, served);
    shown = view;
  }
  announce("");
  await VIEWS[view].update(params, stop.signal);
}

async function loadServed() {
  try {
    served = await call("page/served");
  } catch (error) {
    shown = null;
    main.replaceChildren(failure(error, show), ...(error.status === 401 ? [keyForm()] : []));
    return false;
  }
  const rows = served.indexes.reduce((sum, index) => sum + index.num_rows, 0);
  document.getElementById("about").textContent =
    `diffembed ${served.version}, ${plural(served.models.length, "model")}, ${plural(rows, "passage")}`;
  return true;
}

function keyForm() {
  const field = h("input", { type: "password", id: "key", autocomplete: "off", required: true });
  const submit = (event) => {
    event.preventDefault();
    keepKey(field.value.trim());
    show();
  };
  return h(
    "form",
    { class: "key-form", onsubmit: submit },
    h("label", { for: "key" }, "API key, kept until this tab is closed"),
    h("div", { class: "row" }, field, h("button", { class: "button" }, "Use it")),
  );
}

const THEMES = ["system", "light", "dark"];

function sayTheme(name) {
  const button = document.getElementById("theme");
  button.setAttribute("aria-label", `Colours: ${name === "system" ? "as the system" : name}`);
  button.title = button.getAttribute("aria-label");
}

document.getElementById("theme").addEventListener("click", () => {
  const current = document.documentElement.dataset.theme ?? "system";
  const next = THEMES[(THEMES.indexOf(current) + 1) % THEMES.length];
  if (next === "system") {
    delete document.documentElement.dataset.theme;
    localStorage.removeItem("theme");
  } else {
    document.documentElement.dataset.theme = next;
    localStorage.setItem("theme", next);
  }
  sayTheme(next);
  window.dispatchEvent(new Event("themechange"));
});
sayTheme(document.documentElement.dataset.theme ?? "system");

document.getElementById("skip").addEventListener("click", () => main.focus());

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.closest("input, textarea, select") !== null;
  if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey) {
    const field = document.getElementById("question");
    if (field) {
      event.preventDefault();
      field.focus();
      field.select();
    }
    return;
  }
  if (event.key === "Escape" && isTyping) event.target.blur();
  // From the question, and from result to result, the arrows walk; with modifiers or in other fields they do not.
  if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const isOnPath = event.target.id === "question" || event.target.closest(".walk") || event.target === document.body;
  if (!step || !isOnPath) return;
  const results = [...document.querySelectorAll(".walk")];
  if (!results.length) return;
  const next = results.indexOf(event.target.closest(".walk")) + step;
  event.preventDefault();
  if (next < 0) document.getElementById("question")?.focus();
  else results[Math.min(next, results.length - 1)].focus();
});

window.addEventListener("hashchange", show);
show();
