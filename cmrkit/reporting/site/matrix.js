// The matrix: rows are in the page already; here they are filtered, sorted, and shown with other numbers.

const FIELDS = ["q", "family", "dataset", "bits", "metric"];
const AT = { dataset: 0, bits: 1, metric: 2, kind: 3, paper: 4, ours: 6, std: 8, seeds: 10, verdict: 11 };
const ORDER = { status: ["verified", "runnable", "catalogued"], fidelity: ["code", "paper", "secondary"], verdict: ["match", "near", "below", "above", "unclaimed"] };
const filters = $("#filters");
const rows = $$("#matrix tbody tr").map((node) => {
  const paper = papers.get(node.dataset.key);
  const words = [paper.key, paper.acronym, paper.title, paper.venue, paper.year, paper.headings, paper.family, index.families[paper.family]];
  return { node, paper, text: words.join(" ").toLowerCase(), number: paper.numbers[0] || null };
});
const state = { status: "", verdict: "", sort: "", down: false };

function numberOf(paper, want) {
  return paper.numbers.find((n) => (!want.dataset || n[AT.dataset] === want.dataset) && (!want.bits || String(n[AT.bits]) === want.bits)
    && (!want.metric || n[AT.metric] === want.metric)) || null;
}

function matches(row, want) {
  const { paper } = row;
  const status = { runnable: ["runnable", "verified"], verified: ["verified"] }[state.status];
  return want.q.toLowerCase().split(/\s+/).every((word) => row.text.includes(word))
    && (!want.family || paper.family === want.family) && (!want.dataset || paper.datasets.includes(want.dataset))
    && (!status || status.includes(paper.status)) && (!state.verdict || paper.verdict === state.verdict)
    && ((!want.bits && !want.metric) || row.number);
}

function showNumber(row) {
  const [, , , , , , at, published, ours, verdictCell] = row.node.cells;
  const n = row.number, set = (cell, ...children) => cell.replaceChildren(...children.filter(Boolean));
  if (!n) return [at, published, ours, verdictCell].forEach((cell) => set(cell, "–"));
  const pair = (i) => h("span", { class: "pair" }, [n[i], n[i + 1]].filter((v) => v !== null).map((v) => fmt(v, n[AT.metric], 3)).join(" / ") || "–");
  const sub = (text, more = "") => text && h("span", { class: `sub${more}` }, text);
  const where = [n[AT.dataset], n[AT.bits] && `${n[AT.bits]} bits`].filter(Boolean).join(", ");
  set(at, n[AT.metric], sub(where));
  set(published, pair(AT.paper), sub(n[AT.kind]), sub(`${n[AT.metric]} ${where}`, " phone"));
  set(ours, pair(AT.ours), n[AT.seeds] && sub(many(n[AT.seeds], "seed")));
  const judged = Object.values(row.paper.tally).reduce((a, b) => a + b, 0);
  set(verdictCell, n[AT.verdict] ? verdict(n[AT.verdict]) : "–", n[AT.verdict] && judged && sub(`${row.paper.tally.match || 0}/${judged} claims`));
}

function applyFilters() {
  const want = Object.fromEntries(FIELDS.map((name) => [name, filters.elements[name].value.trim()]));
  let shown = 0;
  for (const row of rows) {
    const number = numberOf(row.paper, want);
    if (number !== row.number) {
      row.number = number;
      showNumber(row);
    }
    const hidden = !matches(row, want);
    if (row.node.hidden !== hidden) row.node.hidden = hidden;
    shown += !hidden;
  }
  const count = shown === rows.length ? many(shown, "paper") : `${shown} of ${many(rows.length, "paper")}`;
  $("#shown").textContent = shown ? count : "No paper fits these filters.";
  $$(".tile").forEach((tile) => {
    const pressed = tile.dataset.value ? state[tile.dataset.field] === tile.dataset.value : !state.status && !state.verdict;
    tile.setAttribute("aria-pressed", String(pressed));
  });
  remember("matrix", null, Object.entries({ ...want, status: state.status, verdict: state.verdict, sort: state.sort, down: state.down ? 1 : "" }));
}

function sortKey(row, name) {
  const { paper, number } = row;
  if (name === "paper" || name === "ours") return number && number[AT[name]] !== null ? number[AT[name]] : null;
  if (name === "verdict") return number && number[AT.verdict] ? ORDER.verdict.indexOf(number[AT.verdict]) : null;
  if (name === "metric") return number ? `${number[AT.metric]} ${number[AT.dataset]} ${String(number[AT.bits] || 0).padStart(5, "0")}` : null;
  if (name === "datasets") return paper.datasets.length ? paper.datasets.join(", ") : null;
  if (name === "family") return index.families[paper.family];
  if (ORDER[name]) return paper[name] ? ORDER[name].indexOf(paper[name]) : null;
  return paper[name];
}

function applySort() {
  const { sort: name, down } = state;
  const keyed = rows.map((row, i) => ({ row, i, key: name ? sortKey(row, name) : i }));
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en", { sensitivity: "base" }) : a - b);
  keyed.sort((a, b) => {
    if ((a.key === null) !== (b.key === null)) return a.key === null ? 1 : -1; // what is not known stays below
    return (a.key === null ? 0 : compare(a.key, b.key) * (down ? -1 : 1)) || a.i - b.i;
  });
  $("#matrix tbody").append(...keyed.map((k) => k.row.node));
  $$("#matrix thead th").forEach((th) => {
    if (th.dataset.sort === name && name) th.setAttribute("aria-sort", down ? "descending" : "ascending");
    else th.removeAttribute("aria-sort");
  });
}

function sortBy(name) {
  const first = ["year", "paper", "ours"].includes(name); // where the largest comes first
  if (state.sort !== name) Object.assign(state, { sort: name, down: first });
  else if (state.down === first) state.down = !first;
  else Object.assign(state, { sort: "", down: false });
  applySort();
  applyFilters();
  say(state.sort ? `sorted by ${name}, ${state.down ? "descending" : "ascending"}` : "in the first order again");
}

function showMatrix(params) {
  FIELDS.forEach((name) => { filters.elements[name].value = params.get(name) || ""; });
  Object.assign(state, { status: params.get("status") || "", verdict: params.get("verdict") || "", sort: params.get("sort") || "", down: params.get("down") === "1" });
  applySort();
  applyFilters();
  return "Papers";
}

$$("#matrix thead th").forEach((th) => {
  th.replaceChildren(h("button", { type: "button", onclick: () => sortBy(th.dataset.sort) }, th.textContent));
});
filters.addEventListener("input", applyFilters);
filters.addEventListener("submit", (e) => e.preventDefault());
filters.addEventListener("reset", () => {
  Object.assign(state, { status: "", verdict: "", sort: "", down: false });
  setTimeout(() => { applySort(); applyFilters(); });
});
$$(".tile").forEach((tile) => tile.addEventListener("click", () => {
  const { field, value } = tile.dataset;
  const same = state[field] === value;
  Object.assign(state, value ? { [field]: same ? "" : value } : { status: "", verdict: "" });
  applyFilters();
}));
