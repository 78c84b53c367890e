// The picture on the screen: masks drawn at the screen's own resolution, zooming, moving, finding what is under a finger.

import { colour, css } from "/page/colours.js";
import { cutPath, exactPath, smoothPath } from "/page/masks.js";

const PIXELS_SEEN = 4.5; // from this many screen pixels a picture's pixels are drawn as squares, and masks along them
const CORNERS_SEEN = 2.5; // from this many, corners that were cut off are rounded
const FURTHEST = 64;
const CLICK = 6; // pixels that a finger may move and still tap
const isCalm = matchMedia("(prefers-reduced-motion: reduce)");

export class View {
  #base; #marks; #picture = null; #at = { scale: 1, x: 0, y: 0 }; #isFitted = true; #fingers = new Map();
  #pinch = null; #moved = 0; #size = [0, 0]; #frame = 0; #glide = 0;
  /** What the page sets. */
  by = "quality";
  areHidden = false;
  gain = 1;
  selected = null;
  hovered = null;
  /** What the page is told. */
  onHover = () => {};
  onSelect = () => {};
  onMove = () => {};

  constructor(box, base, marks) {
    this.box = box;
    this.#base = base;
    this.#marks = marks;
    new ResizeObserver(() => this.#resized()).observe(box);
    marks.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    for (const kind of ["down", "move", "up", "cancel", "leave"])
      marks.addEventListener(`pointer${kind}`, (event) => this[`_${kind}`](event));
    marks.addEventListener("dblclick", (event) => this.zoom(2, ...this.#place(event)));
  }

  /** A picture: {width, height, bitmap, small, instances}; null for none. */
  show(picture) {
    this.#picture = picture;
    this.selected = this.hovered = null;
    this.fit(false);
  }

  draw() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#drawBase();
      this.#drawMarks();
    });
  }

  /** Only what is held or hovered changed. */
  mark() {
    requestAnimationFrame(() => this.#drawMarks());
  }

  fit(isSlow = true) {
    this.#isFitted = true;
    if (this.#picture) this.#go(this.#fitted(), isSlow);
  }

  zoom(factor, x = this.box.clientWidth / 2, y = this.box.clientHeight / 2) {
    const { scale, x: left, y: top } = this.#at;
    const next = Math.min(Math.max(scale * factor, Math.min(this.#fitted().scale, 1) / 2), FURTHEST);
    this.#isFitted = false;
    this.#go({ scale: next, x: x - ((x - left) * next) / scale, y: y - ((y - top) * next) / scale }, false);
  }

  move(dx, dy) {
    this.#isFitted = false;
    this.#go({ ...this.#at, x: this.#at.x + dx, y: this.#at.y + dy }, false);
  }

  /** Move so that an instance is in view, and large enough to be judged. */
  reveal({ box: [x0, y0, x1, y1] }) {
    const { clientWidth: width, clientHeight: height } = this.box, { scale, x, y } = this.#at;
    const side = Math.max(x1 - x0, y1 - y0, 1), large = Math.min(width, height) / 6 / side;
    const isSeen = x0 * scale + x >= 0 && y0 * scale + y >= 0 && x1 * scale + x <= width && y1 * scale + y <= height;
    if (isSeen && scale >= large * 0.5) return;
    const next = Math.min(Math.max(scale, large), FURTHEST, Math.min(width, height) / side);
    this.#isFitted = false;
    this.#go({ scale: next, x: width / 2 - ((x0 + x1) / 2) * next, y: height / 2 - ((y0 + y1) / 2) * next });
  }

  /** Where an instance is on the screen, in the box: x, y of its middle, and its upper end. */
  screen({ box: [x0, y0, x1, y1] }) {
    const { scale, x, y } = this.#at;
    return { x: ((x0 + x1) / 2) * scale + x, top: y0 * scale + y, bottom: y1 * scale + y };
  }

  /** The next instance to the right [1, 0], downwards [0, 1] ... of the one that is held. */
  neighbour([dx, dy]) {
    const middle = ({ box: [x0, y0, x1, y1] }) => [(x0 + x1) / 2, (y0 + y1) / 2];
    const shown = this.#shown();
    if (!this.selected) return shown[0] ?? null;
    const [x, y] = middle(this.selected);
    let best = null, least = Infinity;
    for (const one of shown) {
      const [mx, my] = middle(one), ahead = (mx - x) * dx + (my - y) * dy, aside = Math.abs((mx - x) * dy - (my - y) * dx);
      const far = ahead + 2 * aside;
      if (one !== this.selected && ahead > 0 && aside <= 2 * ahead && far < least) [best, least] = [one, far];
    }
    return best;
  }

  /** The whole picture with its masks, at its own resolution, as PNG. */
  async overlay(picture, shown) {
    const canvas = new OffscreenCanvas(picture.width, picture.height), context = canvas.getContext("2d");
    if (!context) throw new Error("This picture is too large for the browser to draw.");
    context.drawImage(picture.bitmap, 0, 0);
    const wide = Math.max(1, Math.min(picture.width, picture.height) / 250);
    for (const one of shown.toReversed()) this.#fill(context, one, smoothOf(one), wide);
    return canvas.convertToBlob({ type: "image/png" });
  }

  // Drawing

  #shown() {
    return this.#picture?.instances?.filter((one) => one.isShown) ?? [];
  }

  #drawBase() {
    const context = this.#cleared(this.#base), picture = this.#picture;
    if (!picture?.bitmap) return;
    const { scale } = this.#at, dense = scale * devicePixelRatio;
    const source = picture.small && dense * picture.width < picture.small.width ? picture.small : picture.bitmap;
    context.imageSmoothingEnabled = scale < PIXELS_SEEN / 2;
    context.imageSmoothingQuality = "high";
    context.drawImage(source, 0, 0, picture.width, picture.height);
    context.globalCompositeOperation = "lighter"; // the picture added to itself: brighter, and black stays black
    for (let left = this.gain - 1; left > 0; left--) {
      context.globalAlpha = Math.min(left, 1);
      context.drawImage(source, 0, 0, picture.width, picture.height);
    }
    context.globalAlpha = 1;
    context.globalCompositeOperation = "source-over";
    if (this.areHidden) return;
    const [x0, y0, x1, y1] = this.#seen();
    for (const one of this.#shown().reverse())
      if (one.box[0] < x1 && one.box[2] > x0 && one.box[1] < y1 && one.box[3] > y0)
        this.#fill(context, one, this.#pathOf(one), 1.6 / scale);
  }

  #fill(context, one, path, wide) {
    const tone = colour(one, this.by);
    context.fillStyle = css(tone, 0.26);
    context.fill(path, "evenodd");
    context.miterLimit = 2;
    context.lineWidth = 1.9 * wide; // a dark rim, so that light colours are seen on light pictures
    context.strokeStyle = "rgb(0 0 0 / .4)";
    context.stroke(path);
    context.lineWidth = wide;
    context.strokeStyle = css(tone);
    context.stroke(path);
  }

  #drawMarks() {
    const context = this.#cleared(this.#marks), { scale } = this.#at;
    for (const one of new Set([this.hovered, this.selected])) {
      if (!one?.isShown) continue;
      const path = this.#pathOf(one), isHeld = one === this.selected;
      context.fillStyle = css(colour(one, this.by), isHeld ? 0.12 : 0.3);
      context.fill(path, "evenodd");
      context.lineJoin = "round";
      for (const [tone, wide] of [["rgb(0 0 0 / .75)", isHeld ? 5.5 : 4.5], ["#fff", isHeld ? 2.75 : 1.75]]) {
        context.lineWidth = wide / scale;
        context.strokeStyle = tone;
        context.stroke(path);
      }
    }
  }

  #pathOf(one) {
    if (this.#at.scale >= PIXELS_SEEN) return exactOf(one);
    return this.#at.scale >= CORNERS_SEEN ? smoothOf(one) : cutOf(one);
  }

  #cleared(canvas) {
    const context = canvas.getContext("2d"), { scale, x, y } = this.#at, ratio = devicePixelRatio;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.setTransform(scale * ratio, 0, 0, scale * ratio, x * ratio, y * ratio);
    return context;
  }

  #seen() {
    const { scale, x, y } = this.#at;
    return [-x / scale, -y / scale, (this.box.clientWidth - x) / scale, (this.box.clientHeight - y) / scale];
  }

  #resized() {
    const { clientWidth: width, clientHeight: height } = this.box, [before, above] = this.#size;
    if (!width || !height) return; // the table is shown instead
    for (const canvas of [this.#base, this.#marks]) {
      canvas.width = Math.round(width * devicePixelRatio);
      canvas.height = Math.round(height * devicePixelRatio);
    }
    this.#size = [width, height];
    if (this.#isFitted) this.fit(false);
    else this.move((width - before) / 2, (height - above) / 2); // the middle stays where it is
  }

  // Moving

  #fitted() {
    const { clientWidth: width, clientHeight: height } = this.box, { width: w, height: h } = this.#picture;
    const margin = Math.min(24, width / 20), scale = Math.min((width - 2 * margin) / w, (height - 2 * margin) / h, FURTHEST);
    return { scale: Math.max(scale, 1e-4), x: (width - w * scale) / 2, y: (height - h * scale) / 2 };
  }

  #go(to, isSlow = true) {
    cancelAnimationFrame(this.#glide);
    if (!isSlow || isCalm.matches) return this.#set(to);
    const from = this.#at, began = performance.now();
    const step = (now) => {
      const part = Math.min((now - began) / 220, 1), eased = 1 - (1 - part) ** 3;
      const between = (key) => from[key] + (to[key] - from[key]) * eased;
      const scale = from.scale * (to.scale / from.scale) ** eased;
      this.#set(part < 1 ? { scale, x: between("x"), y: between("y") } : to);
      if (part < 1) this.#glide = requestAnimationFrame(step);
    };
    this.#glide = requestAnimationFrame(step);
  }

  /** Something of the picture stays in view. */
  #set({ scale, x, y }) {
    if (!this.#picture) return;
    const { clientWidth: width, clientHeight: height } = this.box, keep = 48;
    const within = (value, extent, side) => Math.min(Math.max(value, keep - extent), side - keep);
    this.#at = { scale, x: within(x, this.#picture.width * scale, width), y: within(y, this.#picture.height * scale, height) };
    // A finger on a picture that is wholly seen scrolls the page, as on the rest of it.
    this.#marks.style.touchAction = this.#isFitted ? "pan-y" : "none";
    this.draw();
    this.onMove();
  }

  #place(event) {
    const { left, top } = this.box.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  }

  #wheel(event) {
    if (!this.#picture) return;
    event.preventDefault();
    const unit = [1, 24, 400][event.deltaMode];
    this.zoom(Math.exp(-event.deltaY * unit * (event.ctrlKey ? 0.008 : 0.0016)), ...this.#place(event));
  }

  /** The smallest instance at a place of the screen. */
  at(x, y) {
    const { scale, x: left, y: top } = this.#at, px = (x - left) / scale, py = (y - top) / scale;
    const context = this.#marks.getContext("2d");
    context.save();
    context.setTransform(1, 0, 0, 1, 0, 0);
    const under = this.#shown().filter(
      (one) =>
        px >= one.box[0] - 0.5 && px <= one.box[2] + 0.5 && py >= one.box[1] - 0.5 && py <= one.box[3] + 0.5 &&
        context.isPointInPath(exactOf(one), px, py, "evenodd"),
    );
    context.restore();
    return under.sort((a, b) => a.area - b.area)[0] ?? null;
  }

  _down(event) {
    this.#fingers.set(event.pointerId, this.#place(event));
    this.#moved = this.#fingers.size > 1 ? Infinity : 0;
    this.#pinch = null;
  }

  _move(event) {
    const now = this.#place(event), before = this.#fingers.get(event.pointerId);
    if (!before) {
      if (event.pointerType === "mouse") this.onHover(this.at(...now));
      return;
    }
    const [dx, dy] = [now[0] - before[0], now[1] - before[1]];
    this.#moved += Math.hypot(dx, dy);
    if (this.#moved < CLICK) return;
    if (!this.#marks.hasPointerCapture(event.pointerId)) this.#marks.setPointerCapture(event.pointerId);
    this.#fingers.set(event.pointerId, now);
    if (this.#fingers.size === 1) {
      this.onHover(null);
      this.move(dx, dy);
    } else this.#pinched();
  }

  #pinched() {
    const [[ax, ay], [bx, by]] = this.#fingers.values();
    const now = { x: (ax + bx) / 2, y: (ay + by) / 2, apart: Math.hypot(ax - bx, ay - by) }, before = this.#pinch;
    this.#pinch = now;
    if (!before) return;
    this.move(now.x - before.x, now.y - before.y);
    this.zoom(now.apart / before.apart, now.x, now.y);
  }

  _up(event) {
    if (this.#fingers.delete(event.pointerId) && this.#moved < CLICK) this.onSelect(this.at(...this.#place(event)));
    this.#pinch = null;
  }

  _cancel(event) {
    this.#fingers.delete(event.pointerId);
    this.#pinch = null;
  }

  _leave() {
    this.onHover(null);
  }
}

// Made when they are first drawn.
const exactOf = (one) => (one.exact ??= exactPath(one.rings));
const cutOf = (one) => (one.cut ??= cutPath(one.rings));
const smoothOf = (one) => (one.smooth ??= smoothPath(one.rings));
