// Colours: what a number looks like, by treescope's rules.
//
// Diverging colours are centred at 0 and end at three root mean squares; probabilities
// go from 0 to 1; parameters have colours of their own. What has no colour has a
// pattern: beyond the limit, infinite, masked, NaN, not in this page.

const SCALES = {
  value: { less: [181, 68, 46], more: [31, 91, 160] },
  parameter: { less: [122, 74, 158], more: [47, 122, 60] },
  probability: { more: [31, 59, 115] },
};
const DARK_SCALES = {
  value: { less: [244, 132, 95], more: [106, 178, 240] },
  parameter: { less: [196, 150, 232], more: [116, 196, 128] },
  probability: { more: [140, 190, 255] },
};
const PAPER = { light: [250, 249, 246], dark: [28, 31, 36] };

let dark = false; // page.js sets it

function inkFor(theme = dark) {
  return theme ? "#e9e7e2" : "#222222";
}

// The scale of an array: its kind, its limit, and what a histogram says of it.
function scaleOf(name) {
  const array = stored(name);
  if (array.scale) return array.scale;
  let [n, squares, sum, low, high, odd] = [0, 0, 0, Infinity, -Infinity, 0];
  for (const x of array.values) {
    if (!Number.isFinite(x)) {
      odd++;
      continue;
    }
    n++;
    sum += x;
    squares += x * x;
    low = Math.min(low, x);
    high = Math.max(high, x);
  }
  const rms = Math.sqrt(squares / n) || 0;
  const most = Math.max(Math.abs(low), Math.abs(high));
  const softmax = taps.has(name) && recipeOf(name).function === "softmax";
  const probability = softmax && !taps.get(name).virtual;
  array.scale = {
    kind: probability ? "probability" : taps.has(name) ? "value" : "parameter",
    limit: probability ? 1 : Math.min(3 * rms, most) || 1,
    rms,
    low,
    high,
    odd,
    n,
    mean: sum / n,
  };
  return array.scale;
}

// [r, g, b] of a finite number.
function colourOf(x, scale) {
  const { less, more } = (dark ? DARK_SCALES : SCALES)[scale.kind];
  const share = Math.min(1, Math.abs(x) / scale.limit);
  const end = x < 0 && less ? less : more;
  return PAPER[dark ? "dark" : "light"].map(
    (from, i) => from + (end[i] - from) * share,
  );
}

function css([r, g, b]) {
  return `rgb(${Math.round(r)} ${Math.round(g)} ${Math.round(b)})`;
}

// Many cells: colours as one picture, which is fast, then the patterns.
function paintAll(ctx, rows, columns, value, scale, left, top, width, height) {
  const picture = new ImageData(columns, rows);
  const paper = PAPER[dark ? "dark" : "light"];
  const { less, more } = (dark ? DARK_SCALES : SCALES)[scale.kind];
  const odd = [];
  let at = 0;
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) {
      const x = value(i, j);
      const size = Math.abs(x) / scale.limit;
      if (!(size <= 1 + 1e-6)) odd.push([i, j, x]);
      const share = size < 1 ? size : Number.isFinite(x) ? 1 : 0;
      const end = x < 0 && less ? less : more;
      for (let c = 0; c < 3; c++)
        picture.data[at++] = paper[c] + (end[c] - paper[c]) * share;
      picture.data[at++] = 255;
    }
  }
  const small = make("canvas", { width: columns, height: rows });
  small.getContext("2d").putImageData(picture, 0, 0);
  ctx.imageSmoothingEnabled = false;
  ctx.drawImage(small, left, top, columns * width, rows * height);
  for (const [i, j, x] of odd) {
    paint(ctx, x, scale, left + j * width, top + i * height, width + 0.3, height + 0.3);
  }
}

// One cell: a colour, and a pattern where a colour cannot say it.
function paint(ctx, x, scale, left, top, width, height) {
  const paper = css(PAPER[dark ? "dark" : "light"]);
  const finite = Number.isFinite(x);
  ctx.fillStyle = finite ? css(colourOf(x, scale)) : paper;
  ctx.fillRect(left, top, width, height);
  const beyond = finite && Math.abs(x) > scale.limit * (1 + 1e-6);
  if (finite && !beyond) return;
  ctx.save();
  ctx.beginPath();
  ctx.rect(left, top, width, height);
  ctx.clip();
  ctx.strokeStyle = beyond ? paper : dark ? "#8f8f8f" : "#9a9791";
  ctx.lineWidth = 1;
  ctx.beginPath();
  if (beyond) {
    mark(
      ctx,
      left + width / 2,
      top + height / 2,
      Math.min(width, height, 12) * 0.3,
      x > 0,
    );
  } else if (x === undefined) {
    ctx.moveTo(left + width / 2 - 1, top + height / 2); // a dot: not in this page
    ctx.lineTo(left + width / 2 + 1, top + height / 2);
  } else if (Number.isNaN(x)) {
    ctx.moveTo(left, top);
    ctx.lineTo(left + width, top + height);
    ctx.moveTo(left + width, top);
    ctx.lineTo(left, top + height);
  } else if (x > 0) {
    mark(ctx, left + width / 2, top + height / 2, Math.min(width, height) * 0.4, true);
  } else {
    for (let at = -height; at < width; at += 4) {
      ctx.moveTo(left + at, top + height); // hatched: masked
      ctx.lineTo(left + at + height, top);
    }
  }
  ctx.stroke();
  ctx.restore();
}

// + or −: more, or less, than the scale can show.
function mark(ctx, x, y, size, more) {
  ctx.moveTo(x - size, y);
  ctx.lineTo(x + size, y);
  if (!more) return;
  ctx.moveTo(x, y - size);
  ctx.lineTo(x, y + size);
}
