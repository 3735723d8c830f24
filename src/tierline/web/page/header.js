// Finds where the header of a model's file ends, so that nothing behind it leaves the browser.
// It only steps over things: whether the header makes sense is for the server to say.

export const MOST_BYTES = 16 * 2 ** 20;
const CHUNK_BYTES = 2 ** 20;
const GGUF_SIZES = { 0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8 };
const STRING = 8;
const ARRAY = 9;

export class HeaderError extends Error {}

// Returns {name, fileBytes, content} for one file; throws HeaderError where it is too much.
export async function headerOf(file) {
  let end = file.size;
  if (file.name.endsWith(".safetensors")) end = await safetensorsEnd(file);
  else if (file.name.endsWith(".gguf")) end = await ggufEnd(file);
  if (end > MOST_BYTES) {
    throw new HeaderError(`${file.name}: over 16 MiB, which no header takes; only headers are sent`);
  }
  return { name: file.name, fileBytes: file.size, content: await file.slice(0, end).arrayBuffer() };
}

async function safetensorsEnd(file) {
  const start = new DataView(await file.slice(0, 8).arrayBuffer());
  if (start.byteLength < 8) return file.size;
  const length = start.getBigUint64(0, true);
  // A length that cannot be true goes with nothing but itself: the server says what is wrong.
  return length > BigInt(file.size - 8) ? 8 : 8 + Number(length);
}

// A cursor over a file that is read by the chunk; reading past the end or the bound throws Ended.
class Ended extends Error {}

class Cursor {
  constructor(file) {
    this.file = file;
    this.at = 0;
    this.start = 0;
    this.view = new DataView(new ArrayBuffer(0));
  }

  async need(count) {
    if (this.at + count > Math.min(this.file.size, MOST_BYTES + 1)) throw new Ended();
    if (this.at < this.start || this.at + count > this.start + this.view.byteLength) {
      this.start = this.at;
      const stop = this.at + Math.max(CHUNK_BYTES, count);
      this.view = new DataView(await this.file.slice(this.at, stop).arrayBuffer());
    }
  }

  async u32() {
    await this.need(4);
    this.at += 4;
    return this.view.getUint32(this.at - 4 - this.start, true);
  }

  async u64() {
    await this.need(8);
    this.at += 8;
    const value = this.view.getBigUint64(this.at - 8 - this.start, true);
    if (value > BigInt(MOST_BYTES)) throw new Ended();
    return Number(value);
  }

  skip(count) {
    this.at += count;
    if (this.at > Math.min(this.file.size, MOST_BYTES)) throw new Ended();
  }
}

async function ggufEnd(file) {
  const cursor = new Cursor(file);
  try {
    await skipGguf(cursor);
    return cursor.at;
  } catch (error) {
    if (!(error instanceof Ended)) throw error;
    // Cut short, nonsense, or too long: what was stepped over is enough to say which.
    return cursor.at > MOST_BYTES ? cursor.at : Math.min(cursor.at, file.size);
  }
}

async function skipGguf(cursor) {
  if ((await cursor.u32()) !== 0x46554747) return;
  cursor.skip(4);
  const tensors = await cursor.u64();
  const keys = await cursor.u64();
  for (let i = 0; i < keys; i++) {
    cursor.skip(await cursor.u64());
    await skipValue(cursor, await cursor.u32());
  }
  for (let i = 0; i < tensors; i++) {
    cursor.skip(await cursor.u64());
    cursor.skip(8 * (await cursor.u32()) + 4 + 8);
  }
}

async function skipValue(cursor, type) {
  if (type === STRING) cursor.skip(await cursor.u64());
  else if (type === ARRAY) {
    const inner = await cursor.u32();
    const count = await cursor.u64();
    if (inner in GGUF_SIZES) cursor.skip(count * GGUF_SIZES[inner]);
    else if (inner === STRING) for (let i = 0; i < count; i++) cursor.skip(await cursor.u64());
    else throw new Ended();
  } else if (type in GGUF_SIZES) cursor.skip(GGUF_SIZES[type]);
  else throw new Ended();
}
