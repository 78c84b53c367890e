// Masks from COCO's compressed runs: bitmaps in their windows, outlines along pixel edges, measurements.
// A window is {x, y, width, height, bits}, bits row by row. The same definitions as in the Python package.

/** Runs of a compressed string, zeros first. */
export function runsOf(text) {
  const runs = [];
  for (let i = 0; i < text.length; ) {
    let value = 0, shift = 0, letter;
    do {
      letter = text.charCodeAt(i++) - 48;
      value |= (letter & 31) << shift;
      shift += 5;
    } while (letter & 32);
    if (letter & 16) value |= -1 << shift;
    if (runs.length > 2) value += runs[runs.length - 2];
    runs.push(value);
  }
  return runs;
}

/** The tight window of a mask; runs go down the columns of the picture. */
export function decode({ size: [height], counts }) {
  const runs = runsOf(counts);
  let x0 = Infinity, x1 = -1, y0 = height, y1 = -1;
  eachRun(runs, height, (x, from, to) => {
    x0 = Math.min(x0, x);
    x1 = x;
    y0 = Math.min(y0, from);
    y1 = Math.max(y1, to);
  });
  if (x1 < 0) return { x: 0, y: 0, width: 0, height: 0, bits: new Uint8Array(0) };
  const width = x1 - x0 + 1, rows = y1 - y0, bits = new Uint8Array(width * rows);
  eachRun(runs, height, (x, from, to) => {
    for (let y = from - y0; y < to - y0; y++) bits[y * width + x - x0] = 1;
  });
  return { x: x0, y: y0, width, height: rows, bits };
}

/** Each column of each run of ones: its x, its first y and the y after its last. */
function eachRun(runs, height, visit) {
  let at = 0;
  runs.forEach((length, i) => {
    if (i % 2)
      for (let left = length, place = at; left > 0; ) {
        const x = Math.floor(place / height), y = place - x * height, part = Math.min(left, height - y);
        visit(x, y, y + part);
        left -= part;
        place += part;
      }
    at += length;
  });
}

const STEPS = [[1, 0], [0, 1], [-1, 0], [0, -1]]; // right, down, left, up

/**
 * Closed rings along all edges between a set and an unset pixel, the set pixel to the right: corners as [x, y, x, y ...]
 * in the picture. Outer rings have a positive area, holes a negative one. Pixels that meet at a corner only are apart.
 */
export function trace({ x: left, y: top, width, height, bits }) {
  const across = width + 1, edges = STEPS.map(() => new Uint8Array(across * (height + 1)));
  const isSet = (x, y) => x >= 0 && y >= 0 && x < width && y < height && bits[y * width + x];
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      if (!bits[y * width + x]) continue;
      if (!isSet(x, y - 1)) edges[0][y * across + x] = 1;
      if (!isSet(x + 1, y)) edges[1][y * across + x + 1] = 1;
      if (!isSet(x, y + 1)) edges[2][(y + 1) * across + x + 1] = 1;
      if (!isSet(x - 1, y)) edges[3][(y + 1) * across + x] = 1;
    }
  const rings = [];
  for (let way = 0; way < 4; way++)
    for (let place = 0; place < edges[way].length; place++)
      if (edges[way][place] === 1) rings.push(walk(edges, across, place, way, left, top));
  return rings;
}

/** One ring; its edges are marked as walked. */
function walk(edges, across, place, way, left, top) {
  const ring = [];
  let x = place % across, y = (place - x) / across;
  while (edges[way][y * across + x] === 1) {
    edges[way][y * across + x] = 2;
    x += STEPS[way][0];
    y += STEPS[way][1];
    const here = y * across + x;
    const next = [way + 1, way, way + 3].map((d) => d % 4).find((d) => edges[d][here]); // right, straight on, left
    if (next !== way) ring.push(x + left, y + top);
    way = next;
  }
  return ring;
}

export function ringArea(ring) {
  let sum = 0;
  for (let i = 0, j = ring.length - 2; i < ring.length; j = i, i += 2) sum += ring[j] * ring[i + 1] - ring[i] * ring[j + 1];
  return sum / 2;
}

/** Exactly along the pixels: what is seen when they are large on the screen. */
export function exactPath(rings) {
  const path = new Path2D();
  for (const ring of rings) {
    path.moveTo(ring[0], ring[1]);
    for (let i = 2; i < ring.length; i += 2) path.lineTo(ring[i], ring[i + 1]);
    path.closePath();
  }
  return path;
}

/** The same with corners cut off by up to a pixel, straight: quick to draw, where pixels are hardly seen. */
export function cutPath(rings) {
  const path = new Path2D();
  for (const ring of rings) {
    for (let i = 0; i < ring.length; i += 2) {
      const x = ring[i], y = ring[i + 1], j = i + 2 < ring.length ? i + 2 : 0;
      const [ax, ay] = towards(x, y, ring[j], ring[j + 1]), [bx, by] = towards(ring[j], ring[j + 1], x, y);
      if (i) path.lineTo(ax, ay);
      else path.moveTo(ax, ay);
      if (ax !== bx || ay !== by) path.lineTo(bx, by);
    }
    path.closePath();
  }
  return path;
}

/** The same with these corners rounded: what is seen when pixels are small, and not as small as that. */
export function smoothPath(rings) {
  const path = new Path2D();
  for (const ring of rings) {
    const count = ring.length / 2;
    const corner = (i) => [ring[2 * (i % count)], ring[2 * (i % count) + 1]];
    for (let i = 0; i < count; i++) {
      const [px, py] = corner(i + count - 1), [x, y] = corner(i), [nx, ny] = corner(i + 1);
      const [bx, by] = towards(x, y, px, py), [ax, ay] = towards(x, y, nx, ny);
      if (i) path.lineTo(bx, by);
      else path.moveTo(bx, by);
      path.quadraticCurveTo(x, y, ax, ay);
    }
    path.closePath();
  }
  return path;
}

function towards(x, y, tx, ty) {
  const length = Math.abs(tx - x) + Math.abs(ty - y), part = Math.min(length / 2, 1) / length;
  return [x + (tx - x) * part, y + (ty - y) * part];
}

const WEIGHTS = new Float64Array(50);
for (const i of [5, 7, 15, 17, 25, 27]) WEIGHTS[i] = 1;
for (const i of [21, 33]) WEIGHTS[i] = Math.SQRT2;
for (const i of [13, 23]) WEIGHTS[i] = (1 + Math.SQRT2) / 2;

/** Perimeter by Benkrid and Crookes (2000), as scikit-image has it: border pixels, weighted by their neighbours. */
function perimeter({ width, height, bits }) {
  const across = width + 2, border = new Uint8Array(across * (height + 2));
  const isSet = (x, y) => x >= 0 && y >= 0 && x < width && y < height && bits[y * width + x];
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      if (isSet(x, y) && !(isSet(x - 1, y) && isSet(x + 1, y) && isSet(x, y - 1) && isSet(x, y + 1)))
        border[(y + 1) * across + x + 1] = 1;
  let sum = 0;
  for (let i = across + 1; i < border.length - across - 1; i++)
    if (border[i]) {
      const beside = border[i - 1] + border[i + 1] + border[i - across] + border[i + across];
      const diagonal = border[i - across - 1] + border[i - across + 1] + border[i + across - 1] + border[i + across + 1];
      sum += WEIGHTS[1 + 2 * beside + 10 * diagonal];
    }
  return sum;
}

/** What the table and the CSV say of a mask. */
export function measure(window) {
  let area = 0, sumX = 0, sumY = 0;
  for (let y = 0, i = 0; y < window.height; y++)
    for (let x = 0; x < window.width; x++, i++)
      if (window.bits[i]) {
        area++;
        sumX += x;
        sumY += y;
      }
  const rings = trace(window), parts = rings.filter((ring) => ringArea(ring) > 0).length;
  return {
    area,
    perimeter: perimeter(window),
    diameter: Math.sqrt((4 * area) / Math.PI),
    x: sumX / area + window.x,
    y: sumY / area + window.y,
    box: [window.x, window.y, window.x + window.width, window.y + window.height],
    parts,
    holes: rings.length - parts,
  };
}
