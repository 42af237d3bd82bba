// What came back: before and after, maps, rounds, downloads.

import { chip } from "./chips.js";
import { encodeRle } from "./rle.js";
import { COLOURS, alphaToPng, greyToAlpha, tint } from "./painter.js";

const RAMP = [[22, 16, 48], [74, 22, 104], [158, 42, 99], [222, 86, 58], [250, 164, 42], [252, 244, 178]];
const $ = (id) => document.getElementById(id);

const decode = ({ data }) => createImageBitmap(new Blob([Uint8Array.from(atob(data), (each) => each.charCodeAt(0))]));

export class Result {
  #image; #before; #parts = []; #chosen = 0; #view = "mask";

  constructor() {
    $("split").addEventListener("input", (event) => $("compare").style.setProperty("--split", `${event.target.value}%`));
    $("views").addEventListener("change", (event) => { this.#view = event.target.value; this.#draw(); });
    $("phrases").addEventListener("change", (event) => { this.#chosen = Number(event.target.value); this.#draw(); });
    $("save-png").addEventListener("click", async () => save(await alphaToPng(this.mask), "mask.png"));
    $("save-rle").addEventListener("click", () => {
      const text = JSON.stringify(encodeRle(this.mask));
      save(new Blob([text], { type: "application/json" }), "mask.rle.json");
    });
  }

  /** The mask that is shown, as ImageData, in its alpha. */
  get mask() { return this.#parts[this.#chosen].mask; }

  hide() { $("found").hidden = $("views").hidden = true; }

  /** The place of the mask that is shown among all. */
  get chosen() { return this.#chosen; }

  /** Shows refined masks; `before` is the picture with what was drawn on it. */
  async showRefined(image, before, values) {
    [this.#image, this.#before, this.#chosen] = [image, before, 0];
    const masks = values.masks ?? [values];
    this.#parts = await Promise.all(masks.map((each, i) => readPart(each, COLOURS[i % COLOURS.length])));
    await showRounds(masks.length > 1 ? [] : values.rounds ?? []);
    this.#show([...masks.flatMap(describe), `Time: ${time(values.seconds)}.`], values.warnings);
  }

  /** Shows the masks of phrases. */
  async showSegments(image, values) {
    [this.#image, this.#before, this.#chosen] = [image, null, 0];
    const parts = values.segments.map((each, i) => readPart(each, COLOURS[i % COLOURS.length]));
    this.#parts = await Promise.all(parts);
    await showRounds([]);
    const count = values.segments.length;
    this.#show([`${count} ${count > 1 ? "phrases" : "phrase"}. Time: ${time(values.seconds)}.`], values.warnings);
  }

  #show(facts, warnings) {
    $("facts").replaceChildren(...facts.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
    $("warnings").textContent = warnings.map((text) => `${text[0].toUpperCase()}${text.slice(1)}.`).join(" ");
    $("found").hidden = $("views").hidden = false;
    $("empty").hidden = true;
    const chips = this.#parts.length > 1 || !this.#before ? this.#parts.map(({ phrase, colour }, i) => chip(phrase, colour, "phrase", i, i === 0)) : [];
    $("phrases").replaceChildren(...chips);
    $("tag-before").textContent = this.#before ? "before" : "picture";
    this.#view = document.querySelector("input[name=view]:checked").value;
    this.#draw();
    $("result-title").scrollIntoView({ block: "nearest" });
    if ($("compare").getBoundingClientRect().bottom > innerHeight) $("result-title").scrollIntoView();
  }

  #draw() {
    const { mask, probability, uncertainty, colour } = this.#parts[this.#chosen];
    const { width, height } = this.#image;
    for (const id of ["before", "after"]) { $(id).width = width; $(id).height = height; }
    const [before, after] = [$("before").getContext("2d"), $("after").getContext("2d")];
    before.drawImage(this.#before ?? this.#image, 0, 0);
    after.drawImage(this.#image, 0, 0);
    if (this.#view === "mask") tint(after, canvasOf(mask), colour);
    if (this.#view === "probability") after.putImageData(heat(probability), 0, 0);
    if (this.#view === "uncertainty") after.putImageData(heat(uncertainty), 0, 0);
    $("tag-after").textContent = this.#view === "mask" ? "after" : this.#view;
  }
}

/** What became of a mask, in sentences. */
function describe({ label, changed, iou_with_coarse: overlap, confidence, confidence_threshold: least, kept_coarse: kept, kept_share: undone }) {
  const facts = [`${label}: ${(100 * changed).toFixed(1)} % of the pixels changed. Overlap with the mask before: IoU ${overlap.toFixed(3)}, where 1 is unchanged.`];
  if (confidence === null) return facts;
  const trust = `confidence ${confidence.toFixed(3)}, at least ${least.toFixed(3)} is needed`;
  const outcome = kept ? "The mask is as before." : undone > 0 ? `${(100 * undone).toFixed(0)} % of the change was undone.` : "Nothing was undone.";
  return [...facts, `Guard: ${trust}. ${outcome}`];
}

/** A mask and its maps as ImageData. With a single sample, a probability near one half is uncertain. */
async function readPart(values, colour) {
  const read = async (value) => greyToAlpha(await decode(value));
  const [mask, probability] = [await read(values.mask), await read(values.probability)];
  const spread = values.uncertainty && await read(values.uncertainty);
  const unsure = (from, change) => {
    const pixels = new ImageData(from.width, from.height);
    for (let i = 3; i < pixels.data.length; i += 4) pixels.data[i] = change(from.data[i]);
    return pixels;
  };
  const uncertainty = spread ? unsure(spread, (value) => 2 * value) : unsure(probability, (value) => 255 - Math.abs(2 * value - 255));
  return { phrase: values.phrase ?? values.label, mask, probability, uncertainty, colour };
}

function heat(map) {
  const pixels = new ImageData(map.width, map.height);
  for (let i = 0; i < map.data.length; i += 4) {
    const place = (map.data[i + 3] / 255) * (RAMP.length - 1), low = Math.min(RAMP.length - 2, Math.floor(place));
    for (let c = 0; c < 3; c++) pixels.data[i + c] = RAMP[low][c] + (place - low) * (RAMP[low + 1][c] - RAMP[low][c]);
    pixels.data[i + 3] = 255;
  }
  return pixels;
}

async function showRounds(rounds) {
  const figures = await Promise.all(rounds.map(async (each, i) => {
    const title = document.createElement("h3");
    title.textContent = `Round ${i + 1}, noise level ${each.timestep}`;
    const [discrepancy, probability] = await Promise.all([each.discrepancy, each.probability].map(decode));
    return [title,
      figure(await decode(each.generated), "generated under the mask"),
      figure(canvasOf(heat(greyToAlpha(discrepancy))), "disagreement with the picture"),
      figure(canvasOf(heat(greyToAlpha(probability))), "foreground afterwards")];
  }));
  $("rounds").replaceChildren(...figures.flat());
}

function figure(picture, words) {
  const [frame, canvas, caption] = ["figure", "canvas", "figcaption"].map((name) => document.createElement(name));
  [canvas.width, canvas.height, caption.textContent] = [picture.width, picture.height, words];
  canvas.getContext("2d").drawImage(picture, 0, 0);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", words);
  frame.append(canvas, caption);
  return frame;
}

function canvasOf(pixels) {
  const canvas = new OffscreenCanvas(pixels.width, pixels.height);
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

function save(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const time = (seconds) => {
  const spent = Object.entries(seconds).reduce((sum, [stage, each]) => stage === "wait" ? sum : sum + each, 0);
  return spent < 1 ? `${Math.round(1000 * spent)} ms` : `${spent.toFixed(1)} s`;
};
