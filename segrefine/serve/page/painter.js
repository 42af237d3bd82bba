// The picture with a mask drawn on it, by pointer, touch or keyboard. The mask is the alpha of a canvas of its own.

export const ORANGE = "#ff7a1a";
const MOST_UNDO = 20;

export class Painter {
  #canvas; #context; #mask; #maskContext; #image = null; #undo = []; #from = null; #last = null; #cursor = null;
  tool = "brush";
  size = 8;  // percent of the longer side
  onchange = () => {};

  constructor(canvas) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
    this.#mask = document.createElement("canvas");
    this.#maskContext = this.#mask.getContext("2d", { willReadFrequently: true });
    canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => this.#end());
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("blur", () => { this.#cursor = null; this.draw(); });
  }

  get image() { return this.#image; }
  get paints() { return !this.#canvas.dataset.still; }
  set paints(yes) { this.#canvas.dataset.still = yes ? "" : "still"; this.draw(); }

  /** Shows a picture (ImageBitmap), with no mask on it. */
  show(image) {
    this.#image = image;
    for (const canvas of [this.#canvas, this.#mask]) { canvas.width = image.width; canvas.height = image.height; }
    this.#undo = [];
    this.draw();
  }

  /** Takes a mask: a picture of the same size whose grey, or ImageData whose alpha, is the mask. */
  setMask(source) {
    this.#remember();
    this.#maskContext.putImageData(source instanceof ImageData ? source : greyToAlpha(source), 0, 0);
    this.draw();
    this.onchange();
  }

  /** The mask as ImageData, in its alpha. */
  getMask() { return this.#maskContext.getImageData(0, 0, this.#mask.width, this.#mask.height); }

  get isEmpty() { return !this.#image || !this.getMask().data.some((value, index) => index % 4 === 3 && value > 127); }

  clear() {
    this.#remember();
    this.#maskContext.clearRect(0, 0, this.#mask.width, this.#mask.height);
    this.draw();
    this.onchange();
  }

  undo() {
    const before = this.#undo.pop();
    if (!before) return;
    this.#maskContext.putImageData(before, 0, 0);
    this.draw();
    this.onchange();
  }

  draw() {
    if (!this.#image) return;
    const { width, height } = this.#canvas;
    this.#context.drawImage(this.#image, 0, 0);
    if (this.paints) tint(this.#context, this.#mask, ORANGE);
    this.#context.strokeStyle = "#fff";
    this.#context.lineWidth = Math.max(1, Math.max(width, height) / 300);
    if (this.#from && this.#last) this.#context.strokeRect(...rectangle(this.#from, this.#last));
    if (this.#cursor && this.paints) this.#ring(this.#cursor);
  }

  get #radius() { return Math.max(0.5, (this.size / 200) * Math.max(this.#mask.width, this.#mask.height)); }

  #ring([x, y]) {
    this.#context.beginPath();
    this.#context.arc(x, y, this.#radius, 0, 7);
    this.#context.stroke();
  }

  #place(event) {
    const box = this.#canvas.getBoundingClientRect();
    const scale = Math.min(box.width / this.#canvas.width, box.height / this.#canvas.height);
    const left = (box.width - this.#canvas.width * scale) / 2, top = (box.height - this.#canvas.height * scale) / 2;
    return [(event.clientX - box.left - left) / scale, (event.clientY - box.top - top) / scale];
  }

  #begin(event) {
    if (!this.paints || event.button > 0) return;
    event.preventDefault();
    this.#canvas.focus({ preventScroll: true });
    this.#cursor = null;
    this.#canvas.setPointerCapture(event.pointerId);
    this.#remember();
    this.#start(this.#place(event));
  }

  #start(place) {
    this.#last = place;
    if (this.tool === "box") this.#from = place; else this.#stroke(place, place);
    this.draw();
  }

  #move(event) {
    if (!this.#last) return;
    for (const each of event.getCoalescedEvents?.() ?? [event]) this.#to(this.#place(each));
  }

  #to(place) {
    if (this.tool === "brush" || this.tool === "eraser") this.#stroke(this.#last, place);
    this.#last = place;
    this.draw();
  }

  #end() {
    if (!this.#last) return;
    if (this.#from) { this.#maskContext.fillStyle = ORANGE; this.#maskContext.fillRect(...rectangle(this.#from, this.#last)); }
    this.#from = this.#last = null;
    this.draw();
    this.onchange();
  }

  #stroke(from, to) {
    const context = this.#maskContext;
    context.globalCompositeOperation = this.tool === "eraser" ? "destination-out" : "source-over";
    context.strokeStyle = ORANGE;
    context.lineCap = "round";
    context.lineWidth = 2 * this.#radius;
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(to[0] + 0.001, to[1]);
    context.stroke();
    context.globalCompositeOperation = "source-over";
  }

  #remember() {
    this.#undo.push(this.getMask());
    if (this.#undo.length > MOST_UNDO) this.#undo.shift();
  }

  #key(event) {
    const step = Math.max(this.#mask.width, this.#mask.height) / (event.shiftKey ? 100 : 25);
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (!this.paints || !this.#image || (event.key !== " " && !moves[event.key])) return;
    event.preventDefault();
    this.#cursor ??= [this.#mask.width / 2, this.#mask.height / 2];
    if (moves[event.key]) {
      const limits = [this.#mask.width, this.#mask.height];
      this.#cursor = this.#cursor.map((at, axis) => Math.min(limits[axis], Math.max(0, at + moves[event.key][axis])));
      if (this.#last) this.#to(this.#cursor);
    } else if (this.tool === "box" && this.#from) {
      this.#end();
    } else {
      this.#remember();
      this.#start([...this.#cursor]);
      if (this.tool !== "box") this.#end();
    }
    this.draw();
  }
}

/** Draws the alpha of a canvas, in one colour and half transparent, with a line around it. */
export function tint(context, mask, colour) {
  const width = Math.max(1, Math.round(Math.max(mask.width, mask.height) / 200));
  const around = [[-1, -1], [0, -1], [1, -1], [-1, 0], [1, 0], [-1, 1], [0, 1], [1, 1]].map((step) => step.map((each) => each * width));
  const line = coloured(mask, colour, around);
  const inside = line.getContext("2d");
  inside.globalCompositeOperation = "destination-out";
  inside.drawImage(mask, 0, 0);
  context.save();
  context.globalAlpha = 0.45;
  context.drawImage(coloured(mask, colour, [[0, 0]]), 0, 0);
  context.globalAlpha = 1;
  context.drawImage(line, 0, 0);
  context.restore();
}

function coloured(mask, colour, places) {
  const layer = new OffscreenCanvas(mask.width, mask.height), context = layer.getContext("2d");
  for (const place of places) context.drawImage(mask, ...place);
  context.globalCompositeOperation = "source-in";
  context.fillStyle = colour;
  context.fillRect(0, 0, layer.width, layer.height);
  return layer;
}

/** ImageData in orange, whose alpha is the grey of a picture. */
export function greyToAlpha(picture) {
  const context = new OffscreenCanvas(picture.width, picture.height).getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  const pixels = context.getImageData(0, 0, picture.width, picture.height), data = pixels.data;
  for (let i = 0; i < data.length; i += 4) {
    data[i + 3] = data[i];
    [data[i], data[i + 1], data[i + 2]] = [255, 122, 26];
  }
  return pixels;
}

/** A PNG, as a Blob, of ImageData: its alpha as grey. */
export function alphaToPng(pixels) {
  const canvas = new OffscreenCanvas(pixels.width, pixels.height), context = canvas.getContext("2d");
  const grey = context.createImageData(pixels.width, pixels.height);
  for (let i = 0; i < grey.data.length; i += 4) {
    grey.data[i] = grey.data[i + 1] = grey.data[i + 2] = pixels.data[i + 3];
    grey.data[i + 3] = 255;
  }
  context.putImageData(grey, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}

/** A PNG, as a Blob, for the service: the mask stays in the alpha, which is never taken for class indices. */
export function maskToPng(pixels) {
  const canvas = new OffscreenCanvas(pixels.width, pixels.height), context = canvas.getContext("2d");
  const black = context.createImageData(pixels.width, pixels.height);
  for (let i = 3; i < black.data.length; i += 4) black.data[i] = pixels.data[i];
  context.putImageData(black, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}

const rectangle = ([x, y], [u, v]) => [Math.min(x, u), Math.min(y, v), Math.abs(x - u), Math.abs(y - v)];
