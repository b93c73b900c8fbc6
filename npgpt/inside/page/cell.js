// The third depth: one number, from what it is made, computed here and compared.

function cellView({ name, index }) {
  const one = explain(name, index);
  return make(
    "article",
    { class: "cell" },
    make("h1", { tabindex: -1 }, one.address),
    make("p", { class: "value" }, "= ", make("strong", {}, said(one.value))),
    make("p", { class: "meaning" }, one.meaning),
    one.given || one.missing ? "" : picture(one),
    one.given ? "" : formulas(one),
    one.missing ? absent(one) : one.given ? ends(one) : sum(one),
    one.given ? readers(name, index) : code(one),
  );
}

function formulas(one) {
  return make(
    "section",
    { "aria-label": "Formula" },
    make("p", { class: "formula" }, make("code", {}, one.formula)),
    make("p", { class: "formula filled" }, make("code", {}, one.filled)),
    one.missing
      ? ""
      : make(
          "p",
          { class: "formula numbers" },
          make("code", {}, `${one.numbers} = ${said(one.recomputed)}`),
        ),
  );
}

function absent(one) {
  return make(
    "p",
    { class: "note" },
    `This page does not hold ${one.missing}, which this number is made of. `,
    make("code", {}, `npgpt explain … --weights all`),
    " writes a page that does, ",
    make("code", {}, `--weights cone --cell "${one.address}"`),
    " a small one about this number.",
  );
}

function ends(one) {
  return make(
    "p",
    { class: "note" },
    `Here the chain ends: ${one.value === undefined ? "the number is not in this page" : "nothing computed this number"}.`,
  );
}

// Where the operands lie in their arrays, and arrows from there to the number.
function picture(one) {
  const byName = new Map();
  for (const operand of one.operands) {
    if (operand.name in GIVEN || !stored(operand.name)) continue;
    byName.set(operand.name, [...(byName.get(operand.name) ?? []), operand]);
  }
  const list = [...byName];
  if (!list.length) return "";
  const boxes = list.map(([name, operands]) =>
    make(
      "li",
      {},
      miniature(name, operands),
      link(shortName(name), name, { "aria-label": name }),
    ),
  );
  return make(
    "div",
    { class: "picture" },
    make("ul", { class: "sources" }, ...boxes),
    makeSvg(
      "svg",
      { viewBox: "0 0 60 40", class: "into", "aria-hidden": "true" },
      makeSvg("path", { d: "M2 20 H50 M42 12 L52 20 L42 28", class: "arrow" }),
    ),
    make("div", { class: "result", "aria-hidden": "true" }, said(one.value)),
  );
}

function miniature(name, operands) {
  const letters = lettersOf(name);
  const first = Object.fromEntries(
    letters.map((letter, i) => [letter, operands[0].index[i]]),
  );
  const matrix = matrixOf(name, first);
  const canvas = make("canvas", { width: 240, height: 96, "aria-hidden": "true" });
  const ctx = canvas.getContext("2d");
  pooled(ctx, matrix, 0, canvas.width, canvas.height);
  const along = (letter) =>
    operands.map((one) => (letter ? one.index[letters.indexOf(letter)] : 0));
  const [i, j] = [along(matrix.row), along(matrix.column)];
  const [h, w] = [canvas.height / matrix.rows, canvas.width / matrix.columns];
  const x = Math.min(...j) * w;
  const y = Math.min(...i) * h;
  const size = {
    w: Math.max(5, (Math.max(...j) + 1) * w - x),
    h: Math.max(5, (Math.max(...i) + 1) * h - y),
  };
  outline(
    ctx,
    Math.min(x, canvas.width - size.w),
    Math.min(y, canvas.height - size.h),
    size,
  );
  return canvas;
}

function code(one) {
  const lines = [];
  if (one.source)
    lines.push(
      make(
        "p",
        { class: "source" },
        make("code", {}, one.source[1]),
        make("span", {}, ` ${one.source[0]}`),
      ),
    );
  else if (one.function)
    lines.push(make("p", { class: "source" }, `computed inside ${one.function}`));
  const doc = contents.functions[one.function]?.doc;
  if (doc) lines.push(make("p", { class: "doc" }, doc));
  return make(
    "section",
    { "aria-label": "Code" },
    make("h2", {}, "Where it is computed"),
    ...lines,
    codeOf(one.function),
  );
}

function readers(name, index) {
  const to = contents.taps
    .filter((tap) => Object.values(tap.names).includes(name))
    .map((tap) => tap.name);
  if (!to.length) return "";
  return make(
    "p",
    {},
    "Read by ",
    ...to.flatMap((one, i) => [i ? ", " : "", isHere(one) ? link(one, one) : one]),
    ".",
  );
}
