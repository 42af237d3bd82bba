// The picture with what is drawn on it, by pointer, touch or keyboard: for each object a mask, boxes and points.
// A mask is the alpha of a canvas of its own.

import { drawMarks, rectangle } from "./marks.js";

export const COLOURS = ["#ff7a1a", "#4fb3ff", "#7ddb6a", "#f28bd3", "#ffd23f", "#9d8cff", "#4fd6c3", "#ff8f8f"];
export const ORANGE = COLOURS[0];
const MOST_UNDO = 20;

export class Painter {
  #canvas; #context; #image = null; #objects = []; #active = 0; #undo = []; #from = null; #last = null; #cursor = null;
  tool = "brush";
  size = 8;  // percent of the longer side
  onchange = () => {};

  constructor(canvas) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
    this.#objects = [this.#newObject()];
    canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => this.#end());
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("blur", () => { this.#cursor = null; this.draw(); });
  }

  get image() { return this.#image; }
  get paints() { return !this.#canvas.dataset.still; }
  set paints(yes) { this.#canvas.dataset.still = yes ? "" : "still"; this.draw(); }

  get count() { return this.#objects.length; }
  get active() { return this.#active; }
  set active(index) { this.#active = index; this.draw(); }

  /** Shows a picture (ImageBitmap), with one object and no mask on it. */
  show(image) {
    this.#image = image;
    this.#canvas.width = image.width;
    this.#canvas.height = image.height;
    this.#objects = [this.#newObject()];
    this.#active = 0;
    this.#undo = [];
    this.draw();
  }

  /** Adds an object without a mask. It becomes the one that is drawn. */
  addObject() {
    this.#objects.push(this.#newObject());
    this.#active = this.count - 1;
    this.draw();
  }

  removeObject() {
    this.#objects.splice(this.#active, 1);
    this.#active = Math.max(0, this.#active - 1);
    this.#undo = [];
    this.draw();
  }

  /** Takes a mask: a picture of the same size whose grey, or ImageData whose alpha, is the mask. */
  setMask(source) {
    this.#remember();
    const object = this.#object;
    [object.boxes, object.points] = [[], []];
    object.context.putImageData(source instanceof ImageData ? source : greyToAlpha(source), 0, 0);
    this.#changed();
  }

  /** The mask of an object as ImageData, in its alpha. */
  getMask(index = this.#active) {
    const { context, mask } = this.#objects[index];
    return context.getImageData(0, 0, mask.width, mask.height);
  }

  /** The boxes [[x, y], [x, y]] and points [x, y, on] of an object, in pixels. */
  getMarks(index = this.#active) {
    const { boxes, points } = this.#objects[index];
    return { boxes, points };
  }

  hasMarks(index = this.#active) {
    const { boxes, points } = this.getMarks(index);
    return boxes.length + points.length > 0;
  }

  isPainted(index = this.#active) {
    return this.#image !== null && this.getMask(index).data.some((value, i) => i % 4 === 3 && value > 127);
  }

  /** The picture under all that is drawn, as a canvas. */
  snapshot() {
    const canvas = new OffscreenCanvas(this.#canvas.width, this.#canvas.height);
    this.#drawOn(canvas.getContext("2d"));
    return canvas;
  }

  clear() {
    this.#remember();
    const { context, mask } = this.#object;
    context.clearRect(0, 0, mask.width, mask.height);
    [this.#object.boxes, this.#object.points] = [[], []];
    this.#changed();
  }

  undo() {
    const before = this.#undo.pop();
    if (!before) return;
    this.#active = before.index;
    this.#object.context.putImageData(before.pixels, 0, 0);
    [this.#object.boxes, this.#object.points] = [before.boxes, before.points];
    this.#changed();
  }

  draw() {
    if (!this.#image) return;
    const context = this.#context;
    if (this.paints) this.#drawOn(context); else context.drawImage(this.#image, 0, 0);
    this.#setLine();
    if (this.#from && this.#last) context.strokeRect(...rectangle(this.#from, this.#last));
    if (this.#cursor && this.paints) this.#ring(this.#cursor);
  }

  #drawOn(context) {
    context.drawImage(this.#image, 0, 0);
    this.#objects.forEach(({ mask, boxes, points }, i) => {
      tint(context, mask, COLOURS[i % COLOURS.length]);
      drawMarks(context, boxes, points, COLOURS[i % COLOURS.length]);
    });
  }

  get #object() { return this.#objects[this.#active]; }

  #newObject() {
    const mask = document.createElement("canvas");
    [mask.width, mask.height] = [this.#canvas.width, this.#canvas.height];
    return { mask, context: mask.getContext("2d", { willReadFrequently: true }), boxes: [], points: [] };
  }

  #changed() {
    this.draw();
    this.onchange();
  }

  #setLine() {
    this.#context.strokeStyle = "#fff";
    this.#context.lineWidth = Math.max(1, Math.max(this.#canvas.width, this.#canvas.height) / 300);
  }

  get #side() { return Math.max(this.#canvas.width, this.#canvas.height); }
  get #radius() { return Math.max(0.5, (this.size / 200) * this.#side); }

  #ring([x, y]) {
    this.#context.beginPath();
    this.#context.arc(x, y, this.#radius, 0, 7);
    this.#context.stroke();
  }

  #place(event) {
    const box = this.#canvas.getBoundingClientRect();
    const scale = Math.min(box.width / this.#canvas.width, box.height / this.#canvas.height);
    const left = (box.width - this.#canvas.width * scale) / 2, top = (box.height - this.#canvas.height * scale) / 2;
    return this.#inside([(event.clientX - box.left - left) / scale, (event.clientY - box.top - top) / scale]);
  }

  #inside([x, y]) {
    return [Math.min(this.#canvas.width - 0.1, Math.max(0, x)), Math.min(this.#canvas.height - 0.1, Math.max(0, y))];
  }

  #begin(event) {
    if (!this.paints || event.button > 0) return;
    event.preventDefault();
    this.#canvas.focus({ preventScroll: true });
    this.#cursor = null;
    this.#canvas.setPointerCapture(event.pointerId);
    this.#start(this.#place(event));
  }

  #start(place) {
    this.#remember();
    this.#last = place;
    if (this.tool === "box") this.#from = place;
    else if (this.tool === "point" || this.tool === "off") this.#object.points = [...this.#object.points, [...place, this.tool === "point"]];
    else this.#stroke(place, place);
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
    if (this.#from) {
      const [, , width, height] = rectangle(this.#from, this.#last);
      if (width >= 1 && height >= 1) this.#object.boxes = [...this.#object.boxes, [this.#from, this.#last]];
      else this.#undo.pop(); // a click draws no box
    }
    this.#from = this.#last = null;
    this.#changed();
  }

  #stroke(from, to) {
    const context = this.#object.context;
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
    const { boxes, points } = this.#object;
    this.#undo.push({ index: this.#active, pixels: this.getMask(), boxes, points });
    if (this.#undo.length > MOST_UNDO) this.#undo.shift();
  }

  #key(event) {
    const step = this.#side / (event.shiftKey ? 100 : 25);
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (!this.paints || !this.#image || (event.key !== " " && !moves[event.key])) return;
    event.preventDefault();
    this.#cursor ??= [this.#canvas.width / 2, this.#canvas.height / 2];
    if (moves[event.key]) {
      this.#cursor = this.#inside(this.#cursor.map((at, axis) => at + moves[event.key][axis]));
      if (this.#last) this.#to(this.#cursor);
    } else if (this.tool === "box" && this.#from) {
      this.#end();
    } else {
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

/** A PNG, as a Blob, of strokes for the service: white on the object, the rest transparent. */
export function strokesToPng(pixels) {
  const canvas = new OffscreenCanvas(pixels.width, pixels.height), context = canvas.getContext("2d");
  const white = context.createImageData(pixels.width, pixels.height);
  for (let i = 3; i < white.data.length; i += 4) if (pixels.data[i] > 127) white.data.fill(255, i - 3, i + 1);
  context.putImageData(white, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}
