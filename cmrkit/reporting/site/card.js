// A paper's card: citation, idea, claims against runs, runs in detail, parameters with their provenance.

async function showCard(key, params) {
  const section = $("#view-paper");
  const paper = papers.get(key);
  if (!paper) {
    section.replaceChildren(crumb(), h("h1", { tabindex: "-1" }, "No such paper"), h("p", null, `There is no recipe "${key}". `, h("a", { href: `#/matrix?q=${encodeURIComponent(key)}` }, "Search for it"), "."));
    return "No such paper";
  }
  const facts = (await block("facts"))[key];
  const run = (await block(`run-${key}`)) || { groups: [], claims: ((await block("claims")) || {})[key] || [], tally: {}, galleries: [] };
  section.replaceChildren(...[crumb(), head(paper, facts), ideaPanel(facts, paper), claimsPanel(run, key),
    run.groups.length ? runsPanel(run, key, params) : null, galleryPanel(run), parametersPanel(facts), panel("Cite", copyable(facts.bibtex, "BibTeX")), notesPanel(facts)].filter(Boolean));
  return paper.acronym;
}

const crumb = () => h("p", { class: "crumb" }, h("a", { href: "#/matrix" }, "← All papers"));
const panel = (title, ...children) => h("section", { class: "panel" }, h("h2", null, title), ...children);
// Only addresses of the web become links: a recipe may come from anywhere.
const link = (url, text) => (/^https?:\/\//.test(url) ? h("a", { href: url, rel: "noreferrer" }, text) : text);

function head(paper, facts) {
  const p = facts.paper;
  const code = p.code && [link(p.code.url, p.code.official ? "official code" : "code"), p.code.licence ? ` (${p.code.licence})` : ""];
  const links = [p.url && link(p.url, "paper"), p.doi && link(`https://doi.org/${p.doi}`, `doi:${p.doi}`), code].filter(Boolean);
  return h("header", null,
    h("div", { class: "cardhead" }, h("h1", { tabindex: "-1" }, paper.acronym), h("span", { class: `status ${paper.status}` }, paper.status),
      paper.fidelity && h("span", { class: "tag" }, `follows the ${paper.fidelity === "secondary" ? "literature" : paper.fidelity}`), paper.verdict && verdict(paper.verdict)),
    h("p", { class: "papertitle" }, paper.title),
    h("p", { class: "meta" }, [(p.authors || []).join(", "), `${paper.venue} ${paper.year}`, index.families[paper.family]].filter(Boolean).join(" · ")),
    h("ul", { class: "links" }, links.map((l) => h("li", null, l)), h("li", null, copyButton(() => facts.bibtex, "BibTeX", "Copy BibTeX"))));
}

function ideaPanel(facts, paper) {
  if (!facts.idea) {
    return panel("What it optimises", h("p", null, "This paper is described here, but no method runs it yet. ",
      h("a", { href: `#/matrix?family=${paper.family}&status=runnable` }, "What runs in its family")), topics(facts));
  }
  const parts = [];
  for (const [kind, text] of facts.idea) {
    if (kind === "li") {
      const list = parts.at(-1)?.tagName === "UL" ? parts.at(-1) : parts[parts.push(h("ul", null)) - 1];
      list.append(h("li", null, prose(text)));
    } else {
      parts.push(kind === "pre" ? h("pre", { tabindex: "0", role: "region", "aria-label": "Formula" }, h("code", null, text)) : h("p", null, prose(text)));
    }
  }
  return panel("What it optimises", h("div", { class: "prose" }, parts),
    later("All of the method's notes", () => h("pre", { tabindex: "0", role: "region", "aria-label": "The method's notes" }, h("code", null, facts.doc))), topics(facts));
}

const topics = (facts) => h("p", { class: "sub" }, facts.paper.taxonomy.join(" · "));

function claimsPanel(run, key) {
  if (!run.claims.length) {
    return run.groups.length ? panel("Claims", h("p", null, "Unclaimed: no number with a source is on record for this paper.")) : null;
  }
  const judged = run.claims.filter((c) => c.verdict);
  const main = judged.filter((c) => c.main);
  const shown = (main.length ? main : judged).filter((c) => !/:|@100$/.test(c.metric));
  const tally = Object.entries(run.tally).map(([name, count]) => h("span", null, verdict(name), ` ${count} `));
  const sources = [...new Set(run.claims.map((c) => c.source))];
  const rest = run.claims.length - shown.length;
  return panel("Claims against runs",
    h("p", null, judged.length ? [tally, ` of ${many(judged.length, "claim")} judged; ${run.claims.length - judged.length} not run here.`]
      : [`${many(run.claims.length, "claim")} on record, none run here yet: `, h("code", null, `cmrkit reproduce ${key}`)]),
    shown.length ? claimsTable("Claims under the paper's own protocol", shown, sources, ["items", "database", "ties", "similarity"]) : null,
    causes(shown),
    rest ? later(`All ${run.claims.length} claims, under every protocol variant`, () => h("div", null, claimsTable("All claims", run.claims, sources), causes(run.claims))) : null,
    h("ol", { class: "sub" }, sources.map((s) => h("li", null, s))));
}

function claimsTable(caption, claims, sources, hidden = []) {
  const at = (c) => Object.entries(c.at).filter(([k]) => k !== "direction" && !(c.main && hidden.includes(k))).map(([k, v]) => `${k}=${v}`).join(" ");
  const rows = claims.map((c) => [
    [c.metric, " ", c.at.direction ? ARROWS[c.at.direction] : "", h("span", { class: "sub" }, `${c.dataset} ${at(c)}`)],
    [spread(c.value, c.claimed_std, c.metric), h("span", { class: "sub" }, `${c.kind} [${sources.indexOf(c.source) + 1}]`)],
    [spread(c.obtained, c.std, c.metric), c.n ? h("span", { class: "sub" }, many(c.n, "seed")) : null],
    c.obtained === null ? "–" : signed(c.obtained - c.value, c.metric), verdict(c.verdict)]);
  return table(caption, [["Claim"], ["Paper", "num"], ["Ours", "num"], ["Difference", "num"], ["Verdict"]], rows);
}

const signed = (v, metric) => `${v < 0 ? "−" : "+"}${fmt(Math.abs(v), metric)}`;

function causes(claims) {
  const found = [...new Set(claims.filter((c) => c.cause).map((c) => c.cause))];
  return found.length ? h("ul", null, found.slice(0, 8).map((cause) => h("li", null, `Cause: ${cause}.`))) : null;
}

function parametersPanel(facts) {
  if (!facts.params) return null;
  const value = (v) => (typeof v === "string" ? v : JSON.stringify(v));
  const rows = facts.params.map(([name, v, source, others]) => [h("code", null, name),
    [value(v), ...Object.entries(others).map(([d, o]) => h("span", { class: "sub" }, `${d}: ${value(o)}`))], source || "–"]);
  const protocol = Object.entries(facts.protocol).map(([k, v]) => `${k}=${v}`).join(" ");
  return panel("Recipe",
    h("dl", { class: "facts" }, facts.data.map(([name, image, text, split]) => [h("dt", null, name), h("dd", null, `${image} + ${text}, split ${split}`, isSmoke(name) ? " (smoke set)" : "")]),
      h("dt", null, "protocol"), h("dd", null, protocol),
      facts.compute && [h("dt", null, "cost"), h("dd", null, `${facts.compute.device}, about ${facts.compute.minutes} min`)]),
    rows.length ? table("Parameters with their provenance", [["Parameter"], ["Value"], ["From"]], rows) : null);
}

function notesPanel(facts) {
  const p = facts.paper;
  const notes = [p.remark && `Remark: ${p.remark}`, ...(p.notes || []), ...facts.notes, ...(p.unsettled || []).map((u) => `Unsettled: ${u}`)].filter(Boolean);
  return notes.length ? panel("Notes", h("ul", { class: "prose" }, notes.map((n) => h("li", null, n)))) : null;
}
