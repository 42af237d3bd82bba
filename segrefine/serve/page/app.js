// The page: what is asked, and when. Start reading here.

import { Problem, compute, getJson, hasKey, readMask, setKey } from "./api.js";
import { appendMarks } from "./marks.js";
import { Objects } from "./objects.js";
import { Painter, maskToPng, strokesToPng } from "./painter.js";
import { Result } from "./result.js";
import { listSamples } from "./samples.js";

const $ = (id) => document.getElementById(id);
const painter = new Painter($("paint")), result = new Result(), objects = new Objects(painter, showTools);
const TOOLS = { b: "brush", e: "eraser", x: "box", p: "point", o: "off" };
const MARKS = ["box", "point", "off"];
const TEXTS = {
  refine: { title: "Name of the object", run: "Refine", words: "fox" },
  segment: { title: "Phrases, separated by commas, semicolons or lines", run: "Find", words: "the red car, all apples" },
};
const HINTS = {
  paint: "Paint roughly over one object, load its mask, or mark it with a box and points. Then name it.",
  marks: "Outside of all boxes is background. Points and brush strokes stay as drawn; the rest is found.",
  several: "Each object needs a mask and a name. They are refined together and compete for pixels. Boxes and points work for a single object.",
  segment: "Each phrase gets a mask of its own.",
};
let models = [], file = null, running = null;

const method = () => document.querySelector("input[name=method]:checked").value;
const offered = () => models.filter((each) => each.endpoint.endsWith(method()));
const model = () => offered().find((each) => each.name === $("model").value) ?? offered()[0];

async function start() {
  showMethod();
  await Promise.all([listModels(), listSamples(takeSample, fail)]).catch(fail);
}

async function listModels() {
  ({ models } = await getJson("v1/models"));
  for (const name of ["refine", "segment"]) {
    const input = document.querySelector(`input[value=${name}]`);
    input.disabled = !models.some((each) => each.endpoint.endsWith(name));
    input.parentElement.hidden = input.disabled;
  }
  const first = document.querySelector("input[name=method]:not(:disabled)");
  if (first && document.querySelector("input[name=method]:checked").disabled) first.checked = true;
  showMethod();
}

function showMethod() {
  showModels();
  const texts = TEXTS[method()], refines = method() === "refine", words = model()?.words, presets = model()?.presets ?? [];
  $("words-title").textContent = texts.title;
  $("run").textContent = running ? "Stop" : texts.run;
  $("words").placeholder = texts.words;
  painter.paints = refines;
  $("tools").hidden = !painter.image;
  for (const each of $("tools").children) each.hidden = !refines && each.id !== "other";
  $("guard-choice").hidden = !refines;
  if ($("preset").dataset.model !== model()?.name) {
    $("preset").replaceChildren(...presets.map((name) => new Option(name)));
    if (presets.length) $("preset").dataset.model = model().name;
  }
  $("preset-choice").hidden = presets.length < 2;
  $("known").replaceChildren(...(refines ? words ?? [] : []).map((word) => new Option(word)));
  showTools();
}

/** The models of the method, to choose from if there are several. */
function showModels() {
  const names = offered().map((each) => each.name);
  $("model-choice").hidden = names.length < 2;
  if ([...$("model").options].map((each) => each.value).join() === names.join()) return;
  $("model").replaceChildren(...names.map((name) => new Option(name)));
}

/** What can be drawn now, and a hint on it: boxes and points are for a single object, as on the command line. */
function showTools() {
  const several = painter.count > 1, marked = painter.hasMarks(), words = model()?.words;
  $("object-row").hidden = method() !== "refine" || !painter.image;
  $("add").disabled = marked;
  for (const name of MARKS) document.querySelector(`[data-tool=${name}]`).disabled = several;
  if (several && MARKS.includes(painter.tool)) pickTool("brush");
  const hint = method() === "segment" ? "segment" : several ? "several" : marked ? "marks" : "paint";
  $("hint").textContent = HINTS[hint];
  $("vocabulary").hidden = !words;
  if (words) $("vocabulary").firstChild.textContent = `${model().name} knows ${words.length} words`;
  if (words) $("vocabulary").lastChild.textContent = words.join(", ");
}

async function takeFile(taken) {
  let image;
  try {
    image = await createImageBitmap(taken, { imageOrientation: "from-image" });
  } catch {
    const detail = `${taken.name || "That"} is no picture that this browser can show.`;
    throw new Problem({ detail, hint: "Save it as PNG or JPEG.", code: "bad_image" });
  }
  running?.abort(); // its result would show the previous picture
  file = taken;
  $("drop").hidden = true;
  $("paint").hidden = false;
  const name = method() === "refine" ? objects.names[0] : $("words").value;
  painter.show(image);
  objects.reset(name);
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

async function takeSample({ name, label }, image, mask) {
  await takeFile(image);
  painter.setMask(await createImageBitmap(mask));
  if (method() === "refine") objects.reset(label); else $("words").value = `the ${label}`;
  $("words").dataset.sample = name;
}

async function run() {
  if (running) { running.abort(); return; }
  $("problem").hidden = true;
  if (!file) throw new Problem({ detail: "There is no picture yet.", hint: "Drop one on the left, or pick a photograph.", code: "no_image" });
  const kind = method(), image = painter.image, before = painter.snapshot();
  const form = await (kind === "refine" ? formOfObjects() : formOfPhrases());
  form.set("image", file);
  if (model()) form.set("model", model().name);
  form.append("maps", "probability");
  if ($("preset").value && $("preset").value !== "default") form.set("preset", $("preset").value);
  const own = running = new AbortController();
  showMethod();
  tell("sent", 0);
  $("progress").hidden = false;
  try {
    const values = await compute(`v1/${kind}`, form, tell, own.signal);
    if (own.signal.aborted) return;
    await (kind === "refine" ? result.showRefined(image, before, values) : result.showSegments(image, values));
  } finally {
    running = null;
    $("progress").hidden = true;
    showMethod();
  }
}

/** What is asked of the objects that are drawn: a mask and a label each, or the marks of one. */
async function formOfObjects() {
  const form = new FormData(), names = objects.names;
  const marked = painter.count === 1 && painter.hasMarks(0);
  for (let i = 0; i < painter.count; i++) {
    const which = painter.count > 1 ? ` for ${names[i] || `object ${i + 1}`}` : "";
    if (!painter.isPainted(i) && !marked) {
      objects.choose(i);
      throw new Problem({ detail: `There is no mask yet${which}.`, hint: "Paint over the object, load its mask, or draw a box around it.", code: "no_mask" });
    }
    if (!names[i]) {
      objects.choose(i);
      throw new Problem({ detail: `Object ${i + 1} has no name.`, hint: "Name it with a word, such as fox.", code: "no_name" });
    }
    if (!marked) form.append("mask", await maskToPng(painter.getMask(i)));
    form.append("label", names[i]);
  }
  if (marked) {
    appendMarks(form, painter.getMarks(0));
    if (painter.isPainted(0)) form.set("scribble", await strokesToPng(painter.getMask(0)));
  }
  form.append("maps", "rounds");
  form.set("guard", $("guard").checked);
  return form;
}

function formOfPhrases() {
  const form = new FormData();
  for (const phrase of $("words").value.split(/[,;\n]/).map((part) => part.trim()).filter(Boolean)) form.append("phrases", phrase);
  if (!form.has("phrases")) throw new Problem({ detail: "There is no phrase yet.", hint: "Name what to find, such as the red car.", code: "no_phrase" });
  if (model()?.method === "gs") { // zero-shot segmentation draws no samples
    form.append("maps", "uncertainty");
    form.set("samples", 4);
  }
  return form;
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
  hint.textContent = error.hint ?? "Reload the page.";
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
  if (result.chosen < painter.count) objects.choose(result.chosen);
  painter.setMask(result.mask);
  showMethod();
  $("paint").focus();
});
$("words").addEventListener("paste", (event) => { // a line of text has no line breaks: they become commas
  const lines = event.clipboardData.getData("text").split(/\r?\n/).map((each) => each.trim()).filter(Boolean);
  if (lines.length < 2) return;
  event.preventDefault();
  $("words").setRangeText(lines.join(", "), $("words").selectionStart, $("words").selectionEnd, "end");
});
painter.onchange = () => { objects.follow(); showTools(); };
for (const input of document.querySelectorAll("input[name=method], #model")) input.addEventListener("change", showMethod);
for (const button of document.querySelectorAll("[data-tool]")) button.addEventListener("click", () => pickTool(button.dataset.tool));
$("paint").addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && event.key === "z") { event.preventDefault(); painter.undo(); }
  else if (TOOLS[event.key] && !event.ctrlKey && !event.metaKey) document.querySelector(`[data-tool=${TOOLS[event.key]}]`).click(); // not if disabled
});
for (const name of ["dragover", "dragleave", "drop"]) {
  $("stage").addEventListener(name, (event) => {
    event.preventDefault();
    $("stage").classList.toggle("over", name === "dragover");
    if (name === "drop") takeDropped([...event.dataTransfer.files].slice(0, 2)).catch(fail);
  });
}
start();
