// One picture on its way: shown at once, sent, answered or refused.

import { decode, trace } from "/page/masks.js";
import { Failed } from "/page/server.js";

const SMALL = 2048;
const THUMB = 72;
let count = 0;

export class Picture {
  id = ++count;
  /** waiting, asking, busy, done, failed */
  state = "waiting";
  message = "";
  canRetry = false;
  bitmap = null;
  small = null;
  instances = null;
  thumb = Object.assign(document.createElement("canvas"), { width: 2 * THUMB, height: 2 * THUMB });
  onChange = () => {};

  constructor(file, name) {
    this.file = file;
    this.name = name;
  }

  /** Ask the server; the picture itself is shown meanwhile. */
  async ask(server, limits) {
    this.#tell("asking", "Looking for instances …");
    try {
      this.#check(limits);
      if (!this.bitmap) await this.#show(await this.#local());
      const answer = await server.predict(this.file, (left) => this.#wait(left));
      if (!this.#isShownAs(answer))
        await this.#show(await createImageBitmap(await server.picture(this.file, (left) => this.#wait(left))));
      this.instances = answer.instances.map(prepared);
      this.#tell("done", answer.limit_reached ? incomplete(answer.limit_reached) : "");
    } catch (error) {
      this.canRetry = error instanceof Failed ? error.canRetry : false;
      this.code = error instanceof Failed ? error.code : "";
      this.#tell("failed", error instanceof Failed ? error.message : `The browser could not show this picture (${error.message}).`);
    }
  }

  /** Whether the browser turned the picture upright as the server did: it does not read all that tells how. */
  #isShownAs({ width, height, exif_orientation: turned }) {
    const doesSizeTell = !turned || (turned > 4 && width !== height);
    return doesSizeTell && this.bitmap?.width === width && this.bitmap.height === height;
  }

  #check({ body_bytes: most }) {
    const size = this.file.size, mebibytes = (bytes) => `${(bytes / 2 ** 20).toLocaleString("en", { maximumFractionDigits: 1 })} MiB`;
    if (!size) throw new Failed("This file is empty.");
    if (size + 2000 > most) throw new Failed(`This file is too large: ${mebibytes(size)}. The server takes ${mebibytes(most)}.`, { code: "too_large" });
  }

  #wait(left) {
    if (left) this.#tell("busy", `The server is busy. Trying again in ${left} s.`);
    else this.#tell("asking", "Looking for instances …");
  }

  #tell(state, message) {
    this.state = state;
    this.message = message;
    this.onChange(this);
  }

  /** What the browser makes of the file; null where that is nothing, or not what the model sees. */
  async #local() {
    const head = new Uint8Array(await this.file.slice(0, 26).arrayBuffer());
    const isDeepPng = head[1] === 80 && head[2] === 78 && head[3] === 71 && head[24] === 16; // browsers cut to the upper byte
    return isDeepPng ? null : createImageBitmap(this.file).catch(() => null);
  }

  async #show(bitmap) {
    if (!bitmap) return;
    this.bitmap = bitmap;
    [this.width, this.height] = [bitmap.width, bitmap.height];
    const by = SMALL / Math.max(bitmap.width, bitmap.height);
    if (by < 0.75) this.small = await createImageBitmap(bitmap, { resizeWidth: Math.max(1, Math.round(bitmap.width * by)), resizeHeight: Math.max(1, Math.round(bitmap.height * by)), resizeQuality: "high" });
    const side = Math.min(bitmap.width, bitmap.height), context = this.thumb.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(this.small ?? bitmap, ...this.#middle(side), 0, 0, 2 * THUMB, 2 * THUMB);
    this.gain = brightness(context.getImageData(0, 0, 2 * THUMB, 2 * THUMB).data);
    this.onChange(this);
  }

  /** The square in the middle, in pixels of what the thumbnail is drawn from. */
  #middle(side) {
    const by = this.small ? this.small.width / this.bitmap.width : 1;
    return [((this.width - side) / 2) * by, ((this.height - side) / 2) * by, side * by, side * by];
  }
}

/** By how much a dark picture can be brightened: then one pixel in fifty is white. */
function brightness(rgba) {
  const values = new Uint8Array(rgba.length / 4);
  for (let i = 0; i < values.length; i++) values[i] = Math.max(rgba[4 * i], rgba[4 * i + 1], rgba[4 * i + 2]);
  return Math.min(Math.max(255 / Math.max(values.sort()[Math.floor(values.length * 0.98)], 1), 1), 12);
}

const incomplete = (most) => `There may be more instances: this model gives at most ${most.toLocaleString("en")} of a picture, or of a tile of a large one, and gave them all.`;

/** Rings are traced once; whether an instance is shown, the sliders say. */
function prepared(found, index) {
  return { ...found, index, rings: trace(decode(found.mask)), isShown: true, isOut: false };
}
