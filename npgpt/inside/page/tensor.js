// The second depth: one array, its formula, its heat map, what it is made of.

function tensorView({ name, letters }) {
  return make(
    "article",
    { class: "tensor" },
    make("h1", { tabindex: -1 }, name),
    make("p", { class: "meaning" }, meaningOf(name)),
    taps.has(name)
      ? make(
          "p",
          { class: "formula" },
          make(
            "code",
            {},
            `${shortName(name)}[${recipeOf(name).letters}] = ${written(recipeOf(name).node)}`,
          ),
        )
      : "",
    related(name),
    heatMap(name, letters),
    histogram(scaleOf(name), stored(name).values),
    taps.has(name) ? codeOf(recipeOf(name).function) : "",
  );
}

// The sentence of a recipe, of no number in particular.
function meaningOf(name, letters) {
  if (!taps.has(name)) {
    return name in contents.parameters
      ? "A parameter: it was learned in training."
      : "Given with the text.";
  }
  const word = (letter) => {
    if (letters === undefined)
      return (
        { v: "a token v", c: "c", d: "d", j: "j", m: "m", h: "h" }[letter] ??
        `token ${letter}`
      );
    if (letter === "t" || letter === "s") return tokenAt(letters[letter]);
    return letter === "v" ? textOf(letters.v) : String(letters[letter]);
  };
  return recipeOf(name).meaning.replace(/\{(\w)\}/g, (_, letter) => word(letter));
}

// What it is made of, and what is made of it.
function related(name) {
  const list = (title, names) =>
    names.length
      ? [
          make("dt", {}, title),
          make(
            "dd",
            {},
            ...names.map((one) =>
              isHere(one) && !(one in GIVEN) ? link(one, one) : make("span", {}, one),
            ),
          ),
        ]
      : [];
  const from = taps.has(name) ? [...new Set(Object.values(taps.get(name).names))] : [];
  const to = contents.taps
    .filter((tap) => Object.values(tap.names).includes(name))
    .map((tap) => tap.name);
  return make(
    "dl",
    { class: "related" },
    ...list("made of", from),
    ...list("read by", to),
  );
}

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
  const tokens = [
    ["t", i, matrix.row],
    ["s", j, matrix.column],
  ]
    .filter(([letter, , own]) => own === letter)
    .map(([letter, n]) => `${letter} is ${tokenAt(n)}`);
  const x = matrix.value(i, j);
  const what = said(x) + (matrix.masked(i, j) ? ", masked" : "");
  const beyond =
    Number.isFinite(x) && Math.abs(x) > matrix.scale.limit * (1 + 1e-6)
      ? ", beyond the scale"
      : "";
  const text =
    matrix.name === "logits" || matrix.column === "v"
      ? `, ${textOf(index.at(-1))}`
      : "";
  return `${address(matrix.name, index)} = ${what}${beyond}${text}${tokens.length ? `; ${tokens.join(", ")}` : ""}`;
}

// Labels of rows and columns, as many as there is room for.
function labels(ctx, { matrix, gutter, top, size, slanted }, { x0, y0, first, last }) {
  ctx.font = "12px system-ui, sans-serif";
  ctx.fillStyle = inkFor();
  ctx.textBaseline = "middle";
  ctx.textAlign = "right";
  const rows = Math.max(1, Math.ceil(16 / size.h)); // from label to label
  for (let i = first.i; i < last.i; i++) {
    const y = y0 + (i + 0.5) * size.h;
    if (i % rows === 0 && y > top)
      ctx.fillText(labelOf(matrix.row, i), gutter - 6, y, gutter - 8);
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
  return make(
    "p",
    { class: "scale" },
    said(low),
    canvas,
    said(scale.limit),
    make(
      "span",
      {},
      scale.kind === "probability" ? " probability" : " beyond: marked + or −",
    ),
  );
}
