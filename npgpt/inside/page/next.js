// What comes next: the distribution after a token, and what rules make of it.

const SLIDERS = [
  ["temperature", "temperature", 0, 2, 0.01],
  ["top_k", "top-k", 0, 100, 1],
  ["top_p", "top-p", 0, 1, 0.01],
  ["min_p", "min-p", 0, 1, 0.01],
];
const SHOWN = 12; // tokens

const settings = { ...OFF };
let after = contents.tokens.length - 1; // the token that it is asked for

function logitsAt(t) {
  const { shape } = stored("logits");
  const z = Float32Array.from({ length: shape[1] }, (_, v) =>
    read("logits", [0, t, v]),
  );
  return Number.isNaN(z[0]) ? null : z; // undefined: not in this page
}

// The settings that an address has: next?t=3&top_k=5.
function takeSettings(text) {
  const asked = new URLSearchParams(text);
  const t = asked.get("t");
  const known = t !== null && contents.tokens[Number(t)] !== undefined;
  after = known ? Number(t) : contents.tokens.length - 1;
  for (const [name, , low, high] of SLIDERS) {
    const x = Number(asked.get(name) ?? OFF[name]);
    settings[name] = x >= low && x <= high ? x : OFF[name];
  }
}

function settingsText() {
  const asked = new URLSearchParams();
  if (after !== contents.tokens.length - 1) asked.set("t", after);
  for (const [name] of SLIDERS) {
    if (settings[name] !== OFF[name]) asked.set(name, settings[name]);
  }
  return String(asked);
}

function nextView() {
  const here = contents.tokens
    .map((_, t) => t)
    .filter((t) => read("logits", [0, t, 0]) !== undefined);
  const bars = make("div", { id: "bars" });
  const update = () => bars.replaceChildren(...distribution());
  const changed = () => {
    update();
    const text = settingsText();
    setHash(text ? `#next?${text}` : "#next");
  };
  const choose = make(
    "select",
    {
      id: "after",
      onchange: (event) => {
        after = Number(event.target.value);
        changed();
      },
    },
    ...here.map((t) => {
      const option = make("option", { value: t }, `${t} ${contents.tokens[t].shown}`);
      option.selected = t === after;
      return option;
    }),
  );
  update();
  return make(
    "section",
    { id: "next", "aria-labelledby": "next-title" },
    make("h2", { id: "next-title", tabindex: -1 }, "What comes next"),
    make(
      "div",
      { class: "sliders" },
      make("p", {}, make("label", { for: "after" }, "after token "), choose),
      ...SLIDERS.map((one) => slider(one, changed)),
      make(
        "p",
        {},
        make(
          "button",
          {
            type: "button",
            onclick: () => {
              Object.assign(settings, OFF);
              for (const [name] of SLIDERS) show(name);
              changed();
            },
          },
          "All off",
        ),
      ),
    ),
    bars,
  );
}

function slider([name, title, min, max, step], changed) {
  const input = make("input", {
    type: "range",
    id: name,
    min,
    max,
    step,
    value: settings[name],
  });
  const output = make("output", { for: name, id: `${name}-value` }, wordOf(name));
  input.addEventListener("input", () => {
    settings[name] = Number(input.value);
    show(name, output);
    changed();
  });
  return make("p", {}, make("label", { for: name }, title), input, output);
}

function show(name, output = document.getElementById(`${name}-value`)) {
  output.textContent = wordOf(name);
  const input = document.getElementById(name);
  if (input) input.value = settings[name];
}

function wordOf(name) {
  if (settings[name] === OFF[name]) return name === "temperature" ? "1" : "off";
  return String(settings[name]);
}

// Before and after the rules, of the best tokens and of all others together.
function distribution() {
  const z = logitsAt(after);
  if (!z) return [make("p", {}, "The logits of this token are not in this page.")];
  const before = probabilities(z);
  const left = chosen(z, settings);
  const now = probabilities(left);
  const best = Array.from(before.keys())
    .sort((a, b) => before[b] - before[a] || a - b)
    .slice(0, SHOWN);
  const top = Math.max(...best.map((id) => Math.max(before[id], now[id])));
  const bar = (was, is) =>
    makeSvg(
      "svg",
      {
        viewBox: "0 0 200 14",
        class: "bar",
        "aria-hidden": "true",
        preserveAspectRatio: "none",
      },
      makeSvg("rect", { x: 0, y: 2, height: 10, width: (198 * is) / top, class: "is" }),
      makeSvg("rect", {
        x: 0.5,
        y: 2.5,
        height: 9,
        width: Math.max(0.01, (198 * was) / top),
        class: "was",
      }),
    );
  const line = (name, was, is, kept) => ({
    kind: kept ? undefined : "cut",
    cells: [
      name,
      percent(was),
      kept ? percent(is) : "cut",
      name instanceof Node ? bar(was, is) : "",
    ],
  });
  const rest = (p) => Math.max(0, 1 - exactSum(best.map((id) => p[id])));
  const others = before.length - best.length;
  const n = left.reduce((count, x) => count + (x > -Infinity), 0);
  const rows = best.map((id) => {
    const opened = link(textOf(id), address("logits", [0, after, id]), {
      class: "token",
    });
    return line(opened, before[id], now[id], left[id] > -Infinity);
  });
  rows.push(
    line(
      `${others.toLocaleString("en")} other tokens`,
      rest(before),
      rest(now),
      n > best.filter((id) => left[id] > -Infinity).length,
    ),
  );
  return [
    table(
      `The next token after ${tokenAt(after)}`,
      ["token", "the model's", "after the rules", "before and after"],
      rows,
      [1, 2],
    ),
    make(
      "p",
      { class: "left", role: "status" },
      `${n.toLocaleString("en")} of ${before.length.toLocaleString("en")} tokens left, entropy ${entropy(now).toFixed(2)} nats (before: ${entropy(before).toFixed(2)}).`,
    ),
  ];
}

function percent(p) {
  return `${(100 * p).toFixed(p < 0.01 ? 3 : 2)} %`;
}
