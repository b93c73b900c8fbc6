// The sum: all terms as a strip, the largest by name, the total beside the number.

const NAMED = 8; // terms by name; the others are one row

// The terms: a strip of all, a table of the largest, and the total beside the number.
function sum(one) {
  const isBias = (term) =>
    term.operands.length === 1 && term.operands[0].name.endsWith(".bias");
  const biases = one.terms.length > 2 ? one.terms.filter(isBias) : [];
  const terms = ranked(one.terms.filter((term) => !biases.includes(term)));
  const named = terms.length > NAMED + 1 ? terms.slice(0, NAMED) : terms;
  const others = terms.slice(named.length);
  const most = Math.max(...one.terms.map((term) => Math.abs(term.value)));
  const line = (content, value, kind) => ({
    kind,
    cells: [content, said(value), kind === "total" ? "" : barOf(value, most)],
  });
  const rows = named.map((term) => line(product(term), term.value));
  if (others.length) {
    const value = exactSum(others.map((term) => term.value));
    rows.push(
      line(`${others.length.toLocaleString("en")} other terms`, value, "others"),
    );
  }
  for (const term of biases) rows.push(line(product(term), term.value, "bias"));
  rows.push(line("total, in float64", one.recomputed, "total"));
  rows.push(line("what the model computed", one.value, "total"));
  const distance = Number.isFinite(one.value) ? one.value - one.recomputed : 0;
  const ulps = said(Number(one.ulps.toPrecision(2)));
  const verdict = one.agrees ? "rounding" : "more than rounding explains";
  const text = `${ulps} units in the last place: ${verdict}`;
  rows.push({
    kind: one.agrees ? "total good" : "total bad",
    cells: ["difference", said(distance), distance === 0 ? "none at all" : text],
  });
  return make(
    "section",
    { "aria-label": "The sum" },
    terms.length > 2 ? strip(terms) : "",
    table(
      terms.length === 1
        ? "What it is made of"
        : `${one.terms.length.toLocaleString("en")} terms, the largest first`,
      ["term", "value", "share"],
      rows,
      [1],
    ),
  );
}

// The operands of a term, each with its value, each to be opened.
function product(term) {
  const many = term.operands.length > NAMED;
  const shown = many
    ? ranked(term.operands, term.value).slice(0, NAMED)
    : term.operands;
  const span = make("span", { class: "product" });
  const factor = term.value / term.operands.reduce((all, one) => all * one.value, 1);
  if (term.plain && Number.isFinite(factor) && Math.abs(factor - 1) > 1e-9) {
    span.append(`${said(factor)} · `); // a constant of the formula
  }
  shown.forEach((operand, i) => {
    const text = address(operand.name, operand.index);
    const opens = canOpen(operand.name, operand.index) && operand.name !== "sees";
    const constant = operand.index.length === 0 || operand.name === "sees";
    const title = constant ? false : "what it is made of is not in this page";
    if (i) span.append(term.plain ? " · " : ", ");
    span.append(
      make(
        "span",
        { class: "operand" },
        opens ? link(text, text) : make("span", { title }, text),
        make("span", { class: "number" }, ` ${said(operand.value)}`),
      ),
    );
  });
  if (term.operands.length > shown.length) {
    span.append(` and ${term.operands.length - shown.length} more`);
  }
  return span;
}

function barOf(value, most) {
  const share = most ? (50 * Math.abs(value)) / most : 0;
  return makeSvg(
    "svg",
    {
      viewBox: "0 0 104 12",
      class: "bar",
      "aria-hidden": "true",
      preserveAspectRatio: "none",
    },
    makeSvg("line", { x1: 52, x2: 52, y1: 0, y2: 12, class: "zero" }),
    makeSvg("rect", {
      x: value < 0 ? 52 - share : 52,
      y: 1.5,
      height: 9,
      width: Math.max(0.3, share),
      class: value < 0 ? "less" : "more",
    }),
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
  const svg = makeSvg(
    "svg",
    {
      viewBox: `0 0 ${width} 120`,
      class: "strip",
      role: "img",
      preserveAspectRatio: "none",
    },
    makeSvg("title", {}, text),
  );
  const [bar, level] = [
    scaled(
      terms.map((term) => term.value),
      34,
      30,
    ),
    scaled(sums, 94, 22),
  ];
  const shape = (wanted) =>
    terms
      .map(({ value }, i) =>
        value < 0 === wanted
          ? `M${(i * w).toFixed(2)} 34 h${(w * 0.8).toFixed(2)} V${bar(value).toFixed(2)} h${(-w * 0.8).toFixed(2)} z`
          : "",
      )
      .join("");
  svg.append(
    makeSvg("path", { d: `M0 0${shape(false)}`, class: "more" }),
    makeSvg("path", { d: `M0 0${shape(true)}`, class: "less" }),
    makeSvg("path", { d: `M0 34 H${width} M0 94 H${width}`, class: "zero" }),
    makeSvg("path", {
      d: sums
        .map(
          (x, i) =>
            `${i ? "L" : "M0 94 L"}${((i + 0.4) * w).toFixed(2)} ${level(x).toFixed(2)}`,
        )
        .join(" "),
      class: "running",
    }),
  );
  return make("figure", {}, svg, make("figcaption", {}, text));
}
