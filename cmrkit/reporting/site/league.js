// League tables: all methods on one split and one protocol, beside each paper's own.

const KINDS = { hamming: "binary codes", real: "real-valued", recall: "recall" };

async function showLeague(dataset, params) {
  const section = $("#view-league");
  const all = (await block("leagues")) || [];
  if (!all.length) {
    section.replaceChildren(h("h1", { tabindex: "-1" }, "League tables"), h("p", { class: "notice" }, "No two methods have results on the same split yet: ", h("code", null, "cmrkit reproduce KEY --dataset wikipedia"), " for some, then write this page again."));
    return "Leagues";
  }
  const id = (l) => `${l.dataset}/${l.kind}/${l.split}/${l.image}+${l.text}`;
  const size = (l) => Math.max(...l.tables.map((t) => new Set(t.rows.map((row) => row.key)).size + t.rows.length / 1000));
  const here = all.filter((l) => l.dataset === dataset);
  const ranked = [...(here.length ? here : all)].sort((a, b) => isSmoke(a.dataset) - isSmoke(b.dataset) || size(b) - size(a));
  const want = { league: params.get("league"), bits: params.get("bits"), metric: params.get("metric") };
  const league = all.find((l) => id(l) === want.league && (!dataset || l.dataset === dataset)) || ranked[0];
  const fits = league.tables.filter((t) => t.rows.length);
  const chosen = fits.find((t) => String(t.size) === want.bits) || fits.reduce((a, b) => (b.rows.length > a.rows.length ? b : a));
  const metric = league.metrics.includes(want.metric) ? want.metric : league.metrics[0];
  const go = (change) => {
    const next = { league: id(league), bits: chosen.size ?? "", metric, ...change };
    const target = all.find((l) => id(l) === next.league);
    remember("league", target.dataset, Object.entries(next));
    showLeague(target.dataset, route().params).then(() => $(`#${change.league ? "l-league" : change.metric ? "l-metric" : "l-bits"}`)?.focus());
  };
  const label = (l) => `${l.dataset} · ${KINDS[l.kind]} · ${l.image} + ${l.text}`;
  section.replaceChildren(h("h1", { tabindex: "-1" }, `League: ${league.dataset}`),
    h("p", { class: "lead" }, "All methods under one split and one protocol, whatever their papers did; each paper's own protocol beside it."),
    h("div", { class: "pick" }, picker("l-league", "League", all.map((l) => [id(l), label(l)]), id(league), (v) => go({ league: v, bits: "" })),
      league.kind === "hamming" ? picker("l-bits", "Bits", fits.map((t) => [t.size, `${t.size} (${many(t.rows.length, "method")})`]), chosen.size, (v) => go({ bits: v })) : null,
      picker("l-metric", "Metric", league.metrics.map((m) => [m, m]), metric, (v) => go({ metric: v }))),
    isSmoke(league.dataset) ? h("p", { class: "notice" }, "An embedded smoke set: this order shows that methods run, and nothing about their papers.") : "",
    leagueTable(league, chosen, metric), legend(league, chosen, metric));
  return `League: ${league.dataset}`;
}

function leagueTable(league, chosen, metric) {
  const mean = (row) => { const v = row.scores[metric].filter((x) => x !== null); return v.reduce((a, b) => a + b, 0) / (v.length || 1); };
  const sorted = [...chosen.rows].sort((a, b) => mean(b) - mean(a));
  const most = Math.max(...sorted.map(mean), 1e-9);
  const score = (row, d) => [spread(row.scores[metric][d], row.std[metric][d], metric), h("span", { class: "letter" }, metric === league.metrics[0] ? row.letters[d] : "")];
  const rows = sorted.map((row, i) => {
    const bar = h("i", null);
    bar.style.width = `${(100 * mean(row)) / most}%`;
    return [String(i + 1), [h("a", { href: `#/paper/${row.key}` }, row.acronym), row.label ? h("span", { class: "sub" }, row.label) : null],
      score(row, 0), score(row, 1), [fmt(mean(row), metric), h("span", { class: "meter", "aria-hidden": "true" }, bar)], String(row.n),
      [row.own[metric].map((v) => fmt(v, metric, 3)).join(" / "), league.kind === "hamming" ? h("span", { class: "sub" }, `${row.database} codes`) : null]];
  });
  return table(`${metric} on ${league.dataset}`, [["Rank", "num"], ["Method"], ["image → text", "num"], ["text → image", "num"], ["mean", "num"], ["Seeds", "num"], ["Own protocol, i2t / t2i", "num"]], rows);
}

function legend(league, chosen, metric) {
  const protocol = Object.entries(league.protocol).map(([k, v]) => (k === "protocol" ? v : `${k} ${v}`)).join(", ");
  const tested = chosen.rows.some((row) => row.letters.join("") !== "");
  const first = league.metrics[0];
  return h("div", { class: "prose league-notes" }, h("p", { class: "sub" }, `Protocol: ${protocol}. Split ${league.split}, features ${league.image} + ${league.text}. Runs on changed data, on part of the queries, and with settings that are not the recipe's are left out.`),
    h("p", { class: "sub" }, tested ? `Methods that share a letter do not differ significantly in ${first} (randomisation test over queries, all pairs, corrected by Holm, 5 %). The spread over seeds is not part of that test.`
      : "No significance groups: they need the codes of two methods or more, and those are no longer in the cache."));
}
