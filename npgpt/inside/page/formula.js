// Formulas: the trees of npgpt/inside/formula.py, computed here once more, in float64.
//
// ["sum", ["d"], ["*", ["at", "q", [["letter", "d"]]], ["number", 2]]] is Σ_d q[d] · 2.

class Missing extends Error {} // a number that this page does not hold

const REDUCERS = {
  sum: exactSum,
  mean: (values) => exactSum(values) / values.length,
  max: (values) => values.reduce((a, b) => Math.max(a, b)),
};

const ACTIVATIONS = {
  gelu: (x) =>
    0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  gelu_erf: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  quick_gelu: (x) => x * sigmoid(1.702 * x),
  relu: (x) => Math.max(x, 0),
  silu: (x) => x * sigmoid(x),
  sigmoid,
  tanh: Math.tanh,
};

function sigmoid(x) {
  return 0.5 * (1 + Math.tanh(0.5 * x));
}

// 2/√π exp(-x²) Σ 2^n x^(2n+1) / (2n+1)!!: all terms have one sign.
function erf(x) {
  if (Math.abs(x) > 6) return Math.sign(x);
  let term = x;
  let sum = 0;
  for (let n = 0; sum + term !== sum; n++) {
    sum += term;
    term *= (2 * x * x) / (2 * n + 3);
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}

// The sum without rounding on the way, as Python's math.fsum: Shewchuk (1997).
function exactSum(values) {
  let parts = [];
  let special = 0;
  for (let x of values) {
    if (!Number.isFinite(x)) special += x;
    const kept = [];
    for (let y of parts) {
      if (Math.abs(x) < Math.abs(y)) [x, y] = [y, x];
      const high = x + y;
      const low = y - (high - x);
      if (low) kept.push(low);
      x = high;
    }
    parts = [...kept, x];
  }
  return special || Number.isNaN(special) ? special : parts.reduce((a, b) => a + b, 0);
}

// Where the names of one tap's recipe have values.
function placeOf(name) {
  const tap = taps.get(name);
  return {
    full: (short) => tap.names[short],
    read(short, index) {
      const number = read(tap.names[short], index);
      if (number === undefined) throw new Missing(address(tap.names[short], index));
      return number;
    },
    constant(short) {
      if (short === "minus_infinity") return -Infinity;
      if (short === "scale") return contents.scale[tap.layer];
      return contents.constants[short];
    },
    apply(called, x) {
      if (called === "exp") return Math.exp(x);
      if (called === "sqrt") return Math.sqrt(x);
      return ACTIVATIONS[recipeOf(name).function](x);
    },
  };
}

// Every choice of some letters, the last running fastest.
function every(over, letters) {
  let all = [letters];
  for (const letter of over) {
    const n = contents.sizes[letter];
    all = all.flatMap((one) =>
      Array.from({ length: n }, (_, i) => ({ ...one, [letter]: i })),
    );
  }
  return all;
}

function compute(operator, a, b) {
  if (operator === "+") return a + b;
  if (operator === "-") return a - b;
  if (operator === "*") return a * b;
  if (operator === "/") return a / b;
  if (operator === "//") return Math.floor(a / b);
  if (operator === "%") return a - b * Math.floor(a / b);
  if (operator === "<") return Number(a < b);
  return a ** b;
}

// The number that a formula gives for these letters.
function valueOf(node, letters, place) {
  const [kind, one, two, three] = node;
  if (kind === "number") return one;
  if (kind === "constant") return place.constant(one);
  if (kind === "letter") return letters[one];
  if (kind === "at") return place.read(one, indexOf(two, letters, place));
  if (kind === "call") return place.apply(one, valueOf(two, letters, place));
  if (kind === "if") {
    return valueOf(valueOf(one, letters, place) ? two : three, letters, place);
  }
  if (kind in REDUCERS) {
    return REDUCERS[kind](every(one, letters).map((at) => valueOf(two, at, place)));
  }
  return compute(kind, valueOf(one, letters, place), valueOf(two, letters, place));
}

function indexOf(parts, letters, place) {
  return parts.map((part) => Math.trunc(valueOf(part, letters, place)));
}

// What rounding errors are measured by: every sum of absolute values.
function massOf(node, letters, place) {
  const [kind, one, two, three] = node;
  const size = (part) => massOf(part, letters, place);
  if (kind === "call" && one === "exp") {
    return valueOf(node, letters, place) * (1 + size(two));
  }
  if (kind === "call") {
    const result = Math.abs(valueOf(node, letters, place));
    return result + (1 + result) * size(two);
  }
  if (kind === "if") return size(valueOf(one, letters, place) ? two : three);
  if (kind in REDUCERS) {
    return REDUCERS[kind](every(one, letters).map((at) => massOf(two, at, place)));
  }
  if (kind === "+" || kind === "-") return size(one) + size(two);
  if (kind === "*") return size(one) * size(two);
  if (kind === "/") return (size(one) * size(two)) / valueOf(two, letters, place) ** 2;
  const alone = Math.abs(valueOf(node, letters, place));
  return alone < Infinity ? alone : 0; // what is masked is masked exactly
}

// Whether a formula is a sum of several numbers.
function adds(node) {
  const [kind, one, two] = node;
  if (kind === "*") return adds(one) || adds(two);
  if (kind === "/") return adds(one);
  return ["sum", "mean", "+", "-"].includes(kind);
}

// What is added up, in the formula's order: their sum is its value.
function termsOf(node, letters, place) {
  const [kind, one, two, three] = node;
  if (kind === "if") {
    return termsOf(valueOf(one, letters, place) ? two : three, letters, place);
  }
  if (kind === "+") {
    return [...termsOf(one, letters, place), ...termsOf(two, letters, place)];
  }
  if (kind === "-") {
    return [...termsOf(one, letters, place), ...times(-1, [], two, letters, place)];
  }
  if ((kind === "*" || kind === "/") && adds(one) && !adds(two)) {
    const factor = valueOf(two, letters, place);
    const operands = operandsOf(two, letters, place);
    const plain = kind === "*" && isProduct(two);
    return times(
      kind === "*" ? factor : 1 / factor,
      operands,
      one,
      letters,
      place,
      plain,
    );
  }
  if (kind === "*" && adds(two) && !adds(one)) {
    const operands = operandsOf(one, letters, place);
    return times(
      valueOf(one, letters, place),
      operands,
      two,
      letters,
      place,
      isProduct(one),
    );
  }
  if (kind === "sum" || kind === "mean") {
    const all = every(one, letters);
    const share = kind === "sum" ? 1 : 1 / all.length;
    return all.flatMap((at) => times(share, [], two, at, place));
  }
  const value = valueOf(node, letters, place);
  return [
    { value, operands: operandsOf(node, letters, place), plain: isProduct(node) },
  ];
}

function times(factor, operands, node, letters, place, plain = true) {
  return termsOf(node, letters, place).map((term) => ({
    value: factor * term.value,
    operands: [...term.operands, ...operands],
    plain: term.plain && plain,
  }));
}

// Whether a formula only multiplies numbers: then a term is its operands' product. A
// number looked up by another one is no product of the two.
function isProduct([kind, one, two]) {
  if (kind === "*") return isProduct(one) && isProduct(two);
  if (kind === "at") return !two.some((part) => part[0] === "at");
  return kind === "number" || kind === "constant";
}

// Every number that a formula reads, once, in its order.
function operandsOf(node, letters, place) {
  const found = new Map();
  const visit = (part, at) => {
    const [kind, one, two, three] = part;
    if (kind === "at") {
      for (const inner of two) if (inner[0] === "at") visit(inner, at);
      const index = indexOf(two, at, place);
      const name = place.full(one);
      found.set(`${name} ${index}`, { name, index, value: place.read(one, index) });
    } else if (kind === "call") {
      visit(two, at);
    } else if (kind === "if") {
      visit(valueOf(one, at, place) ? two : three, at);
    } else if (kind in REDUCERS) {
      for (const inner of every(one, at)) visit(two, inner);
    } else if (kind === "constant") {
      if (one !== "minus_infinity") {
        found.set(one, { name: one, index: [], value: place.constant(one) });
      }
    } else if (kind !== "number" && kind !== "letter") {
      visit(one, at);
      visit(two, at);
    }
  };
  visit(node, letters);
  return [...found.values()];
}
