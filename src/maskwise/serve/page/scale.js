// How long the side of a pixel is, read as `Scale.parse` of the Python package reads it, and numbers in its unit.

const WRITTEN = /^([-+.\d]{1,30}(?:e[-+]?\d{1,3})?)\s{0,9}(\P{Nd}{0,20})$/iu;
const MOST = 5; // decimals; what would have more is written with a power of ten
const FIGURES = Array.from({ length: MOST + 1 }, (_, decimals) =>
  new Intl.NumberFormat("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals }));

export class Scale {
  constructor(side, unit) {
    this.side = side;
    this.unit = unit;
  }

  /** The unit for people; in files it is um. */
  get symbol() {
    return this.unit === "um" ? "µm" : this.unit;
  }

  /** The same in a sentence. */
  get name() {
    return this.unit === "px" ? "pixels" : this.symbol;
  }

  length(pixels) {
    return pixels * this.side;
  }

  area(pixels) {
    return pixels * this.side * this.side;
  }

  /** Told apart are lengths that differ by so many pixels. */
  lengthText(pixels, step = 1) {
    return figure(this.length(pixels), this.length(step));
  }

  /** Told apart are areas that differ by a pixel. */
  areaText(pixels) {
    return figure(this.area(pixels), this.area(1));
  }
}

export const PIXELS = new Scale(1, "px");

/**
 * From what people write: 0.325 µm, 0.325um, 12cm, or 0.325, which is in µm. Micro has two letters, the sign and the
 * Greek one. Nothing is pixels; so is what is wrong, with why.
 */
export function read(text) {
  const written = text.trim(), [, number, unit] = written.match(WRITTEN) ?? [], side = Number(number);
  const wrong = written && complaint(written, side, unit);
  return { scale: written && !wrong ? new Scale(side, unit.replace(/[µμ]/g, "u") || "um") : PIXELS, wrong };
}

/** The bounds are those of the package. */
function complaint(written, side, unit) {
  if (written.includes(",")) return "Write it with a point: 0.325 µm.";
  if (side <= 0) return "It must be more than 0.";
  return side >= 1e-30 && side <= 1e30 && /^\p{L}*$/u.test(unit) ? "" : "Expected a length, such as 0.325 µm.";
}

function figure(value, step) {
  const decimals = Math.max(0, -Math.floor(Math.log10(step)));
  if (decimals <= MOST && value < 1e9) return FIGURES[decimals].format(value);
  return value ? value.toExponential(3) : "0";
}
