// PNG and ZIP, written by hand: a browser's own PNGs have no 16-bit grey, and are never without colours.

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n >>> 0;
});

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

function joined(parts) {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  parts.reduce((at, part) => (all.set(part, at), at + part.length), 0);
  return all;
}

async function deflated(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function chunk(type, data) {
  const body = joined([new TextEncoder().encode(type), data]), ends = new DataView(new ArrayBuffer(8));
  ends.setUint32(0, data.length);
  ends.setUint32(4, crc32(body));
  return joined([new Uint8Array(ends.buffer, 0, 4), body, new Uint8Array(ends.buffer, 4, 4)]);
}

/** Grey values as PNG: of 8 bits from a Uint8Array, of 16 from a Uint16Array. */
export async function greyPng(values, width, height) {
  const depth = values.BYTES_PER_ELEMENT, lines = new Uint8Array((width * depth + 1) * height);
  for (let y = 0, at = 0, i = 0; y < height; y++) {
    at++; // 0: the line is not filtered
    for (let x = 0; x < width; x++, i++) {
      if (depth === 2) lines[at++] = values[i] >> 8;
      lines[at++] = values[i] & 255;
    }
  }
  const head = new DataView(new ArrayBuffer(13));
  head.setUint32(0, width);
  head.setUint32(4, height);
  head.setUint8(8, 8 * depth); // then colour type 0, which is grey, and the only ways there are
  const signature = Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10);
  const parts = [chunk("IHDR", new Uint8Array(head.buffer)), chunk("IDAT", await deflated(lines)), chunk("IEND", new Uint8Array(0))];
  return joined([signature, ...parts]);
}

/** Files by their names in one archive, stored as they are. */
export function zip(files) {
  const locals = [], index = [];
  let at = 0;
  for (const [name, bytes] of files) {
    const path = new TextEncoder().encode(name), crc = crc32(bytes);
    const local = record(0x04034b50, [[20, 2], [0x800, 2], [0, 2], [0, 2], [0x21, 2], [crc, 4], [bytes.length, 4], [bytes.length, 4], [path.length, 2], [0, 2]]);
    index.push(record(0x02014b50, [[20, 2], [20, 2], [0x800, 2], [0, 2], [0, 2], [0x21, 2], [crc, 4], [bytes.length, 4], [bytes.length, 4], [path.length, 2], [0, 2], [0, 2], [0, 2], [0, 2], [0, 4], [at, 4]]), path);
    locals.push(local, path, bytes);
    at += local.length + path.length + bytes.length;
  }
  const length = index.reduce((sum, part) => sum + part.length, 0), count = files.length;
  const end = record(0x06054b50, [[0, 2], [0, 2], [count, 2], [count, 2], [length, 4], [at, 4], [0, 2]]);
  return joined([...locals, ...index, end]);
}

/** A signature and numbers, each with its count of bytes, the lowest first. */
function record(signature, numbers) {
  const all = [[signature, 4], ...numbers], view = new DataView(new ArrayBuffer(all.reduce((sum, [, size]) => sum + size, 0)));
  all.reduce((at, [value, size]) => (size === 4 ? view.setUint32(at, value, true) : view.setUint16(at, value, true), at + size), 0);
  return new Uint8Array(view.buffer);
}

export function base64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 0x8000) text += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  return btoa(text);
}
