// Draws openapi.json: each route with its fields, an example, and its answers.

const make = (name, text = "", children = []) => {
  const node = Object.assign(document.createElement(name), { textContent: text });
  node.append(...children);
  return node;
};
const pretty = (value) => make("pre", typeof value === "string" ? value : JSON.stringify(value, null, 2));

function kindOf(schema) {
  if (schema.anyOf) return schema.anyOf.filter((each) => each.type !== "null").map(kindOf).join(" or ");
  if (schema.enum) return schema.enum.join(" | ");
  if (schema.type === "array") return `list of ${kindOf(schema.items)}`;
  return schema.format ?? schema.contentEncoding ?? schema.type;
}

function fields({ properties, required = [] }) {
  const rows = Object.entries(properties).map(([name, schema]) => make("tr", "", [
    make("td", "", [make("code", name)]),
    make("td", (required.includes(name) ? "needed; " : "") + kindOf(schema) + (schema.default != null && schema.default !== "" ? `; ${JSON.stringify(schema.default)}` : "")),
    make("td", schema.description ?? ""),
  ]));
  return make("table", "", rows);
}

function fold(title, ...children) { return make("details", "", [make("summary", title), ...children]); }

function route(path, verb, operation) {
  const parts = [make("h2", "", [Object.assign(make("span", verb.toUpperCase()), { className: "verb" }), make("code", path), make("span", operation.summary)])];
  if (operation.description) parts.push(make("p", operation.description.replaceAll("`", "")));
  const body = operation.requestBody?.content;
  if (body) {
    parts.push(fields(body["multipart/form-data"].schema));
    parts.push(fold("As JSON", pretty(body["application/json"].example)));
  }
  for (const [status, answer] of Object.entries(operation.responses ?? {})) {
    const examples = Object.entries(answer.content ?? {}).filter(([, each]) => each.example);
    if (examples.length) parts.push(fold(`${status} ${answer.description}`, ...examples.flatMap(([media, each]) => [make("code", media), pretty(each.example)])));
  }
  return Object.assign(make("section", "", parts), { className: "card" });
}

const described = await (await fetch("openapi.json")).json();
document.getElementById("summary").textContent = described.info.description;
document.getElementById("routes").replaceChildren(...Object.entries(described.paths).flatMap(([path, verbs]) =>
  Object.entries(verbs).map(([verb, operation]) => route(path, verb, operation))));
