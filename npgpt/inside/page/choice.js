// The next token: npgpt's temperature, top-k, top-p and min-p, in its order.
//
// z are float32 logits, -Infinity where a token has been removed. Math.fround rounds
// where NumPy computes in float32, so that thresholds fall where they fall there.

function largest(z) {
  let top = -Infinity;
  for (const x of z) if (x > top) top = x;
  return top;
}

function keep(z, least) {
  return z.map((x) => (x >= least ? x : -Infinity));
}

// z / T; at 0 the largest alone.
function temperature(z, T) {
  const t = Math.fround(T);
  if (T > 1e-3) return z.map((x) => x / t);
  const top = largest(z);
  return z.map((x) => (x === top ? 0 : Math.fround(x - top) / t));
}

// The k most probable, and ties with the last.
function topK(z, k) {
  if (k <= 0 || k >= z.length) return z;
  return keep(z, Float32Array.from(z).sort()[z.length - k]);
}

// The fewest tokens that reach probability p.
function topP(z, p) {
  if (p >= 1) return z;
  const top = largest(z);
  const sorted = Float32Array.from(z.filter((x) => x > -Infinity))
    .sort()
    .reverse();
  const weights = sorted.map((x) => Math.exp(Math.fround(x - top)));
  const total = exactSum(weights);
  let mass = 0;
  let last = 0;
  for (; last < sorted.length - 1; last++) {
    mass += weights[last];
    if (mass >= p * total) break;
  }
  return keep(z, sorted[last]);
}

// Those at least m times as probable as the best.
function minP(z, m) {
  if (m <= 0) return z;
  return keep(z, Math.fround(largest(z) + Math.fround(Math.log(Math.min(m, 1)))));
}

function probabilities(z) {
  const top = largest(z);
  const weights = Float64Array.from(z, (x) => Math.exp(Math.fround(x - top)));
  const total = exactSum(weights);
  return weights.map((x) => x / total);
}

function entropy(p) {
  return exactSum(p.filter((x) => x > 0).map((x) => -x * Math.log(x)));
}

const OFF = { temperature: 1, top_k: 0, top_p: 1, min_p: 0 };

// The logits after every rule that is on.
function chosen(z, settings) {
  const { temperature: T, top_k, top_p, min_p } = { ...OFF, ...settings };
  const cooled = T === 1 ? z : temperature(z, T);
  return minP(topP(topK(cooled, top_k), top_p), min_p);
}
