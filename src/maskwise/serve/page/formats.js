// What is shown, as files for other tools. The same fields as the Python package writes, and reads back.

import { base64, greyPng } from "/page/files.js";
import { decode, measure, ringArea, trace } from "/page/masks.js";

const LENGTHS = ["perimeter", "equivalent_diameter", "centroid_x", "centroid_y", "box_x0", "box_y0", "box_x1", "box_y1"];

/** One COCO data set of several pictures, each {name, width, height, shown}. */
export function coco(pictures, categories) {
  const annotations = [];
  const images = pictures.map(({ name, width, height, shown }, i) => {
    for (const one of shown) {
      if (!one.area) continue;
      const { x, y, width: w, height: h } = decode(one.mask), [x0, y0, x1, y1] = one.box;
      annotations.push({
        id: annotations.length + 1,
        image_id: i + 1,
        category_id: categories[one.label].id,
        segmentation: one.mask,
        bbox: [x, y, w, h],
        area: one.area,
        iscrowd: 0,
        score: one.mask_score,
        class_score: one.score,
        quality: one.quality,
        predicted_bbox: [x0, y0, x1 - x0, y1 - y0],
      });
    }
    return { id: i + 1, file_name: name, width, height };
  });
  return JSON.stringify({ images, annotations, categories: categories.map(({ id, name }) => ({ id, name })) });
}

/** LabelMe's JSON of a picture: polygons, and a bitmap of the whole object where there are holes. */
export async function labelme({ name, width, height, shown }) {
  const shapes = [];
  for (const [i, one] of shown.entries()) {
    const window = decode(one.mask), rings = trace(window);
    const hasHoles = rings.some((ring) => ringArea(ring) < 0);
    const drawn = hasHoles ? [await bitmap(window)] : rings.map(polygon);
    const description = `score=${one.score} quality=${one.quality} mask_score=${one.mask_score}`;
    const group_id = drawn.length > 1 ? i + 1 : null;
    for (const shape of drawn) shapes.push({ label: one.class, group_id, description, flags: {}, ...shape });
  }
  const about = { imagePath: name, imageData: null, imageHeight: height, imageWidth: width };
  return JSON.stringify({ version: "5.5.0", flags: {}, shapes, ...about });
}

function polygon(ring) {
  const points = [];
  for (let i = 0; i < ring.length; i += 2) points.push([ring[i], ring[i + 1]]);
  return { shape_type: "polygon", points, mask: null };
}

async function bitmap({ x, y, width, height, bits }) {
  const png = await greyPng(bits.map((bit) => 255 * bit), width, height);
  return { shape_type: "mask", points: [[x, y], [x + width - 1, y + height - 1]], mask: base64(png) };
}

/** The file beside LabelMe's that keeps classes in their order. */
export function labels(categories) {
  return ["__ignore__", "_background_", ...categories.map(({ name }) => name)].map((line) => `${line}\n`).join("");
}

/** Measurements in the unit of a scale: a line an instance. */
export function csv(pictures, scale) {
  const lines = [header(scale)];
  for (const { name, shown } of pictures)
    for (const [i, one] of shown.entries()) {
      const { area, perimeter, diameter, x, y, box, parts, holes } = measured(one);
      const lengths = [perimeter, diameter, x, y, ...box].map((length) => (area ? scale.length(length) : ""));
      const values = [scale.area(area), ...lengths, parts, holes, one.score, one.quality, one.mask_score].map(short);
      lines.push([cell(name), i + 1, cell(one.class), ...values].join(","));
    }
  return lines.map((line) => `${line}\n`).join("");
}

/** Names of the columns, with the unit of each that has one. */
function header({ unit }) {
  const sizes = [`area_${unit}2`, ...LENGTHS.map((name) => `${name}_${unit}`)];
  return ["image", "id", "category", ...sizes, "parts", "holes", "score", "quality", "mask_score"].join(",");
}

/** Computed once an instance, in pixels. */
export function measured(one) {
  return (one.measures ??= measure(decode(one.mask)));
}

/** Eight figures, as many as the scores have. */
const short = (value) => (typeof value === "number" ? String(Number(value.toPrecision(8))) : value);
/** Quoted where need be; a spreadsheet must not take a file's name for a formula. */
function cell(text) {
  const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** Grey PNG of 16 bits: 0 where there is nothing, else the number of the instance, the better mask in front. */
export async function labelMap({ width, height, shown }) {
  if (shown.length > 65535) throw new Error("A label map holds 65,535 instances.");
  const ids = new Uint16Array(width * height), front = shown.map((one, i) => [one, i + 1]);
  for (const [one, number] of front.sort(([a], [b]) => a.mask_score - b.mask_score)) {
    const window = decode(one.mask);
    for (let y = 0, i = 0; y < window.height; y++)
      for (let x = 0, at = (window.y + y) * width + window.x; x < window.width; x++, i++, at++)
        if (window.bits[i]) ids[at] = number;
  }
  return greyPng(ids, width, height);
}
