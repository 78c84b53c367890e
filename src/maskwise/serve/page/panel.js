// Beside the picture: sliders with the distribution of what they cut, the list, the table of measurements.

import { colour, css } from "/page/colours.js";
import { measured } from "/page/formats.js";

const BINS = 40;

export const element = (tag, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};

/** The one after or before another, round and round; the first or the last where there is no other. */
export function beside(order, one, by) {
  const at = order.indexOf(one);
  return order.at(at < 0 ? Math.min(by, 0) : (at + by) % order.length);
}

/** How many instances have which value; those that the slider leaves out are pale. */
export function drawHistogram(canvas, values, least) {
  const ratio = devicePixelRatio, width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const context = canvas.getContext("2d"), counts = new Array(BINS).fill(0);
  for (const value of values) counts[Math.min(Math.floor(value * BINS), BINS - 1)]++;
  const most = Math.max(...counts, 1), style = getComputedStyle(canvas), wide = width / BINS;
  context.scale(ratio, ratio);
  counts.forEach((count, i) => {
    if (!count) return;
    context.fillStyle = style.getPropertyValue((i + 1) / BINS > least ? "--bar" : "--bar-out");
    const high = Math.max((count / most) * height, 1.5);
    context.fillRect(i * wide + 0.5, height - high, wide - 1, high);
  });
}

/** A row of the list. */
export function row(one, by, scale) {
  const meter = element("span", { className: "meter" }, element("i"));
  meter.firstChild.style.width = `${one.quality * 100}%`;
  const swatch = element("span", { className: "swatch" });
  const numbers = [
    element("span", { className: "q", textContent: one.quality.toFixed(2), title: "quality" }),
    element("span", { className: "s", textContent: one.score.toFixed(2), title: "score" }),
    element("span", { className: "a" }),
  ];
  const name = element("span", { className: "class", textContent: one.class });
  const made = element("li", { id: `row-${one.index}` }, swatch, name, meter, ...numbers);
  made.setAttribute("role", "option");
  tell(made, one, scale);
  paint(made, one, by);
  return made;
}

/** Its colours, which follow those of the masks. */
export function paint(made, one, by) {
  made.querySelector(".swatch").style.background = css(colour(one, by));
  made.querySelector(".meter i").style.background = css(colour(one, "quality"));
}

/** Its area, and what it is for the ear, which follow the unit. */
export function tell(made, one, scale) {
  Object.assign(made.querySelector(".a"), { textContent: scale.areaText(one.area), title: `area in ${squares(scale)}` });
  made.setAttribute("aria-label", words(one, scale));
}

const squares = ({ unit, name }) => (unit === "px" ? name : `${name}²`);

/** An instance for the ear. */
export function words(one, scale) {
  const area = `${scale.areaText(one.area)} ${squares(scale)}`, out = one.isOut ? ", left out" : "";
  return `${one.class}, quality ${one.quality.toFixed(2)}, score ${one.score.toFixed(2)}, ${area}${out}`;
}

/** An instance for the eye, beside it. */
export function card(one, scale) {
  const line = (name, value) => [element("dt", { textContent: name }), element("dd", { textContent: value })];
  const numbers = element("dl", {}, ...line("quality", one.quality.toFixed(3)), ...line("score", one.score.toFixed(3)), ...line("area", `${scale.areaText(one.area)} ${scale.symbol}²`));
  return [element("strong", { textContent: one.class }), numbers];
}

const finely = (pixels, scale) => scale.lengthText(pixels, 0.1);
const wholly = (pixels, scale) => scale.lengthText(pixels);

/** Name, value in pixels, the same for people, and what follows the unit where there is one. */
const COLUMNS = [
  ["class", (one) => one.class, String],
  ["quality", (one) => one.quality, (v) => v.toFixed(3)],
  ["score", (one) => one.score, (v) => v.toFixed(3)],
  ["area", (one) => one.area, (v, scale) => scale.areaText(v), "²"],
  ["perimeter", (one) => measured(one).perimeter, finely, ""],
  ["diameter", (one) => measured(one).diameter, finely, ""],
  ["centre x", (one) => measured(one).x, finely, ""],
  ["centre y", (one) => measured(one).y, finely, ""],
  ["width", (one) => measured(one).box[2] - measured(one).box[0], wholly, ""],
  ["height", (one) => measured(one).box[3] - measured(one).box[1], wholly, ""],
  ["parts", (one) => measured(one).parts, String],
  ["holes", (one) => measured(one).holes, String],
];

/** The table, sorted by the column that was clicked on last; a line clicked on or gone to is held. */
export class Table {
  #by = 1; #isUp = true; #shown = []; #selected = null; #scale = null; #lines = new Map();

  constructor(box, onSelect) {
    this.box = box;
    this.onSelect = onSelect;
  }

  fill(shown, selected, scale) {
    this.#shown = shown;
    this.#selected = selected;
    this.#scale = scale;
    const value = COLUMNS[this.#by][1], way = this.#isUp ? 1 : -1;
    const sorted = shown.toSorted((a, b) => way * (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0));
    this.#lines = new Map(sorted.map((one) => [one, this.#line(one)]));
    const heads = COLUMNS.map(([name, , , power], i) => this.#head(power === undefined ? name : `${name} ${scale.symbol}${power}`, i));
    const table = element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...this.#lines.values()));
    this.box.replaceChildren(shown.length ? table : element("p", { className: "faint", textContent: "No instance is shown." }));
  }

  hold(selected) {
    this.#selected = selected;
    for (const [one, line] of this.#lines) line.classList.toggle("held", one === selected);
    this.#lines.get(selected)?.scrollIntoView({ block: "nearest" });
  }

  /** To the next line, or the one before. */
  step(by) {
    const next = beside([...this.#lines.keys()], this.#selected, by);
    if (next) this.onSelect(next);
  }

  #head(name, i) {
    const button = element("button", { type: "button", textContent: name, onclick: () => this.#sort(i) });
    const head = element("th", { scope: "col" }, button);
    if (i === this.#by) head.setAttribute("aria-sort", this.#isUp ? "ascending" : "descending");
    return head;
  }

  #line(one) {
    const cells = COLUMNS.map(([, value, text]) => element("td", { textContent: text(value(one), this.#scale) }));
    const line = element("tr", { onclick: () => this.onSelect(one) }, ...cells);
    line.classList.toggle("held", one === this.#selected);
    return line;
  }

  #sort(i) {
    this.#isUp = i === this.#by ? !this.#isUp : true;
    this.#by = i;
    this.fill(this.#shown, this.#selected, this.#scale);
    this.box.querySelectorAll("th button")[i].focus();
  }
}
