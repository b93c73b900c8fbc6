// The first depth: every array of the reading, in the order of the pass.

const PARTS = [
  // of a block: a tap, and the place where a wide screen has it
  ["ln_1", "norm"],
  ["attn.c_attn", "joined"],
  ["attn.q", "q"],
  ["attn.k", "k"],
  ["attn.v", "v"],
  ["attn.scores", "scores"],
  ["attn.weights", "weights"],
  ["attn.context", "context"],
  ["attn.out", "out"],
  ["resid_mid", "middle"],
  ["ln_2", "norm2"],
  ["mlp.pre", "pre"],
  ["mlp.act", "act"],
  ["mlp.out", "mlp"],
];

function modelView({ unknown }) {
  const last = contents.layers - 1;
  const flow = make("div", { id: "flow" });
  flow.append(
    part(
      "Embedding",
      [
        ["wte", "norm"],
        ["wpe", "joined"],
      ],
      "two",
    ),
    ...Array.from({ length: contents.layers }, (_, i) =>
      part(
        `Layer ${i}`,
        [
          [i ? `h.${i - 1}.resid` : "embed", "stream"],
          ...PARTS.map(([name, place]) => [`h.${i}.${name}`, place]),
        ],
        "block",
      ),
    ),
    part(
      "Output",
      [
        [last < 0 ? "embed" : `h.${last}.resid`, "stream"],
        ["ln_f", "norm"],
        ["logits", "joined"],
      ],
      "two",
    ),
  );
  const arrows = makeSvg("svg", { id: "arrows", "aria-hidden": "true" });
  flow.append(arrows);
  return make(
    "div",
    {},
    make("h1", {}, "Inside a language model"),
    unknown
      ? make(
          "p",
          { class: "note", role: "status" },
          `There is no ${unknown} in this page.`,
        )
      : "",
    intro(),
    make("h2", {}, "What it reads"),
    make(
      "ol",
      { class: "tokens" },
      ...contents.tokens.map(({ id, label }) =>
        make(
          "li",
          {},
          make("span", { class: "token" }, label),
          make("span", { class: "id" }, String(id)),
        ),
      ),
    ),
    make("h2", {}, "What it computes"),
    legend(),
    flow,
    nextView(),
  );
}

function intro() {
  const n = contents.tokens.length;
  return make(
    "p",
    { class: "intro" },
    make("q", {}, contents.prompt),
    ` as ${contents.model} reads it: ${n} token${n === 1 ? "" : "s"}, ${contents.layers} layers. `,
    "Each picture is an array of numbers; open it, then one of its numbers: the page ",
    "computes that number anew from those it is made of, which can be opened in turn, ",
    "down to the tokens.",
  );
}

function legend() {
  const sample = (kind, low, high, text) => {
    const canvas = make("canvas", { width: 120, height: 12, "aria-hidden": "true" });
    const ctx = canvas.getContext("2d");
    const scale = { kind, limit: 1 };
    for (let i = 0; i < 60; i++) {
      paint(ctx, low + ((high - low) * (i + 0.5)) / 60, scale, 2 * i, 0, 2, 12);
    }
    return make("li", {}, canvas, text);
  };
  const pattern = (x, text) => {
    const canvas = make("canvas", { width: 22, height: 16, "aria-hidden": "true" });
    paint(canvas.getContext("2d"), x, { kind: "value", limit: 1 }, 0, 0, 22, 16);
    return make("li", {}, canvas, text);
  };
  return make(
    "ul",
    { class: "legend" },
    sample("value", -1, 1, "a number, − to +, ends at 3 root mean squares"),
    sample("probability", 0, 1, "a probability, 0 to 1"),
    sample("parameter", -1, 1, "a parameter"),
    pattern(2, "beyond"),
    pattern(-Infinity, "masked"),
    pattern(undefined, "not in this page"),
  );
}

function part(title, names, kind) {
  const shown = names.filter(([name]) => taps.has(name));
  return make(
    "section",
    { class: "part", "aria-label": title },
    make("h3", {}, title),
    make(
      "ul",
      { class: `tiles ${kind}` },
      ...shown.map(([name, place]) => tile(name, place)),
    ),
  );
}

// One array: its picture, what it reads, and the parameters and sums on its way.
function tile(name, place) {
  const tap = taps.get(name);
  const reads = [...new Set(Object.values(tap.names))];
  const extras = reads.filter((one) => one in contents.parameters || isAside(one));
  const from = reads.filter((one) => taps.has(one) && !extras.includes(one));
  const canvas = make("canvas", {
    width: 240,
    height: 96,
    "data-name": name,
    "aria-hidden": "true",
  });
  const shape = lettersOf(name)
    .filter((letter) => letter !== "b")
    .join(" × ");
  return make(
    "li",
    { class: `tile place-${place}`, "data-tile": name },
    link("", name, { class: "open", "aria-label": `${name}, ${shape}` }),
    canvas,
    make("span", { class: "name" }, shortName(name)),
    make("span", { class: "shape" }, shape),
    from.length
      ? make("span", { class: "from" }, `← ${from.map(shortName).join(", ")}`)
      : "",
    make(
      "span",
      { class: "extras" },
      ...extras.map((one) =>
        link(one.split(".").at(-1), one, { title: one, "aria-label": one }),
      ),
    ),
  );
}

// A number on the way to an array that has a picture of its own.
function isAside(name) {
  return taps.get(name)?.virtual && !PARTS.some(([one]) => one === shortName(name));
}

function drawModel() {
  for (const canvas of document.querySelectorAll("canvas[data-name]")) {
    if (isHere(canvas.dataset.name)) thumbnail(canvas, canvas.dataset.name);
  }
  drawArrows();
}

// An arrow wherever one array is made of another; they follow the tiles.
function drawArrows() {
  const svg = document.getElementById("arrows");
  if (!svg) return;
  const flow = svg.parentElement.getBoundingClientRect();
  const box = (one) => {
    const picture = one.querySelector("canvas").getBoundingClientRect();
    return {
      left: picture.left - flow.left,
      right: picture.right - flow.left,
      top: picture.top - flow.top,
      bottom: one.getBoundingClientRect().bottom - flow.top,
      x: (picture.left + picture.right) / 2 - flow.left,
      y: (picture.top + picture.bottom) / 2 - flow.top,
    };
  };
  const tiles = new Map(
    [...document.querySelectorAll("[data-tile]")].map((one) => [
      one.dataset.tile,
      box(one),
    ]),
  );
  svg.setAttribute("viewBox", `0 0 ${flow.width} ${flow.height}`);
  svg.replaceChildren(head());
  for (const [name, to] of tiles) {
    for (const operand of new Set(Object.values(taps.get(name).names))) {
      const from = tiles.get(operand);
      if (!from) continue;
      svg.append(
        makeSvg("path", {
          d: route(from, to),
          "marker-end": "url(#head)",
          "data-from": operand,
          "data-to": name,
        }),
      );
    }
  }
}

function head() {
  return makeSvg(
    "defs",
    {},
    makeSvg(
      "marker",
      {
        id: "head",
        viewBox: "0 0 8 8",
        refX: 7,
        refY: 4,
        markerWidth: 7,
        markerHeight: 7,
        orient: "auto",
      },
      makeSvg("path", { d: "M0 0 L8 4 L0 8 z" }),
    ),
  );
}

// To the right a curve, or along below and up; straight down a line; back to the left around, from below.
function route(from, to) {
  if (to.left > from.right + 60 && from.y > to.y + 20) {
    const turn = to.left - 20; // up between the columns
    return `M${from.right} ${from.y} H${turn - 8} q8 0 8 -8 V${to.y + 8} q0 -8 8 -8 H${to.left - 2}`;
  }
  if (to.left > from.right - 2) {
    const middle = (from.right + to.left) / 2;
    return `M${from.right} ${from.y} C${middle} ${from.y} ${middle} ${to.y} ${to.left - 2} ${to.y}`;
  }
  if (Math.abs(to.x - from.x) < 12) return `M${from.x} ${from.bottom} V${to.top - 3}`;
  const turn = to.top - 12;
  const end = to.x + 16;
  return `M${from.x} ${from.bottom} V${turn - 8} q0 8 -8 8 H${end + 8} q-8 0 -8 8 V${to.top - 3}`;
}

// What an array is made of, and what is made of it, stands out under the pointer.
function follow(event) {
  const near = event.target.closest?.("[data-tile]");
  const name = event.type.endsWith("out") ? undefined : near?.dataset.tile;
  for (const path of document.querySelectorAll("#arrows path[data-to]")) {
    const touches = name && (path.dataset.from === name || path.dataset.to === name);
    path.classList.toggle("near", Boolean(touches));
  }
}
