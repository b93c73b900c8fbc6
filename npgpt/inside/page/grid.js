// The heat map of an array, and the walk over it: keys, pointer, scrolling, zoom.
//
// A canvas draws what is in sight. The cursor is an element above it, and as a grid's
// one cell it is what a screen reader reads.

let zoom = 1; // stays from array to array

let redraw = () => {}; // what the view on show does when its size changes
let remember = () => {}; // and what it does to find its place again

function heatMap(name, letters) {
  const map = newMap(name, letters);
  map.grid.addEventListener("keydown", (event) => pressed(map, event));
  map.grid.addEventListener("scroll", () => requestAnimationFrame(() => draw(map)));
  map.grid.addEventListener("pointermove", (event) => hover(map, under(map, event)));
  map.grid.addEventListener("pointerleave", () => hover(map, null));
  map.grid.addEventListener("click", (event) => {
    const found = under(map, event);
    if (!found) return;
    move(map, found.i, found.j);
    open(map);
  });
  redraw = () => layout(map);
  remember = () => setHash(`#${addressOf(map)}&map`);
  return make(
    "section",
    { class: "map", "aria-label": "Heat map" },
    tools(map),
    map.grid,
    map.reading,
    scaleBar(map.matrix.scale),
  );
}

// What a map knows: its matrix, where the cursor stands, what is under the pointer.
function newMap(name, letters) {
  const fixed = { ...letters };
  const matrix = matrixOf(name, fixed);
  const { rows, columns } = matrix;
  const ofTokens = (letter) => letter === "t" || letter === "s";
  const canvas = make("canvas", { "aria-hidden": "true" });
  const cell = make("div", { role: "gridcell", id: "cell" });
  const line = make("div", { role: "row", class: "cursor" }, cell);
  const space = make("div", { class: "space", role: "presentation" }, canvas, line);
  const help = "Arrow keys move, Enter says why, Escape goes back.";
  const grid = make(
    "div",
    {
      class: "scroller",
      id: "grid",
      role: "grid",
      tabindex: 0,
      "aria-activedescendant": "cell",
      "aria-rowcount": rows,
      "aria-colcount": columns,
      "aria-label": `${name}, ${rows} by ${columns} numbers. ${help}`,
    },
    space,
  );
  return {
    name,
    fixed,
    matrix,
    canvas,
    cell,
    line,
    space,
    grid,
    reading: make("p", { class: "reading" }),
    at: { i: fixed[matrix.row] ?? 0, j: fixed[matrix.column] ?? 0 },
    over: null,
    slanted: ofTokens(matrix.column), // its labels
    gutter: ofTokens(matrix.row) ? 110 : 44, // what the labels of rows take
    top: ofTokens(matrix.column) ? 78 : 20, // and those of columns
    size: { w: 0, h: 0 }, // of a cell
  };
}

function tools(map) {
  const { outer, outers } = map.matrix;
  const word = contents.letters[outer];
  const button = (text, onclick, more = {}) =>
    make("button", { type: "button", onclick, ...more }, text);
  map.heads = make("div", { class: "outers", role: "group", "aria-label": word });
  for (let n = 0; outer && n < outers; n++) {
    map.heads.append(button(`${word} ${n}`, () => turn(map, n), { value: n }));
  }
  pressHead(map);
  return make(
    "div",
    { class: "tools" },
    outer ? map.heads : "",
    make(
      "div",
      { class: "outers" },
      button("−", () => enlarge(map, 0.5), { "aria-label": "Narrower cells" }),
      button("+", () => enlarge(map, 2), { "aria-label": "Wider cells" }),
    ),
  );
}

function pressHead(map) {
  const n = map.fixed[map.matrix.outer] ?? 0;
  for (const button of map.heads.children) {
    button.setAttribute("aria-pressed", String(Number(button.value) === n));
  }
}

function layout(map) {
  measure(map);
  draw(map);
  place(map);
}

// Cells fill the width there is, as far as they stay cells.
function measure(map) {
  const { rows, columns, row } = map.matrix;
  const least = columns <= 64 ? 14 : 3;
  const room = (map.grid.clientWidth - map.gutter - 2) / columns;
  const fit = Math.max(least, Math.min(40, room));
  const calm = map.slanted ? Math.max(22, Math.min(fit, 30)) : 22;
  const few = row === "t" || row === "s" || rows === 1;
  map.size = { w: fit * zoom, h: few ? calm : 8 * (rows > 64 ? zoom : 1) };
  map.space.style.width = `${map.gutter + columns * map.size.w + 2}px`;
  map.space.style.height = `${map.top + rows * map.size.h + 2}px`;
}

function draw(map) {
  const { matrix, grid, canvas, gutter, top, size, over } = map;
  const width = grid.clientWidth;
  const height = Math.min(grid.clientHeight, top + matrix.rows * size.h + 2);
  const ratio = window.devicePixelRatio || 1;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const ctx = canvas.getContext("2d");
  ctx.scale(ratio, ratio);
  const [x0, y0] = [gutter - grid.scrollLeft, top - grid.scrollTop];
  const first = {
    i: Math.max(0, Math.floor(grid.scrollTop / size.h)),
    j: Math.max(0, Math.floor(grid.scrollLeft / size.w)),
  };
  const last = {
    i: Math.min(matrix.rows, Math.ceil((height - y0) / size.h)),
    j: Math.min(matrix.columns, Math.ceil((width - x0) / size.w)),
  };
  const [rows, columns] = [last.i - first.i, last.j - first.j];
  const [x, y] = [x0 + first.j * size.w, y0 + first.i * size.h];
  const value = (i, j) => matrix.shown(first.i + i, first.j + j);
  ctx.save();
  ctx.beginPath();
  ctx.rect(gutter, top, width, height);
  ctx.clip();
  if (rows > 0 && columns > 0) {
    paintAll(ctx, rows, columns, value, matrix.scale, x, y, size.w, size.h);
  }
  if (over) outline(ctx, x0 + over.j * size.w, y0 + over.i * size.h, size);
  ctx.restore();
  labels(ctx, map, { x0, y0, first, last });
}

// The cursor to its cell, and the cell into sight.
function place({ matrix, grid, cell, line, reading, at, gutter, top, size }) {
  const [x, y] = [at.j * size.w, at.i * size.h];
  cell.style.left = `${gutter + x}px`;
  cell.style.top = `${top + y}px`;
  cell.style.width = `${Math.max(6, size.w)}px`;
  cell.style.height = `${Math.max(6, size.h)}px`;
  line.setAttribute("aria-rowindex", at.i + 1);
  cell.setAttribute("aria-colindex", at.j + 1);
  reading.textContent = sentence(matrix, at);
  cell.setAttribute("aria-label", reading.textContent);
  const right = x - (grid.clientWidth - gutter - size.w);
  const bottom = y - (grid.clientHeight - top - size.h);
  grid.scrollLeft = Math.max(right, Math.min(x, grid.scrollLeft));
  grid.scrollTop = Math.max(bottom, Math.min(y, grid.scrollTop));
}

function move(map, i, j) {
  map.at.i = Math.max(0, Math.min(map.matrix.rows - 1, i));
  map.at.j = Math.max(0, Math.min(map.matrix.columns - 1, j));
  place(map);
  draw(map);
  announce(sentence(map.matrix, map.at));
}

// To another head.
function turn(map, n) {
  const { outer, outers } = map.matrix;
  if (!outer) return;
  map.fixed[outer] = (n + outers) % outers;
  map.matrix = matrixOf(map.name, map.fixed);
  pressHead(map);
  layout(map);
  announce(sentence(map.matrix, map.at));
}

function enlarge(map, by) {
  zoom = Math.max(1, Math.min(8, zoom * by));
  layout(map);
}

function addressOf({ name, matrix, at }) {
  return address(name, matrix.at(at.i, at.j));
}

function open(map) {
  remember(); // for the way back
  location.hash = addressOf(map);
}

function hover(map, cell) {
  map.over = cell;
  draw(map);
  map.reading.textContent = sentence(map.matrix, cell ?? map.at);
}

// The cell under the pointer, or null.
function under({ matrix, grid, gutter, top, size }, event) {
  const box = grid.getBoundingClientRect();
  const x = event.clientX - box.left - grid.clientLeft;
  const y = event.clientY - box.top - grid.clientTop;
  const j = Math.floor((x + grid.scrollLeft - gutter) / size.w);
  const i = Math.floor((y + grid.scrollTop - top) / size.h);
  const inside = x >= gutter && y >= top && i < matrix.rows && j < matrix.columns;
  return inside ? { i, j } : null;
}

function pressed(map, event) {
  const { at, matrix } = map;
  const head = map.fixed[matrix.outer] ?? 0;
  const keys = {
    ArrowLeft: () => move(map, at.i, at.j - 1),
    ArrowRight: () => move(map, at.i, at.j + 1),
    ArrowUp: () => move(map, at.i - 1, at.j),
    ArrowDown: () => move(map, at.i + 1, at.j),
    Home: () => move(map, event.ctrlKey ? 0 : at.i, 0),
    End: () => move(map, event.ctrlKey ? matrix.rows - 1 : at.i, matrix.columns - 1),
    PageDown: () => turn(map, head + 1),
    PageUp: () => turn(map, head - 1),
    Enter: () => open(map),
    " ": () => open(map),
    "+": () => enlarge(map, 2),
    "-": () => enlarge(map, 0.5),
  };
  if (!keys[event.key] || event.altKey || event.metaKey) return;
  event.preventDefault();
  keys[event.key]();
}
