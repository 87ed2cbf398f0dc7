// Building nodes, numbers as people read them, and the page's own data. Text only ever enters as text nodes.

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const index = JSON.parse($("#index").textContent);
const papers = new Map(index.papers.map((p) => [p.key, p]));
const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return node;
}
const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// ``name`` in running text is code, as it is in docstrings.
const prose = (text) => text.split(/``(.+?)``/).map((part, i) => (i % 2 ? h("code", null, part) : part));

const perCent = (metric) => /^(r@|rsum|medr|meanr)/.test(metric);
const fmt = (value, metric = "", digits = 4) =>
  value === null || value === undefined ? "–" : value.toFixed(perCent(metric) ? Math.min(digits, 1) : digits);
const spread = (mean, std, metric, digits = 4) =>
  mean === null || mean === undefined ? "–" : std === null || std === undefined ? fmt(mean, metric, digits)
    : `${fmt(mean, metric, digits)} ± ${fmt(std, metric, digits)}`;
const seconds = (s) => (s === null || s === undefined ? "–" : s < 1 ? `${(s * 1000).toFixed(0)} ms` : s < 120 ? `${s.toFixed(1)} s` : `${(s / 60).toFixed(1)} min`);
const many = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
const ARROWS = { i2t: "image → text", t2i: "text → image" };
const isSmoke = (dataset) => index.embedded.includes(dataset);

const unpacked = new Map();
/** Return the JSON of a compressed block of the page, or null where there is none. */
async function block(name) {
  if (!unpacked.has(name)) {
    const node = document.getElementById(`blob-${name}`);
    if (!node) return null;
    const bytes = Uint8Array.from(atob(node.textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    unpacked.set(name, await new Response(stream).json());
  }
  return unpacked.get(name);
}

function verdict(name) {
  if (!name) return "–";
  return h("span", { class: `verdict ${name}` }, h("span", { class: `glyph ${name}`, "aria-hidden": "true" }, index.verdicts[name]), ` ${name}`);
}

/** A table in a box that scrolls sideways. Columns are [name, class]; a row is cells, of which the first is its header. */
function table(caption, columns, rows, attributes = {}) {
  const cell = (content, i) => h(i ? "td" : "th", { scope: i ? null : "row", class: columns[i][1] }, content);
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", attributes, h("caption", { class: "sr" }, caption),
      h("thead", null, h("tr", null, columns.map(([name, kind]) => h("th", { scope: "col", class: kind }, name)))),
      h("tbody", null, rows.map((row) => h("tr", { class: row.mark || null }, row.map(cell))))));
}

/** A select in a labelled paragraph; `chosen` is called with the new value. */
function picker(id, label, options, value, chosen) {
  return h("p", null, h("label", { for: id }, label),
    h("select", { id, onchange: (e) => chosen(e.target.value) },
      options.map(([v, name]) => h("option", { value: v, selected: String(v) === String(value) }, name))));
}

/** A button that copies text, also where the clipboard's own interface is not to be had. */
function copyButton(text, what, name = "Copy") {
  const button = h("button", { type: "button", class: "ghost", "aria-label": name === "Copy" ? `Copy ${what}` : null, onclick: copy }, name);
  async function copy() {
    let done = true;
    try {
      await navigator.clipboard.writeText(text());
    } catch {
      const area = h("textarea", { class: "sr", "aria-hidden": "true", tabindex: "-1" });
      area.value = text();
      document.body.append(area);
      area.select();
      done = document.execCommand("copy");
      area.remove();
      button.focus();
    }
    button.textContent = done ? "Copied" : "Not copied";
    say(done ? `${what} copied` : "the browser does not allow copying; select the text instead");
    setTimeout(() => { button.textContent = name; }, 2000);
  }
  return button;
}

const copyable = (text, what) => h("div", { class: "copy" },
  h("pre", { tabindex: "0", role: "region", "aria-label": what }, h("code", null, text)), copyButton(() => text, what));

const live = h("p", { class: "sr", role: "status", id: "live" });
$("#main").append(live);
function say(text) { live.textContent = text; }

/** Read "#/paper/batch?run=2" as {view, key, params}. */
function route() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [view, ...rest] = path.split("/").map(decode);
  return { view: view || "matrix", key: rest.join("/") || null, params: new URLSearchParams(query) };
}
function decode(part) {
  try { return decodeURIComponent(part); } catch { return part; }
}
/** Change the address without a step in the history. */
function remember(view, key, params) {
  const kept = new URLSearchParams([...params].filter(([, v]) => v !== "" && v !== null));
  const query = kept.toString();
  history.replaceState(null, "", `#/${view}${key ? `/${encodeURIComponent(key)}` : ""}${query ? `?${query}` : ""}`);
}
