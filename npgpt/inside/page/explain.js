// What is to say of a number: its formula, operands, terms, and their sum beside it.

const DIGITS = contents.dtype === "float64" ? 52 : 23; // binary, behind the first one

// All that is to say of a number; `missing` where the page lacks what it is made of.
function explain(name, index) {
  const value = read(name, index);
  const itself = { name, index, value };
  const one = {
    address: address(name, index),
    name,
    index,
    value,
    meaning: "",
    operands: [itself],
    terms: [{ value, operands: [itself] }],
  };
  if (!taps.has(name)) {
    const given = {
      token: `The token ${contents.tokens[index[1]]?.shown} of the prompt.`,
      position: "The place of the token in its text.",
      sees: "Whether the one token may look at the other.",
    };
    one.meaning = given[name] ?? "A parameter: it was learned in training.";
    return {
      ...one,
      formula: name,
      filled: one.address,
      recomputed: value,
      tolerance: 0,
      agrees: true,
      given: true,
      ulps: 0,
    };
  }
  const recipe = recipeOf(name);
  const letters = Object.fromEntries(
    recipe.letters.map((letter, i) => [letter, index[i]]),
  );
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
    const rounding = 2 ** -DIGITS * (8 + one.terms.length / 16);
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

// The distance of a number to the next one of the model's.
function unit(x) {
  const size = Math.max(Math.abs(x), 1e-37);
  return 2 ** (Math.max(Math.floor(Math.log2(size)), -126) - DIGITS);
}

// Whether a number can be opened: all that it is made of is here.
function canOpen(name, index) {
  if (index.length === 0) return false; // a constant
  if (name in GIVEN || !taps.has(name)) return true;
  const recipe = recipeOf(name);
  const letters = Object.fromEntries(
    recipe.letters.map((letter, i) => [letter, index[i]]),
  );
  try {
    operandsOf(recipe.node, letters, placeOf(name));
    return true;
  } catch (error) {
    if (!(error instanceof Missing)) throw error;
    return false;
  }
}

// The largest first, masked ones last; before them all the number that a maximum is.
function ranked(numbers, maximum) {
  const size = ({ value }) => {
    if (value === maximum) return Infinity;
    return Number.isFinite(value) ? Math.abs(value) : -1;
  };
  return [...numbers].sort((a, b) => size(b) - size(a) || 0);
}
