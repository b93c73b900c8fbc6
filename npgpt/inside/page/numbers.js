// Numbers: what Python has packed, as arrays that are read by name and index.
//
// An array is whole, or some lines of it are here: a line runs along one axis, and a
// number whose line is missing is undefined.

const contents = JSON.parse(document.getElementById("contents").textContent);
const taps = new Map(contents.taps.map((tap) => [tap.name, tap]));
const arrays = new Map(contents.arrays.map((entry) => [entry.name, entry]));
const GIVEN = { token: ["b", "t"], position: ["b", "t"], sees: ["b", "t", "s"] };

let unpacked; // all bytes

// Base64, then deflate: the browser has both.
async function unpack() {
  const text = document.getElementById("numbers").textContent;
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const inflated = new Blob([packed])
    .stream()
    .pipeThrough(new DecompressionStream("deflate"));
  unpacked = new Uint8Array(await new Response(inflated).arrayBuffer());
}

// The array of a name, decoded when it is first asked for.
function stored(name) {
  const entry = arrays.get(name);
  if (entry === undefined) return undefined;
  if (entry.same !== undefined) return stored(entry.same);
  if (entry.values === undefined) {
    entry.values = decoded(entry);
    if (entry.lines) entry.places = new Map(entry.lines.map((line, i) => [line, i]));
  }
  return entry;
}

// Bytes lie by their place in the number: all first bytes, all second ones, and so on.
function decoded({ count, bytes: size, offset }) {
  const joined = new Uint8Array(count * size);
  for (let place = 0; place < size; place++) {
    const from = offset + place * count;
    for (let i = 0; i < count; i++) joined[i * size + place] = unpacked[from + i];
  }
  if (size === 8) return new Float64Array(joined.buffer);
  if (size === 4) return new Float32Array(joined.buffer);
  return Float32Array.from(new Uint16Array(joined.buffer), half);
}

// float16: one bit of sign, five of exponent, ten of fraction.
function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24; // subnormal
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

// The axis letters of a name; undefined where there is no such name.
function lettersOf(name) {
  if (taps.has(name)) return recipeOf(name).letters;
  return contents.parameters[name] ?? GIVEN[name];
}

function recipeOf(name) {
  return contents.recipes[taps.get(name).pattern];
}

// The number at an index. A tap's first axis is the row of the batch: there is one.
function read(name, index) {
  if (name === "token") return contents.tokens[index[1]].id;
  if (name === "position") return index[1];
  if (name === "sees") return Number(index[2] <= index[1]);
  const array = stored(name);
  if (array === undefined) return undefined;
  const { shape, axis, values, places } = array;
  const first = index.length - shape.length;
  let at = 0;
  for (let i = 0; i < shape.length; i++) {
    if (i !== axis) at = at * shape[i] + index[first + i];
  }
  if (axis === undefined) return values[at];
  const line = places.get(at);
  if (line === undefined) return undefined;
  return values[line * shape[axis] + index[first + axis]];
}

// Whether any number of a name is here.
function isHere(name) {
  return name in GIVEN || arrays.has(name);
}

// The address of a number: h.0.attn.scores[h=1,t=5,s=3]; a constant has its name alone.
function address(name, index) {
  if (index.length === 0) return name;
  const letters = lettersOf(name);
  const parts = letters.map((letter, i) => `${letter}=${index[i]}`);
  return `${name}[${parts.filter((part) => !part.startsWith("b=")).join(",")}]`;
}

// The name and the letters of an address; null where there is none such.
function parseAddress(text) {
  const found = /^([\w.]+)(?:\[([^\]]*)\])?$/.exec(text);
  if (!found || !lettersOf(found[1])) return null;
  const letters = { b: 0 };
  for (const part of (found[2] ?? "").split(",").filter(Boolean)) {
    const [letter, number] = part.split("=");
    const i = Number(number);
    if (!lettersOf(found[1]).includes(letter)) return null;
    if (!Number.isInteger(i) || i < 0 || i >= contents.sizes[letter]) return null;
    letters[letter] = i;
  }
  const index = lettersOf(found[1]).map((letter) => letters[letter]);
  return { name: found[1], letters, index, whole: !index.includes(undefined) };
}

// A number as a reader writes it, six digits of it.
function said(x) {
  if (x === undefined) return "not here";
  if (!Number.isFinite(x)) return Number.isNaN(x) ? "NaN" : x > 0 ? "∞" : "−∞";
  if (x === 0) return "0";
  const [digits, power] = Number(x.toPrecision(6)).toString().split("e");
  return digits.replace("-", "−") + (power ? `×10${raised(power)}` : "");
}

function raised(power) {
  const digits = "⁰¹²³⁴⁵⁶⁷⁸⁹";
  return [...power.replace("+", "")].map((x) => (x === "-" ? "⁻" : digits[x])).join("");
}

// A token of the prompt, as a sentence has it.
function tokenAt(t) {
  return `token ${t} (${contents.tokens[t].shown})`;
}

function textOf(id) {
  return contents.texts[id] ?? `<${id}>`;
}
