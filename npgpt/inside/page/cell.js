// The third depth: one number, from what it is made, computed here and compared.

const NAMED = 8; // terms by name; the others are one row
const EPSILON = 2 ** -23; // of float32

// All that is to say of a number; `missing` where the page lacks what it is made of.
function explain(name, index) {
  const value = read(name, index);
  const itself = { name, index, value };
  const one = { address: address(name, index), name, index, value, meaning: "", operands: [itself], terms: [{ value, operands: [itself] }] };
  if (!taps.has(name)) {
    const given = { token: `The token ${contents.tokens[index[1]]?.shown} of the prompt.`, position: "The place of the token in its text.", sees: "Whether the one token may look at the other." };
    one.meaning = given[name] ?? "A parameter: it was learned in training.";
    return { ...one, formula: name, filled: one.address, recomputed: value, tolerance: 0, agrees: true, given: true, ulps: 0 };
  }
  const recipe = recipeOf(name);
  const letters = Object.fromEntries(recipe.letters.map((letter, i) => [letter, index[i]]));
  one.formula = written(recipe.node);
  one.filled = written(recipe.node, letters);
  one.meaning = meaningOf(name, letters);
  one.function = recipe.function;
  one.source = recipe.source;
  try {
    const place = placeOf(name);
    one.terms = termsOf(recipe.node, letters, place);
    one.operands = operandsOf(recipe.node, letters, place);
    one.numbers = written(recipe.node, letters, 0, place);
    one.recomputed = exactSum(one.terms.map((term) => term.value));
    const rounding = EPSILON * (8 + one.terms.length / 16);
    one.tolerance = rounding * massOf(recipe.node, letters, place);
  } catch (error) {
    if (!(error instanceof Missing)) throw error;
    return { ...one, missing: error.message, terms: [], operands: [] };
  }
  const distance = Math.abs(value - one.recomputed);
  one.agrees = value === one.recomputed || distance <= one.tolerance;
  one.ulps = value === one.recomputed ? 0 : distance / unit(value);
  return one;
}

// The distance of a float32 number to the next one.
function unit(x) {
  const size = Math.max(Math.abs(x), 1e-37);
  return 2 ** (Math.max(Math.floor(Math.log2(size)), -126) - 23);
}

// Whether a number can be opened: all that it is made of is here.
function canOpen(name, index) {
  if (name in GIVEN || !taps.has(name)) return true;
  const recipe = recipeOf(name);
  const letters = Object.fromEntries(recipe.letters.map((letter, i) => [letter, index[i]]));
  try {
    operandsOf(recipe.node, letters, placeOf(name));
    return true;
  } catch (error) {
    if (!(error instanceof Missing)) throw error;
    return false;
  }
}

function cellView({ name, index }) {
  const one = explain(name, index);
  return make("article", { class: "cell" },
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
  return make("section", { "aria-label": "Formula" },
    make("p", { class: "formula" }, make("code", {}, one.formula)),
    make("p", { class: "formula filled" }, make("code", {}, one.filled)),
    one.missing ? "" : make("p", { class: "formula numbers" }, make("code", {}, `${one.numbers} = ${said(one.recomputed)}`)),
  );
}

function absent(one) {
  return make("p", { class: "note" }, `This page does not hold ${one.missing}, which this number is made of. `,
    make("code", {}, `npgpt explain … --weights all`), " writes a page that does, ",
    make("code", {}, `--weights cone --cell "${one.address}"`), " a small one about this number.");
}

function ends(one) {
  return make("p", { class: "note" }, `Here the chain ends: ${one.value === undefined ? "the number is not in this page" : "nothing computed this number"}.`);
}

// The terms: a strip of all, a table of the largest, and the total beside the number.
function sum(one) {
  const isBias = (term) => term.operands.length === 1 && term.operands[0].name.endsWith(".bias");
  const biases = one.terms.length > 2 ? one.terms.filter(isBias) : [];
  const terms = ranked(one.terms.filter((term) => !biases.includes(term)));
  const named = terms.length > NAMED + 1 ? terms.slice(0, NAMED) : terms;
  const others = terms.slice(named.length);
  const most = Math.max(...one.terms.map((term) => Math.abs(term.value)));
  const line = (content, value, kind) => ({ kind, cells: [content, said(value), kind === "total" ? "" : barOf(value, most)] });
  const rows = named.map((term) => line(product(term), term.value));
  if (others.length) {
    const value = exactSum(others.map((term) => term.value));
    rows.push(line(`${others.length.toLocaleString("en")} other terms`, value, "others"));
  }
  for (const term of biases) rows.push(line(product(term), term.value, "bias"));
  rows.push(line("total, in float64", one.recomputed, "total"));
  rows.push(line("what the model computed", one.value, "total"));
  const distance = Number.isFinite(one.value) ? one.value - one.recomputed : 0;
  const verdict = one.agrees ? "rounding" : "more than rounding explains";
  rows.push({ kind: one.agrees ? "total good" : "total bad", cells: ["difference", said(distance), `${said(Number(one.ulps.toPrecision(2)))} units in the last place: ${verdict}`] });
  return make("section", { "aria-label": "The sum" },
    terms.length > 2 ? strip(terms) : "",
    table(terms.length === 1 ? "What it is made of" : `${one.terms.length.toLocaleString("en")} terms, the largest first`, ["term", "value", "share"], rows, [1]),
  );
}

// The operands of a term, each with its value, each to be opened.
function product(term) {
  const many = term.operands.length > NAMED;
  const shown = many ? ranked(term.operands, term.value).slice(0, NAMED) : term.operands;
  const span = make("span", { class: "product" });
  const factor = term.value / term.operands.reduce((all, one) => all * one.value, 1);
  if (term.plain && Number.isFinite(factor) && Math.abs(factor - 1) > 1e-9) {
    span.append(`${said(factor)} · `); // a constant of the formula
  }
  shown.forEach((operand, i) => {
    const text = address(operand.name, operand.index);
    const opens = canOpen(operand.name, operand.index) && operand.name !== "sees";
    if (i) span.append(term.plain ? " · " : ", ");
    span.append(make("span", { class: "operand" }, opens ? link(text, text) : make("span", { title: "what it is made of is not in this page" }, text), make("span", { class: "number" }, ` ${said(operand.value)}`)));
  });
  if (term.operands.length > shown.length) {
    span.append(` and ${term.operands.length - shown.length} more`);
  }
  return span;
}

function barOf(value, most) {
  const share = most ? (50 * Math.abs(value)) / most : 0;
  return makeSvg("svg", { viewBox: "0 0 104 12", class: "bar", "aria-hidden": "true", preserveAspectRatio: "none" },
    makeSvg("line", { x1: 52, x2: 52, y1: 0, y2: 12, class: "zero" }),
    makeSvg("rect", { x: value < 0 ? 52 - share : 52, y: 1.5, height: 9, width: Math.max(0.3, share), class: value < 0 ? "less" : "more" }),
  );
}

// Every term as a bar, the largest first, and the running sum as a line.
function strip(terms) {
  const width = 600;
  let running = 0;
  const sums = terms.map((term) => (running += term.value));
  if (!Number.isFinite(running)) return "";
  const scaled = (values, middle, half) => {
    const most = Math.max(...values.map(Math.abs)) || 1;
    return (x) => middle - (x / most) * half;
  };
  const w = width / terms.length;
  const text = `Above, all ${terms.length.toLocaleString("en")} terms as bars, the largest first; below, their running sum, which ends at ${said(running)}.`;
  const svg = makeSvg("svg", { viewBox: `0 0 ${width} 120`, class: "strip", role: "img", preserveAspectRatio: "none" },
    makeSvg("title", {}, text));
  const [bar, level] = [scaled(terms.map((term) => term.value), 34, 30), scaled(sums, 94, 22)];
  const shape = (wanted) => terms.map(({ value }, i) => (value < 0) === wanted
    ? `M${(i * w).toFixed(2)} 34 h${(w * 0.8).toFixed(2)} V${bar(value).toFixed(2)} h${(-w * 0.8).toFixed(2)} z` : "").join("");
  svg.append(
    makeSvg("path", { d: `M0 0${shape(false)}`, class: "more" }),
    makeSvg("path", { d: `M0 0${shape(true)}`, class: "less" }),
    makeSvg("path", { d: `M0 34 H${width} M0 94 H${width}`, class: "zero" }),
    makeSvg("path", { d: sums.map((x, i) => `${i ? "L" : "M0 94 L"}${((i + 0.4) * w).toFixed(2)} ${level(x).toFixed(2)}`).join(" "), class: "running" }),
  );
  return make("figure", {}, svg, make("figcaption", {}, text));
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
  const boxes = list.map(([name, operands]) => make("li", {}, miniature(name, operands), link(shortName(name), name, { "aria-label": name })));
  return make("div", { class: "picture" },
    make("ul", { class: "sources" }, ...boxes),
    makeSvg("svg", { viewBox: "0 0 60 40", class: "into", "aria-hidden": "true" }, makeSvg("path", { d: "M2 20 H50 M42 12 L52 20 L42 28", class: "arrow" })),
    make("div", { class: "result", "aria-hidden": "true" }, said(one.value)),
  );
}

function miniature(name, operands) {
  const letters = lettersOf(name);
  const first = Object.fromEntries(letters.map((letter, i) => [letter, operands[0].index[i]]));
  const matrix = matrixOf(name, first);
  const canvas = make("canvas", { width: 240, height: 96, "aria-hidden": "true" });
  const ctx = canvas.getContext("2d");
  pooled(ctx, matrix, 0, canvas.width, canvas.height);
  const along = (letter) => operands.map((one) => (letter ? one.index[letters.indexOf(letter)] : 0));
  const [i, j] = [along(matrix.row), along(matrix.column)];
  const [h, w] = [canvas.height / matrix.rows, canvas.width / matrix.columns];
  const x = Math.min(...j) * w;
  const y = Math.min(...i) * h;
  const size = { w: Math.max(5, (Math.max(...j) + 1) * w - x), h: Math.max(5, (Math.max(...i) + 1) * h - y) };
  outline(ctx, Math.min(x, canvas.width - size.w), Math.min(y, canvas.height - size.h), size);
  return canvas;
}

function code(one) {
  const lines = [];
  if (one.source) lines.push(make("p", { class: "source" }, make("code", {}, one.source[1]), make("span", {}, ` ${one.source[0]}`)));
  else if (one.function) lines.push(make("p", { class: "source" }, `computed inside ${one.function}`));
  const doc = contents.functions[one.function]?.doc;
  if (doc) lines.push(make("p", { class: "doc" }, doc));
  return make("section", { "aria-label": "Code" }, make("h2", {}, "Where it is computed"), ...lines, codeOf(one.function));
}

function readers(name, index) {
  const to = contents.taps.filter((tap) => Object.values(tap.names).includes(name)).map((tap) => tap.name);
  if (!to.length) return "";
  return make("p", {}, "Read by ", ...to.flatMap((one, i) => [i ? ", " : "", isHere(one) ? link(one, one) : one]), ".");
}
