// The objects of a picture: each has a mask and a name. One of them is drawn and named at a time.

import { COLOURS } from "./painter.js";
import { chip } from "./chips.js";

const $ = (id) => document.getElementById(id);

export class Objects {
  #painter; #names = [""]; #shown = 0; // whose name is in the field

  /** `onchange` is called when another object is chosen, added or removed. */
  constructor(painter, onchange) {
    this.#painter = painter;
    this.onchange = onchange;
    $("add").addEventListener("click", () => { this.#store(); painter.addObject(); this.#names.push(""); this.#load(); $("words").focus(); });
    $("remove").addEventListener("click", () => { this.#names.splice(painter.active, 1); painter.removeObject(); this.#load(); $("words").focus(); });
    $("objects").addEventListener("change", (event) => { this.#store(); painter.active = Number(event.target.value); this.#load(); });
    $("words").addEventListener("change", () => { this.#store(); this.show(); });
  }

  /** Starts again with one object. */
  reset(name = "") {
    this.#names = [name];
    this.#load();
  }

  /** The names of all objects, in their order. */
  get names() {
    this.#store();
    return this.#names.map((name) => name.trim());
  }

  /** Chooses an object. */
  choose(index) {
    this.#store();
    this.#painter.active = index;
    this.#load();
  }

  /** Shows the name of the object that is drawn now, as after an undo. */
  follow() {
    if (this.#painter.active === this.#shown) return;
    this.#store();
    this.#load();
  }

  show() {
    const several = this.#painter.count > 1, texts = this.#names.map((name, i) => name.trim() || `object ${i + 1}`);
    if ($("objects").childElementCount !== (several ? texts.length : 0)) {
      const chips = texts.map((text, i) => chip(text, COLOURS[i % COLOURS.length], "object", i, false));
      $("objects").replaceChildren(...several ? chips : []);
    }
    for (const [i, label] of [...$("objects").children].entries()) { // in place, so that the focus stays
      label.lastChild.textContent = texts[i];
      label.firstChild.checked = i === this.#painter.active;
    }
    $("remove").hidden = !several;
  }

  #store() { this.#names[this.#shown] = $("words").value; }

  #load() {
    this.#shown = this.#painter.active;
    $("words").value = this.#names[this.#painter.active];
    this.show();
    this.onchange();
  }
}
