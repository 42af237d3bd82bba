// A chip: a radio button that looks like a coloured label.

export function chip(text, colour, group, value, checked) {
  const [label, input, shown] = ["label", "input", "span"].map((name) => document.createElement(name));
  Object.assign(input, { type: "radio", name: group, value, checked });
  shown.textContent = text;
  shown.style.setProperty("--chip", colour);
  label.append(input, shown);
  return label;
}
