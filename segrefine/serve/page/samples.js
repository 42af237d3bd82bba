// The pictures to try: photographs first, then drawn scenes.

import { getJson } from "./api.js";

/** Lists them as buttons. `take(sample, image, mask)` hears of the one that is picked, with its files as Blobs. */
export async function listSamples(take, fail) {
  for (const [kind, samples] of Object.entries(await getJson("samples/list.json"))) {
    document.getElementById(kind).replaceChildren(...samples.map((each) => button(each, kind, take, fail)));
  }
}

function button(sample, kind, take, fail) {
  const [made, picture] = [document.createElement("button"), document.createElement("img")];
  Object.assign(picture, { src: sample.image, alt: "", loading: "lazy" });
  Object.assign(made, { type: "button", title: sample.label });
  made.setAttribute("aria-label", `${kind === "photographs" ? "Photograph" : "Scene"}: ${sample.label}`);
  made.dataset.sample = sample.name;
  made.append(picture);
  made.addEventListener("click", () => pick(sample, take).catch(fail));
  return made;
}

async function pick(sample, take) {
  const [image, mask] = await Promise.all([sample.image, sample.mask].map(async (path) => (await fetch(path)).blob()));
  await take(sample, image, mask);
}
