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
export function row(one, by) {
  const meter = element("span", { className: "meter" }, element("i"));
  meter.firstChild.style.width = `${one.quality * 100}%`;
  const swatch = element("span", { className: "swatch" });
  const numbers = [
    element("span", { className: "q", textContent: one.quality.toFixed(2), title: "quality" }),
    element("span", { className: "s", textContent: one.score.toFixed(2), title: "score" }),
    element("span", { className: "a", textContent: one.area.toLocaleString("en"), title: "area in pixels" }),
  ];
  const name = element("span", { className: "class", textContent: one.class });
  const made = element("li", { id: `row-${one.index}` }, swatch, name, meter, ...numbers);
  made.setAttribute("role", "option");
  made.setAttribute("aria-label", words(one));
  paint(made, one, by);
  return made;
}

/** Its colours, which follow those of the masks. */
export function paint(made, one, by) {
  made.querySelector(".swatch").style.background = css(colour(one, by));
  made.querySelector(".meter i").style.background = css(colour(one, "quality"));
}

/** An instance for the ear. */
export function words(one) {
  const out = one.isOut ? ", left out" : "";
  return `${one.class}, quality ${one.quality.toFixed(2)}, score ${one.score.toFixed(2)}, ${one.area} pixels${out}`;
}

/** An instance for the eye, beside it. */
export function card(one) {
  const line = (name, value) => [element("dt", { textContent: name }), element("dd", { textContent: value })];
  const numbers = element("dl", {}, ...line("quality", one.quality.toFixed(3)), ...line("score", one.score.toFixed(3)), ...line("area", `${one.area.toLocaleString("en")} px`));
  return [element("strong", { textContent: one.class }), numbers];
}

const COLUMNS = [
  ["class", (one) => one.class, String],
  ["quality", (one) => one.quality, (v) => v.toFixed(3)],
  ["score", (one) => one.score, (v) => v.toFixed(3)],
  ["area px²", (one) => one.area, (v) => v.toLocaleString("en")],
  ["perimeter px", (one) => measured(one).perimeter, (v) => v.toFixed(1)],
  ["diameter px", (one) => measured(one).diameter, (v) => v.toFixed(1)],
  ["centre x", (one) => measured(one).x, (v) => v.toFixed(1)],
  ["centre y", (one) => measured(one).y, (v) => v.toFixed(1)],
  ["width", (one) => measured(one).box[2] - measured(one).box[0], String],
  ["height", (one) => measured(one).box[3] - measured(one).box[1], String],
  ["parts", (one) => measured(one).parts, String],
  ["holes", (one) => measured(one).holes, String],
];

/** The table, sorted by the column that was clicked on last; a line clicked on or gone to is held. */
export class Table {
  #by = 1; #isUp = true; #shown = []; #selected = null; #lines = new Map();

  constructor(box, onSelect) {
    this.box = box;
    this.onSelect = onSelect;
  }

  fill(shown, selected) {
    this.#shown = shown;
    this.#selected = selected;
    const value = COLUMNS[this.#by][1], way = this.#isUp ? 1 : -1;
    const sorted = shown.toSorted((a, b) => way * (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0));
    this.#lines = new Map(sorted.map((one) => [one, this.#line(one)]));
    const heads = COLUMNS.map(([name], i) => this.#head(name, i));
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
    const cells = COLUMNS.map(([, value, text]) => element("td", { textContent: text(value(one)) }));
    const line = element("tr", { onclick: () => this.onSelect(one) }, ...cells);
    line.classList.toggle("held", one === this.#selected);
    return line;
  }

  #sort(i) {
    this.#isUp = i === this.#by ? !this.#isUp : true;
    this.#by = i;
    this.fill(this.#shown, this.#selected);
    this.box.querySelectorAll("th button")[i].focus();
  }
}
