// A formula as a reader writes it: Σ_d q[b,h,t,d] · k[b,h,s,d] · scale.

const PRIORITY = { "<": 0, "+": 1, "-": 1, "*": 2, "/": 2, "//": 2, "%": 2, "**": 3 };
const SIGNS = { "<": " < ", "*": " · ", "/": " / ", "+": " + ", "-": " − ", "**": "^" };

// The formula as a reader writes it; with letters, their numbers in their place; with
// a place, every number in its place.
function written(node, letters = {}, outer = 0, place = null) {
  const [kind, one, two, three] = node;
  const part = (inner, least = 0) => written(inner, letters, least, place);
  if (kind === "number") return String(one).replace("-", "−");
  if (kind === "constant") {
    if (place) return said(place.constant(one));
    return one === "minus_infinity" ? "−∞" : one;
  }
  if (kind === "letter") return String(letters[one] ?? one);
  if (kind === "at") {
    if (!place) return `${one}[${two.map((i) => written(i, letters)).join(",")}]`;
    const number = place.read(one, indexOf(two, letters, place));
    return number < 0 && outer ? `(${said(number)})` : said(number);
  }
  if (kind === "call") return `${one}(${part(two)})`;
  if (kind === "if") {
    if (place) return part(valueOf(one, letters, place) ? two : three, outer);
    return `${part(two)} if ${part(one)} else ${part(three)}`;
  }
  if (kind in REDUCERS)
    return place ? several(node, letters, place) : reduced(node, letters);
  const own = PRIORITY[kind];
  const right = part(two, own + (kind === "-" || kind === "/" ? 1 : 0));
  const text = `${part(one, own)}${SIGNS[kind] ?? kind}${right}`;
  return own < outer ? `(${text})` : text;
}

function reduced([kind, over, body], letters) {
  const free = { ...letters };
  for (const letter of over) delete free[letter];
  const text = written(body, free, kind === "sum" ? 2 : 0);
  return kind === "sum"
    ? `Σ_${over.join(",")} ${text}`
    : `${kind}_${over.join(",")} (${text})`;
}

// The largest three of what a sum, a mean or a maximum goes over.
function several([kind, over, body], letters, place) {
  const values = every(over, letters).map((at) => ({
    value: valueOf(body, at, place),
  }));
  const maximum =
    kind === "max" ? REDUCERS.max(values.map((one) => one.value)) : undefined;
  const first = ranked(values, maximum)
    .slice(0, 3)
    .map((one) => said(one.value));
  const more = values.length > 3 ? `, … (${values.length.toLocaleString("en")})` : "";
  return `${kind === "sum" ? "Σ" : kind} (${first.join(", ")}${more})`;
}
