"use strict";
// Shows /openapi.json: what there is, and a form to try each operation. Without any library: the page must work where
// nothing can be fetched from elsewhere.

const byId = (id) => document.getElementById(id);

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function example(schema, root, depth = 0) {
  if (!schema || depth > 4) return null;
  if (schema.$ref) return example(root.components.schemas[schema.$ref.split("/").pop()], root, depth + 1);
  if (schema.enum) return schema.enum[0];
  if (schema.type === "object") {
    const made = {};
    for (const [name, inner] of Object.entries(schema.properties || {})) made[name] = example(inner, root, depth + 1);
    return made;
  }
  if (schema.type === "array") return [];
  return { string: "", integer: 0, number: 0, boolean: false }[schema.type] ?? {};
}

function headersOf(contentType) {
  const headers = {};
  const credential = byId("credential").value.trim();
  if (credential.startsWith("am_")) headers["x-api-key"] = credential;
  else if (credential) headers.authorization = `Bearer ${credential}`;
  if (contentType) headers["content-type"] = contentType;
  return headers;
}

async function send(path, verb, inputs, body, contentType, shown) {
  const query = new URLSearchParams();
  let target = path;
  for (const [parameter, input] of inputs) {
    if (parameter.in === "path") target = target.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
    else if (input.value) query.set(parameter.name, input.value);
  }
  if ([...query].length) target += `?${query}`;
  shown.textContent = "...";
  try {
    const started = performance.now();
    const options = { method: verb.toUpperCase(), headers: headersOf(body && contentType), body: body ? body.value : undefined };
    const response = await fetch(target, options);
    const text = await response.text();
    let pretty = text;
    try { pretty = JSON.stringify(JSON.parse(text), null, 2); } catch { /* as it is */ }
    shown.textContent = `${response.status} ${response.statusText}  ${Math.round(performance.now() - started)} ms\n\n${pretty}`;
  } catch (error) {
    shown.textContent = String(error);
  }
}

function operation(path, verb, it, root) {
  const made = element("details", { className: "operation" });
  made.append(element("summary", {}, element("span", { className: `verb ${verb}` }, verb), element("code", {}, path)));
  made.append(element("p", {}, it.description || it.summary || ""));
  const inputs = [];
  if (it.parameters) {
    const table = element("table");
    for (const parameter of it.parameters) {
      const input = element("input", { "aria-label": parameter.name });
      inputs.push([parameter, input]);
      const name = parameter.name + (parameter.required ? " *" : "");
      table.append(element("tr", {}, element("th", {}, name), element("td", {}, input), element("td", {}, parameter.description || "")));
    }
    made.append(table);
  }
  let body = null;
  let contentType = null;
  if (it.requestBody) {
    contentType = Object.keys(it.requestBody.content)[0];
    const schema = it.requestBody.content[contentType].schema;
    const start = contentType === "application/json" ? JSON.stringify(example(schema, root) ?? {}, null, 2) : "";
    body = element("textarea", { value: start, spellcheck: false, "aria-label": "body" });
    made.append(element("p", {}, contentType), body);
  }
  const shown = element("pre");
  const button = element("button", { type: "button" }, "send");
  button.addEventListener("click", () => send(path, verb, inputs, body, contentType, shown));
  made.append(button, shown);
  return made;
}

async function start() {
  const root = await (await fetch("/openapi.json")).json();
  byId("about").textContent = `${root.info.description} Version ${root.info.version}.`;
  const groups = new Map();
  for (const [path, item] of Object.entries(root.paths)) {
    for (const [verb, it] of Object.entries(item)) {
      const tag = (it.tags || ["other"])[0];
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push(operation(path, verb, it, root));
    }
  }
  const main = byId("operations");
  main.textContent = "";
  for (const [tag, operations] of groups) main.append(element("section", {}, element("h2", {}, tag), ...operations));
  byId("find").addEventListener("input", (event) => {
    const wanted = event.target.value.toLowerCase();
    for (const each of document.querySelectorAll(".operation")) each.hidden = !each.textContent.toLowerCase().includes(wanted);
  });
}

start().catch((error) => { byId("operations").textContent = String(error); });
