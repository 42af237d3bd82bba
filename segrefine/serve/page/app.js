// The page: what is asked, and when. Start reading here.

import { Problem, compute, getJson, hasKey, readMask, setKey } from "./api.js";
import { Painter, maskToPng } from "./painter.js";
import { Result } from "./result.js";

const $ = (id) => document.getElementById(id);
const painter = new Painter($("paint")), result = new Result();
const TOOLS = { b: "brush", e: "eraser", x: "box", p: "point" };
const TEXTS = {
  refine: { title: "What does the mask show?", run: "Refine", words: "fox", hint: "Paint roughly over one thing or load a mask, and name it." },
  segment: { title: "What to find, separated by commas", run: "Find", words: "the red car, all apples", hint: "Each phrase gets a mask of its own." },
};
let models = [], file = null, running = null;

const method = () => document.querySelector("input[name=method]:checked").value;

async function start() {
  showMethod();
  await Promise.all([listModels(), listSamples()]).catch(fail);
}

async function listModels() {
  ({ models } = await getJson("v1/models"));
  for (const name of ["refine", "segment"]) {
    const input = document.querySelector(`input[value=${name}]`);
    input.disabled = !models.some((model) => model.endpoint.endsWith(name));
    input.parentElement.hidden = input.disabled;
  }
  const first = document.querySelector("input[name=method]:not(:disabled)");
  if (first && document.querySelector("input[name=method]:checked").disabled) first.checked = true;
  showMethod();
}

async function listSamples() {
  const labels = await getJson("samples/labels.json");
  $("samples").replaceChildren(...Object.entries(labels).map(([name, label]) => {
    const [button, picture] = [document.createElement("button"), document.createElement("img")];
    Object.assign(picture, { src: `samples/images/${name}.png`, alt: "", loading: "lazy" });
    Object.assign(button, { type: "button", title: label });
    button.setAttribute("aria-label", `Scene with a ${label}`);
    button.dataset.sample = name;
    button.append(picture);
    button.addEventListener("click", () => takeSample(name, label).catch(fail));
    return button;
  }));
}

function showMethod() {
  const texts = TEXTS[method()];
  $("words-title").textContent = texts.title;
  $("run").textContent = running ? "Stop" : texts.run;
  $("words").placeholder = texts.words;
  painter.paints = method() === "refine";
  $("tools").hidden = !painter.image;
  for (const each of $("tools").children) each.hidden = method() !== "refine" && each.id !== "other";
  $("guard-choice").hidden = method() !== "refine";
  const words = models.find((model) => model.endpoint.endsWith(method()))?.words;
  $("hint").textContent = texts.hint + (words ? ` The demo model knows: ${words.join(", ")}.` : "");
  $("known").replaceChildren(...(method() === "refine" ? words ?? [] : []).map((word) => new Option(word)));
}

async function takeFile(taken) {
  let image;
  try {
    image = await createImageBitmap(taken, { imageOrientation: "from-image" });
  } catch {
    const detail = `${taken.name || "That"} is no picture that this browser can show.`;
    throw new Problem({ detail, hint: "Save it as PNG or JPEG.", code: "bad_image" });
  }
  running?.abort(); // its result would be of the picture before
  file = taken;
  $("drop").hidden = true;
  $("paint").hidden = false;
  painter.show(image);
  showMethod();
  result.hide();
  $("problem").hidden = true;
  $("empty").hidden = false;
}

async function takeMask(taken) {
  $("problem").hidden = true;
  const mask = await readMask(taken), { width, height } = painter.image;
  if (mask.width !== width || mask.height !== height) {
    const detail = `Expected a mask of ${width}×${height} pixels, as the picture; got ${mask.width}×${mask.height}.`;
    throw new Problem({ detail, hint: "Load the mask that was drawn on this picture.", code: "bad_mask" });
  }
  document.querySelector("input[value=refine]").checked = true;
  painter.setMask(mask);
  showMethod();
}

/** A dropped file is the picture; with a picture there, a file of the same size, or an array, is its mask. */
async function takeDropped(files) {
  for (const each of files) await (await isMask(each) ? takeMask(each) : takeFile(each));
}

async function isMask(dropped) {
  if (!painter.image || document.querySelector("input[value=refine]").disabled) return false;
  if (dropped.name.toLowerCase().endsWith(".npy")) return true;
  const picture = await createImageBitmap(dropped, { imageOrientation: "from-image" }).catch(() => null);
  return picture?.width === painter.image.width && picture?.height === painter.image.height;
}

async function takeSample(name, label) {
  const [image, mask] = await Promise.all(["images", "masks"].map(async (kind) => (await fetch(`samples/${kind}/${name}.png`)).blob()));
  await takeFile(image);
  painter.setMask(await createImageBitmap(mask));
  $("words").value = method() === "refine" ? label : `the ${label}`;
  $("words").dataset.sample = name;
}

async function run() {
  if (running) { running.abort(); return; }
  $("problem").hidden = true;
  const words = $("words").value.trim(), kind = method();
  if (!file) throw new Problem({ detail: "There is no picture yet.", hint: "Drop one on the left, or pick a scene.", code: "no_image" });
  const form = new FormData(), mask = painter.getMask(), image = painter.image;
  form.set("image", file);
  form.append("maps", "probability");
  if (kind === "refine") {
    if (painter.isEmpty) throw new Problem({ detail: "There is no mask yet.", hint: "Paint over the thing that you name.", code: "no_mask" });
    form.set("mask", await maskToPng(mask));
    form.set("label", words);
    form.append("maps", "rounds");
    form.set("guard", $("guard").checked);
  } else {
    for (const phrase of words.split(",").map((part) => part.trim()).filter(Boolean)) form.append("phrases", phrase);
    form.append("maps", "uncertainty");
    form.set("samples", 4);
  }
  const own = running = new AbortController();
  showMethod();
  tell("sent", 0);
  $("progress").hidden = false;
  try {
    const values = await compute(`v1/${kind}`, form, tell, own.signal);
    if (own.signal.aborted) return;
    await (kind === "refine" ? result.showRefined(image, mask, values) : result.showSegments(image, values));
  } finally {
    running = null;
    $("progress").hidden = true;
    showMethod();
  }
}

function tell(stage, share) {
  $("share").value = share;
  $("told").textContent = stage;
}

async function fail(error) {
  if (error.name === "AbortError") return;
  if (error.status === 401 && await askKey()) return listModels().catch(fail);
  const [title, hint] = [document.createElement("strong"), document.createElement("span")];
  title.textContent = error.detail ?? `Something in this page failed: ${error.message}`;
  hint.textContent = error.hint ?? "Load the page again.";
  $("problem").replaceChildren(title, hint);
  $("problem").hidden = false;
  $("problem").dataset.code = error.code ?? "";
  $("problem").scrollIntoView({ block: "nearest" }); // on a phone the result is far below
}

function askKey() {
  const dialog = $("key");
  $("key-title").textContent = hasKey() ? "That is not this service's key" : "This service asks for its key";
  $("key-text").value = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => {
    if (dialog.returnValue === "ok") setKey($("key-text").value);
    resolve(dialog.returnValue === "ok");
  }, { once: true }));
}

function pickTool(name) {
  painter.tool = name;
  for (const button of document.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", button.dataset.tool === name);
}

$("ask").addEventListener("submit", (event) => { event.preventDefault(); run().catch(fail); });
$("file").addEventListener("change", (event) => event.target.files[0] && takeFile(event.target.files[0]).catch(fail));
$("size").addEventListener("input", (event) => { painter.size = Number(event.target.value); painter.draw(); });
$("undo").addEventListener("click", () => painter.undo());
$("clear").addEventListener("click", () => painter.clear());
$("load").addEventListener("click", () => $("mask-file").click());
$("mask-file").addEventListener("change", (event) => {
  const [taken] = event.target.files;
  if (taken) takeMask(taken).catch(fail);
  event.target.value = ""; // so that the same file can be loaded again
});
$("other").addEventListener("click", () => $("file").click());
$("again").addEventListener("click", () => {
  document.querySelector("input[value=refine]").checked = true;
  painter.setMask(result.mask);
  showMethod();
  $("paint").focus();
});
for (const input of document.querySelectorAll("input[name=method]")) input.addEventListener("change", showMethod);
for (const button of document.querySelectorAll("[data-tool]")) button.addEventListener("click", () => pickTool(button.dataset.tool));
$("paint").addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && event.key === "z") { event.preventDefault(); painter.undo(); }
  else if (TOOLS[event.key] && !event.ctrlKey && !event.metaKey) pickTool(TOOLS[event.key]);
});
for (const name of ["dragover", "dragleave", "drop"]) {
  $("stage").addEventListener(name, (event) => {
    event.preventDefault();
    $("stage").classList.toggle("over", name === "dragover");
    if (name === "drop") takeDropped([...event.dataTransfer.files].slice(0, 2)).catch(fail);
  });
}
start();
