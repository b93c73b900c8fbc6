// The second depth: one array as a heat map that the keyboard walks over.

let zoom = 1;

function tensorView({ name, letters }) {
  const fixed = { ...letters };
  const matrix = matrixOf(name, fixed);
  const article = make("article", { class: "tensor" },
    make("h1", { tabindex: -1 }, name),
    make("p", { class: "meaning" }, meaningOf(name)),
    taps.has(name) ? make("p", { class: "formula" }, make("code", {}, `${shortName(name)}[${recipeOf(name).letters}] = ${written(recipeOf(name).node)}`)) : "",
    related(name),
    heatMap(name, fixed, matrix),
    histogram(matrix.scale, stored(name).values),
    taps.has(name) ? codeOf(recipeOf(name).function) : "",
  );
  return article;
}

// The sentence of a recipe, of no number in particular.
function meaningOf(name, letters) {
  if (!taps.has(name)) {
    return name in contents.parameters ? "A parameter: it was learned in training." : "Given with the text.";
  }
  const said_ = (letter) => {
    if (letters === undefined) return { v: "a token v", c: "c", d: "d", j: "j", m: "m", h: "h" }[letter] ?? `token ${letter}`;
    if (letter === "t" || letter === "s") return tokenAt(letters[letter]);
    return letter === "v" ? textOf(letters.v) : String(letters[letter]);
  };
  return recipeOf(name).meaning.replace(/\{(\w)\}/g, (_, letter) => said_(letter));
}

// What it is made of, and what is made of it.
function related(name) {
  const list = (title, names) => names.length
    ? [make("dt", {}, title), make("dd", {}, ...names.map((one) => isHere(one) && !(one in GIVEN) ? link(one, one) : make("span", {}, one)))]
    : [];
  const from = taps.has(name) ? [...new Set(Object.values(taps.get(name).names))] : [];
  const to = contents.taps.filter((tap) => Object.values(tap.names).includes(name)).map((tap) => tap.name);
  return make("dl", { class: "related" }, ...list("made of", from), ...list("read by", to));
}

function heatMap(name, fixed, matrix) {
  const gutter = matrix.row === "t" || matrix.row === "s" ? 110 : 44;
  const slanted = matrix.column === "s" || matrix.column === "t";
  const top = slanted ? 78 : 20;
  const canvas = make("canvas", { "aria-hidden": "true" });
  const cell = make("div", { role: "gridcell", id: "cell" });
  const line = make("div", { role: "row", class: "cursor" }, cell);
  const space = make("div", { class: "space", role: "presentation" }, canvas, line);
  const scroller = make("div", {
    class: "scroller", id: "grid", role: "grid", tabindex: 0, "aria-activedescendant": "cell",
    "aria-rowcount": matrix.rows, "aria-colcount": matrix.columns,
    "aria-label": `${name}, ${matrix.rows} by ${matrix.columns} numbers. Arrow keys move, Enter says why, Escape goes back.`,
  }, space);
  const reading = make("p", { class: "reading" }, "");
  const at = { i: fixed[matrix.row] ?? 0, j: fixed[matrix.column] ?? 0 };
  let size = { w: 0, h: 0 };
  let over = null; // the cell under the pointer

  const measure = () => {
    const room = scroller.clientWidth - gutter - 2;
    const least = matrix.columns <= 64 ? 14 : 3;
    const fit = Math.max(least, Math.min(40, room / matrix.columns));
    const h = matrix.row === "t" || matrix.row === "s" || matrix.rows === 1 ? 22 : 8;
    size = { w: fit * zoom, h: Math.min(34, Math.max(h, slanted ? Math.min(fit, 30) : 0)) * (matrix.rows > 64 ? zoom : 1) };
    space.style.width = `${gutter + matrix.columns * size.w + 2}px`;
    space.style.height = `${top + matrix.rows * size.h + 2}px`;
  };

  const draw = () => {
    const [width, height] = [scroller.clientWidth, Math.min(scroller.clientHeight, top + matrix.rows * size.h + 2)];
    const ratio = window.devicePixelRatio || 1;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const ctx = canvas.getContext("2d");
    ctx.scale(ratio, ratio);
    ctx.font = "12px system-ui, sans-serif";
    const [x0, y0] = [gutter - scroller.scrollLeft, top - scroller.scrollTop];
    const first = { i: Math.max(0, Math.floor(-y0 / size.h + top / size.h)), j: Math.max(0, Math.floor((gutter - x0) / size.w)) };
    const last = { i: Math.min(matrix.rows, Math.ceil((height - y0) / size.h)), j: Math.min(matrix.columns, Math.ceil((width - x0) / size.w)) };
    ctx.save();
    ctx.beginPath();
    ctx.rect(gutter, top, width, height);
    ctx.clip();
    const value = (i, j) => matrix.shown(first.i + i, first.j + j);
    const [rows, columns] = [last.i - first.i, last.j - first.j];
    if (rows > 0 && columns > 0) {
      paintAll(ctx, rows, columns, value, matrix.scale, x0 + first.j * size.w, y0 + first.i * size.h, size.w, size.h);
    }
    if (over) outline(ctx, x0 + over.j * size.w, y0 + over.i * size.h, size);
    ctx.restore();
    labels(ctx, matrix, { gutter, top, x0, y0, size, first, last, slanted });
  };

  const place = (look = true) => {
    cell.style.left = `${gutter + at.j * size.w}px`;
    cell.style.top = `${top + at.i * size.h}px`;
    cell.style.width = `${Math.max(6, size.w)}px`;
    cell.style.height = `${Math.max(6, size.h)}px`;
    line.setAttribute("aria-rowindex", at.i + 1);
    cell.setAttribute("aria-colindex", at.j + 1);
    const text = sentence(matrix, at);
    cell.setAttribute("aria-label", text);
    reading.textContent = text;
    if (!look) return;
    const [x, y] = [at.j * size.w, at.i * size.h];
    const room = { w: scroller.clientWidth - gutter - size.w, h: scroller.clientHeight - top - size.h };
    if (x < scroller.scrollLeft) scroller.scrollLeft = x;
    if (x > scroller.scrollLeft + room.w) scroller.scrollLeft = x - room.w;
    if (y < scroller.scrollTop) scroller.scrollTop = y;
    if (y > scroller.scrollTop + room.h) scroller.scrollTop = y - room.h;
  };

  const layout = () => {
    measure();
    draw();
    place();
  };
  const open = () => {
    remember();
    location.hash = address(name, matrix.at(at.i, at.j));
  };
  const move = (i, j) => {
    at.i = Math.max(0, Math.min(matrix.rows - 1, i));
    at.j = Math.max(0, Math.min(matrix.columns - 1, j));
    place();
    draw();
    announce(sentence(matrix, at));
  };
  const under = (event) => {
    const box = scroller.getBoundingClientRect();
    const x = event.clientX - box.left - scroller.clientLeft;
    const y = event.clientY - box.top - scroller.clientTop;
    const j = Math.floor((x + scroller.scrollLeft - gutter) / size.w);
    const i = Math.floor((y + scroller.scrollTop - top) / size.h);
    const inside = x >= gutter && y >= top && i < matrix.rows && j < matrix.columns;
    return inside && i >= 0 && j >= 0 ? { i, j } : null;
  };
  const turn = (by) => {
    if (!matrix.outer) return;
    const n = ((fixed[matrix.outer] ?? 0) + by + matrix.outers) % matrix.outers;
    chooseOuter(n);
  };
  const chooseOuter = (n) => {
    fixed[matrix.outer] = n;
    matrix = matrixOf(name, fixed);
    for (const button of outers.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(Number(button.value) === n));
    }
    layout();
    announce(sentence(matrix, at));
  };
  const enlarge = (by) => {
    zoom = Math.max(1, Math.min(8, zoom * by));
    layout();
  };

  const keys = {
    ArrowLeft: () => move(at.i, at.j - 1),
    ArrowRight: () => move(at.i, at.j + 1),
    ArrowUp: () => move(at.i - 1, at.j),
    ArrowDown: () => move(at.i + 1, at.j),
    Home: (event) => move(event.ctrlKey ? 0 : at.i, 0),
    End: (event) => move(event.ctrlKey ? matrix.rows - 1 : at.i, matrix.columns - 1),
    PageDown: () => turn(1),
    PageUp: () => turn(-1),
    Enter: open,
    " ": open,
    "+": () => enlarge(2),
    "-": () => enlarge(0.5),
  };
  scroller.addEventListener("keydown", (event) => {
    const key = keys[event.key];
    if (!key || event.altKey || event.metaKey) return;
    event.preventDefault();
    key(event);
  });
  scroller.addEventListener("pointermove", (event) => {
    over = under(event);
    draw();
    reading.textContent = sentence(matrix, over ?? at);
  });
  scroller.addEventListener("pointerleave", () => {
    over = null;
    draw();
    reading.textContent = sentence(matrix, at);
  });
  scroller.addEventListener("click", (event) => {
    const found = under(event);
    if (!found) return;
    move(found.i, found.j);
    open();
  });
  scroller.addEventListener("scroll", () => requestAnimationFrame(draw));

  const outers = make("div", { class: "outers", role: "group", "aria-label": `${contents.letters[matrix.outer] ?? ""} ${matrix.outer}` },
    ...(matrix.outer ? Array.from({ length: matrix.outers }, (_, n) =>
      make("button", { type: "button", value: n, "aria-pressed": String(n === (fixed[matrix.outer] ?? 0)), onclick: () => chooseOuter(n) }, `${contents.letters[matrix.outer]} ${n}`),
    ) : []),
  );
  const tools = make("div", { class: "tools" },
    matrix.outer ? outers : "",
    make("div", { class: "outers" },
      make("button", { type: "button", onclick: () => enlarge(0.5), "aria-label": "Narrower cells" }, "−"),
      make("button", { type: "button", onclick: () => enlarge(2), "aria-label": "Wider cells" }, "+"),
    ),
  );
  redraw = layout;
  remember = () => history.replaceState(null, "", `#${address(name, matrix.at(at.i, at.j))}&map`);
  return make("section", { class: "map", "aria-label": "Heat map" }, tools, scroller, reading, scaleBar(matrix.scale));
}

let redraw = () => {}; // what the view on show does when its size changes
let remember = () => {}; // and what it does to find its place again

function outline(ctx, x, y, { w, h }) {
  ctx.lineWidth = 3;
  ctx.strokeStyle = dark ? "#000" : "#fff";
  ctx.strokeRect(x, y, w, h);
  ctx.lineWidth = 1.2;
  ctx.strokeStyle = inkFor();
  ctx.strokeRect(x, y, w, h);
}

// A number and where it stands, for the eye and for a screen reader.
function sentence(matrix, { i, j }) {
  const index = matrix.at(i, j);
  const tokens = [["t", i, matrix.row], ["s", j, matrix.column]]
    .filter(([letter, , own]) => own === letter)
    .map(([letter, n]) => `${letter} is ${tokenAt(n)}`);
  const x = matrix.value(i, j);
  const what = said(x) + (matrix.masked(i, j) ? ", masked" : "");
  const beyond = Number.isFinite(x) && Math.abs(x) > matrix.scale.limit * (1 + 1e-6) ? ", beyond the scale" : "";
  const text = matrix.name === "logits" || matrix.column === "v" ? `, ${textOf(index.at(-1))}` : "";
  return `${address(matrix.name, index)} = ${what}${beyond}${text}${tokens.length ? `; ${tokens.join(", ")}` : ""}`;
}

function labels(ctx, matrix, { gutter, top, x0, y0, size, first, last, slanted }) {
  ctx.fillStyle = inkFor();
  ctx.textBaseline = "middle";
  ctx.textAlign = "right";
  const every_ = (step) => Math.max(1, Math.ceil(16 / step));
  const rows = every_(size.h);
  for (let i = first.i; i < last.i; i++) {
    const y = y0 + (i + 0.5) * size.h;
    if (i % rows === 0 && y > top) ctx.fillText(labelOf(matrix.row, i), gutter - 6, y, gutter - 8);
  }
  ctx.textAlign = slanted ? "left" : "center";
  const columns = slanted ? 1 : Math.max(1, 2 ** Math.ceil(Math.log2(34 / size.w)));
  for (let j = first.j; j < last.j; j++) {
    if (j % columns) continue;
    const x = x0 + (j + 0.5) * size.w;
    if (x < gutter) continue;
    if (!slanted) {
      ctx.fillText(labelOf(matrix.column, j), x, top - 9);
      continue;
    }
    ctx.save();
    ctx.translate(x, top - 5);
    ctx.rotate(-Math.PI / 3.4);
    ctx.fillText(labelOf(matrix.column, j), 0, 0, 84);
    ctx.restore();
  }
}

function scaleBar(scale) {
  const canvas = make("canvas", { width: 200, height: 12, "aria-hidden": "true" });
  const low = scale.kind === "probability" ? 0 : -scale.limit;
  const ctx = canvas.getContext("2d");
  for (let i = 0; i < 100; i++) {
    paint(ctx, low + ((scale.limit - low) * (i + 0.5)) / 100, scale, 2 * i, 0, 2, 12);
  }
  return make("p", { class: "scale" }, said(low), canvas, said(scale.limit),
    make("span", {}, scale.kind === "probability" ? " probability" : " beyond: marked + or −"));
}
