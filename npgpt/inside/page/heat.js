// Heat maps: an array as a matrix, small on the first page and large on its own.

// The matrix of a name: its last two axes, those before them fixed.
function matrixOf(name, fixed = {}) {
  const letters = lettersOf(name);
  const own = letters.filter((letter) => letter !== "b");
  const column = own.length > 1 || own[0] !== "t" ? own.at(-1) : null;
  const row = own.length > 1 ? own.at(-2) : column ? null : own[0];
  const outer = own.length > 2 ? own[0] : null;
  const size = (letter) => (letter ? sizeOf(name, letter) : 1);
  const at = (i, j) =>
    letters.map((letter) => {
      if (letter === "b") return 0;
      if (letter === row) return i;
      return letter === column ? j : (fixed[letter] ?? 0);
    });
  const array = stored(name);
  const first = letters.length - array.shape.length;
  const flat = (i, j) =>
    array.shape.reduce((sum, n, axis) => sum * n + at(i, j)[first + axis], 0);
  const [zero, down, right] = [
    flat(0, 0),
    flat(1, 0) - flat(0, 0),
    flat(0, 1) - flat(0, 0),
  ];
  const whole = array.axis === undefined;
  const value = whole
    ? (i, j) => array.values[zero + i * down + j * right]
    : (i, j) => read(name, at(i, j));
  const masked = (i, j) => row === "t" && column === "s" && j > i;
  return {
    name,
    row,
    column,
    outer,
    at,
    rows: size(row),
    columns: size(column),
    outers: size(outer),
    scale: scaleOf(name),
    value,
    masked,
    shown: (i, j) => (masked(i, j) ? -Infinity : value(i, j)), // hidden is no weight of 0
  };
}

function sizeOf(name, letter) {
  const { shape } = stored(name);
  return shape[
    lettersOf(name).indexOf(letter) - (lettersOf(name).length - shape.length)
  ];
}

// What stands beside row or column i of a letter.
function labelOf(letter, i) {
  if (letter === "t" || letter === "s") return contents.tokens[i].label;
  return letter ? String(i) : "";
}

// The whole matrix in a few pixels: of many numbers the one farthest from 0.
function thumbnail(canvas, name) {
  const matrix = matrixOf(name);
  const ctx = canvas.getContext("2d");
  const gap = 6;
  const width = (canvas.width - gap * (matrix.outers - 1)) / matrix.outers;
  ctx.clearRect(0, 0, canvas.width, canvas.height);
  for (let outer = 0; outer < matrix.outers; outer++) {
    const one = matrix.outer ? matrixOf(name, { [matrix.outer]: outer }) : matrix;
    pooled(ctx, one, outer * (width + gap), width, canvas.height);
  }
}

function pooled(ctx, matrix, left, width, height) {
  const rows = Math.min(matrix.rows, Math.floor(height / 2));
  const columns = Math.min(matrix.columns, Math.max(1, Math.floor(width / 2)));
  const value = (i, j) => farthest(matrix, rows, columns, i, j);
  paintAll(
    ctx,
    rows,
    columns,
    value,
    matrix.scale,
    left,
    0,
    width / columns,
    height / rows,
  );
}

function farthest(matrix, rows, columns, i, j) {
  const [i1, j1] = [
    ((i + 1) * matrix.rows) / rows,
    ((j + 1) * matrix.columns) / columns,
  ];
  const step = Math.max(1, Math.floor(matrix.rows / rows / 4)); // of large tables some
  let found;
  for (let a = Math.floor((i * matrix.rows) / rows); a < i1; a += step) {
    for (let b = Math.floor((j * matrix.columns) / columns); b < j1; b++) {
      const x = matrix.shown(a, b);
      if (found === undefined || Math.abs(x) > Math.abs(found)) found = x;
    }
  }
  return found;
}

// How many numbers fall where; one more bar at each end for what lies beyond.
function histogram(scale, values) {
  const bins = 40;
  const low = scale.kind === "probability" ? 0 : -scale.limit;
  const counts = new Array(bins + 2).fill(0);
  for (const x of values) {
    if (!Number.isFinite(x)) continue;
    const at = Math.floor(((x - low) / (scale.limit - low)) * bins);
    const last = x === scale.limit ? bins : at + 1;
    counts[Math.max(0, Math.min(bins + 1, last))]++;
  }
  const most = Math.max(...counts);
  const picture = makeSvg("svg", {
    viewBox: "0 0 420 76",
    role: "img",
    class: "histogram",
  });
  const beyond = (counts[0] + counts[bins + 1]).toLocaleString("en");
  const text = `Histogram: ${scale.n.toLocaleString("en")} numbers from ${said(scale.low)} to ${said(scale.high)}, mean ${said(scale.mean)}, root mean square ${said(scale.rms)}; ${beyond} beyond the limit ${said(scale.limit)}, ${scale.odd.toLocaleString("en")} not finite.`;
  picture.append(makeSvg("title", {}, text));
  counts.forEach((n, i) => {
    const height = n ? Math.max(1, (60 * n) / most) : 0;
    const middle = low + ((i - 0.5) / bins) * (scale.limit - low);
    picture.append(
      makeSvg("rect", {
        x: 10 * i,
        y: 62 - height,
        width: 9,
        height,
        fill: css(colourOf(middle, scale)),
        class: i === 0 || i > bins ? "beyond" : "bar",
      }),
    );
  });
  for (const [x, at, anchor] of [
    [low, 10, "start"],
    [(low + scale.limit) / 2, 210, "middle"],
    [scale.limit, 410, "end"],
  ]) {
    picture.append(makeSvg("text", { x: at, y: 74, "text-anchor": anchor }, said(x)));
  }
  return make("figure", {}, picture, make("figcaption", {}, text));
}
