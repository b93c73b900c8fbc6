// The page: what the address bar says is shown, and Escape goes up.

function asked() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return location.hash; // a sign of % alone: no address
  }
}

function wanted() {
  const text = asked();
  if (text === "next" || text.startsWith("next?"))
    return { view: "next", rest: text.slice(5) };
  const map = text.endsWith("&map"); // a cell under the cursor, not opened
  const found = parseAddress(map ? text.slice(0, -4) : text);
  if (!found) return { view: "model", unknown: text };
  if (!isHere(found.name)) return { view: "model", unknown: text };
  if (found.name in GIVEN || (found.whole && !map))
    return { view: found.whole ? "cell" : "model", ...found };
  return { view: "tensor", ...found };
}

let shown = { view: "" };

function render(first) {
  const before = shown;
  shown = wanted();
  redraw = () => {};
  remember = () => {};
  if (shown.view === "next" || shown.view === "model") takeSettings(shown.rest ?? "");
  const views = { tensor: tensorView, cell: cellView };
  const main = document.getElementById("main");
  main.replaceChildren((views[shown.view] ?? modelView)(shown));
  crumbs();
  if (shown.view === "model" || shown.view === "next") {
    redraw = drawModel;
    document.getElementById("flow").addEventListener("pointerover", follow);
    document.getElementById("flow").addEventListener("pointerout", follow);
    document.getElementById("flow").addEventListener("focusin", follow);
  }
  redraw();
  land(before, first);
  document.title = `${shown.name ?? "Inside a language model"} · ${contents.model}`;
}

// Where the keyboard stands after a step.
function land(before, first) {
  if (first && shown.view === "model") return;
  if (shown.view === "next") document.getElementById("next-title").focus();
  else if (shown.view === "tensor") document.getElementById("grid").focus();
  else if (shown.view === "cell") document.querySelector("h1").focus();
  else document.querySelector(`[data-tile="${before.name}"] a`)?.focus();
  if (shown.view === "cell" || shown.view === "tensor") scrollTo(0, 0);
}

function crumbs() {
  const items = [link("model", "")];
  if (shown.name) items.push(link(shown.name, shown.name));
  if (shown.view === "cell") {
    const text = address(shown.name, shown.index);
    items.push(link(text.slice(shown.name.length), text));
  }
  items.at(-1).setAttribute("aria-current", "page");
  document
    .getElementById("crumbs")
    .replaceChildren(...items.map((item) => make("li", {}, item)));
}

function up() {
  if (shown.view === "cell" && !(shown.name in GIVEN)) {
    location.hash = `${address(shown.name, shown.index)}&map`;
  } else if (shown.view !== "model") {
    location.hash = "";
  }
}

// The same view in other colours; what has been chosen in it stays.
function recolour(isDark) {
  const focused = document.activeElement;
  remember();
  setTheme(isDark);
  render();
  if (focused?.id === "theme") focused.focus();
}

function setTheme(isDark) {
  dark = isDark;
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
  document.getElementById("theme").textContent = isDark ? "Light" : "Dark";
}

async function start() {
  await unpack();
  const system = matchMedia("(prefers-color-scheme: dark)");
  setTheme(system.matches);
  system.addEventListener("change", () => recolour(system.matches));
  document.getElementById("theme").addEventListener("click", () => recolour(!dark));
  addEventListener("hashchange", () => render());
  addEventListener("resize", () => redraw());
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") up();
  });
  let wasDark = false;
  addEventListener("beforeprint", () => {
    wasDark = dark;
    if (dark) recolour(false);
  });
  addEventListener("afterprint", () => {
    if (wasDark) recolour(true);
  });
  document
    .getElementById("foot")
    .append(
      "Written by npgpt. ",
      contents.path ? `Computed by ${contents.path}. ` : "",
      "Arrow keys move in an array, Enter opens a number, Escape goes up.",
    );
  if (contents.start && !location.hash) setHash(`#${contents.start}`, true);
  render(true);
  window.npgpt.firstPicture = performance.now(); // milliseconds since it was asked for
  document.documentElement.dataset.ready = "yes";
}

window.npgpt = { explain, parseAddress, chosen, probabilities, entropy, said, read }; // for who wants to compare
start();
