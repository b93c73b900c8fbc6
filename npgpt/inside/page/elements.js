// Elements: HTML and SVG. Text becomes text nodes, never markup.

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  set(element, attributes);
  element.append(...children);
  return element;
}

function makeSvg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  set(element, attributes);
  element.append(...children);
  return element;
}

function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value !== false && value !== undefined) element.setAttribute(name, value);
  }
}

function link(text, hash, attributes = {}) {
  return make("a", { href: `#${hash}`, ...attributes }, text);
}

// A table from a head and rows of texts or elements; `sides` names numeric columns.
function table(caption, head, rows, numeric = []) {
  const cell = (tag, content, i) =>
    make(tag, { class: numeric.includes(i) ? "number" : false }, content);
  return make(
    "table",
    {},
    make("caption", {}, caption),
    make(
      "thead",
      {},
      make(
        "tr",
        {},
        ...head.map((text, i) => {
          const th = cell("th", text, i);
          th.scope = "col";
          return th;
        }),
      ),
    ),
    make(
      "tbody",
      {},
      ...rows.map(({ kind, cells }) =>
        make(
          "tr",
          { class: kind ?? false },
          ...cells.map((text, i) => cell("td", text, i)),
        ),
      ),
    ),
  );
}

// The code of a function, closed until it is asked for.
function codeOf(name) {
  const one = contents.functions[name];
  if (!one) return "";
  return make(
    "details",
    {},
    make("summary", {}, `${name}, ${one.place}`),
    make("pre", { tabindex: 0 }, make("code", {}, one.code)),
  );
}

// Its arrays' short names: h.0.attn.scores is attn.scores of layer 0.
function shortName(name) {
  return name.replace(/^h\.\d+\./, "");
}

function announce(text) {
  document.getElementById("live").textContent = text;
}

// Say where we are in the address bar, without a step to go back by. A frame in a
// notebook has no address to replace: there only what must be said is, as a step.
function setHash(hash, must = false) {
  try {
    history.replaceState(null, "", hash);
  } catch (error) {
    if (error.name !== "SecurityError") throw error;
    if (must) location.hash = hash;
  }
}
