// Runs in detail: one group of seeds at a time, its numbers, variants, curves, steps; and the galleries.

function runsPanel(run, key, params) {
  const body = h("div", null);
  const first = run.groups.findIndex((g) => g.departs && !Object.keys(g.departs).length && !isSmoke(g.dataset));
  const asked = Number(params.get("run") ?? -1);
  const chosen = run.groups[asked] ? asked : Math.max(0, first);
  const show = (i) => body.replaceChildren(...details(run.groups[i]));
  const names = run.groups.map((g, i) => [i, `${g.dataset} · ${g.label || "as the recipe says"} · ${many(g.seeds.length, "seed")}${g.departs && Object.keys(g.departs).length ? " · changed" : ""}`]);
  show(chosen);
  return panel("What was obtained", overview(run.groups),
    h("div", { class: "pick" }, picker("run", "Runs in detail", names, chosen, (i) => { show(Number(i)); remember("paper", key, [["run", i]]); })), body);
}

function overview(groups) {
  const wanted = ["map@all", "map@50", "r@1", "r@10", "rsum"];
  const metrics = wanted.filter((m) => groups.some((g) => g.summary.some(([name]) => name === m)));
  const columns = metrics.flatMap((m) => (m === "rsum" ? [[m, null]] : [[m, "i2t"], [m, "t2i"]]));
  const rows = groups.map((g) => [[g.label || "–", h("span", { class: "sub" }, `${g.dataset}${isSmoke(g.dataset) ? " (smoke set)" : ""}`)], String(g.seeds.length),
    ...columns.map(([m, d]) => { const s = g.summary.find(([name, way]) => name === m && way === d); return s ? spread(s[2], s[3], m) : "–"; })]);
  return table("Means and standard deviations over seeds", [["Runs"], ["Seeds", "num"], ...columns.map(([m, d]) => [d ? `${m} ${d}` : m, "num"])], rows);
}

function details(run) {
  const changed = Object.entries(run.departs || {});
  const noise = Object.entries(run.setting).map(([k, v]) => `${k}=${v}`).join(" ");
  const parts = [
    isSmoke(run.dataset) && h("p", { class: "notice" }, "An embedded smoke set: these numbers show that the method runs, not what the paper claims."),
    run.departs === null && h("p", { class: "notice" }, "The recipe no longer knows this dataset; what was run is shown, and judged against nothing."),
    changed.length > 0 && h("p", { class: "notice" }, "Not the recipe's own settings, so no claim is judged by it: ", h("code", null, changed.map(([k, v]) => `${k}=${JSON.stringify(v)}`).join(" "))),
    run.protocol.limit && h("p", { class: "notice" }, `Only the first ${run.protocol.limit} query images: comparable with no table.`),
    noise && h("p", { class: "notice" }, "Trained on data changed on purpose: ", h("code", null, noise)),
    h("h3", null, "Repeat it"), copyable(run.command, "command"),
    h("h3", null, "Numbers"), numbers(run), ...curves(run), variantsTable(run),
    h("h3", null, "Steps"), steps(run), environment(run)];
  return parts.filter(Boolean);
}

function numbers(run) {
  const rows = run.summary.map(([metric, way, mean, std, n, low, high]) => [[metric, " ", way ? ARROWS[way] : ""], spread(mean, std, metric), String(n), low === null ? "–" : `${fmt(low, metric)} to ${fmt(high, metric)}`]);
  return table("Numbers under the run's own protocol", [["Metric"], ["Mean ± std", "num"], ["Seeds", "num"], ["95 % interval", "num"]], rows);
}

function curves(run) {
  const found = figures(run);
  return found.length ? [h("h3", null, "Curves"), h("div", { class: "charts" }, found)] : [];
}

function variantsTable(run) {
  if (!run.variants.length) return null;
  const places = [...new Set(run.variants.map((v) => v[0]))];
  const bounds = (worst, best, metric) => (worst === undefined || worst === null ? "" : h("span", { class: "bounds" }, `[${fmt(worst, metric)}, ${fmt(best, metric)}]`));
  const tables = () => h("div", null, places.map((where) => {
    const mine = run.variants.filter((v) => v[0] === where);
    const names = [...new Set(mine.map((v) => `${v[1]}|${v[3]}`))];
    const rows = names.map((name) => {
      const [metric, reading] = name.split("|");
      const cells = ["i2t", "t2i"].flatMap((d) => {
        const found = mine.find((v) => v[1] === metric && v[3] === reading && (v[2] === d || (d === "i2t" && v[2] === null)));
        return found ? [fmt(found[4], metric), bounds(found[5], found[6], metric), fmt(found[7], metric)] : ["–", "", "–"];
      });
      return [[metric, reading && h("span", { class: "sub" }, reading)], ...cells];
    });
    const columns = ["i2t", "t2i"].flatMap((d) => [[`${d} expected`, "num"], ["[worst, best]", "num"], ["stable", "num"]]);
    return h("div", null, h("h4", null, where.replaceAll("=", " ")), table(`Variants with ${where}`, [["Metric", "nowrap"], ...columns], rows));
  }));
  return h("div", null, h("h3", null, "The same codes under every variant"), later(`${many(places.length, "reading")} of database, items and similarity, with bounds over ties`, tables));
}

function steps(run) {
  const rows = run.steps.map(([name, time, key, there]) => [name, seconds(time), [h("code", { title: key }, key.slice(0, 16)), h("span", { class: "sub" }, there ? "in the cache" : "collected since")]]);
  return table("Steps, mean seconds over seeds, cache keys", [["Step"], ["Took", "num"], ["Cache key"]], rows);
}

function environment(run) {
  const { packages = {}, ...rest } = run.environment;
  const facts = [...Object.entries(rest), ...Object.entries(packages), ["recorded", run.when]].filter(([, v]) => v !== null && v !== "");
  return later("Environment", () => h("dl", { class: "facts" }, facts.map(([k, v]) => [h("dt", null, k), h("dd", null, String(v))])));
}

function galleryPanel(run) {
  if (!run.galleries || !run.galleries.length) return null;
  const body = h("div", null);
  const state = { at: run.galleries[0].dataset, way: run.galleries[0].i2t ? "i2t" : "t2i" };
  const show = () => {
    const gallery = run.galleries.find((g) => g.dataset === state.at);
    if (!gallery[state.way]) state.way = gallery.i2t ? "i2t" : "t2i";
    const of = `${run.groups[gallery.group].label} seed ${gallery.seed}`.trim();
    const how = gallery.metric === "map@all" ? "average precision" : "rank of the first hit";
    body.replaceChildren(h("p", { class: "sub" }, `${of}. Best, typical and worst queries by ${how}, each with its ${gallery[state.way][0].results.length} nearest items and their ${gallery.measure}; equal ones in the database's order.`),
      ...gallery[state.way].map((query) => queryRow(gallery, query, how)));
  };
  show();
  return panel("Gallery", h("div", { class: "pick" },
    picker("gallery-data", "Dataset", run.galleries.map((g) => [g.dataset, g.dataset]), state.at, (v) => { state.at = v; show(); }),
    picker("gallery-way", "Direction", Object.entries(ARROWS), state.way, (v) => { state.way = v; show(); })), body);
}

function queryRow(gallery, query, how) {
  const forth = gallery.i2t && gallery.i2t.includes(query);
  const [asked, answered] = forth ? ["images", "texts"] : ["texts", "images"];
  const quality = how === "average precision" ? query.value.toFixed(3) : query.value.toFixed(0);
  const hits = query.results.filter((r) => r[1]).length;
  return h("div", { class: "query" },
    h("div", { class: "asked" }, h("h3", null, `${query.sort} · ${how} ${quality}`), item(gallery[asked][query.row], asked, query.row)),
    h("ul", { class: answered === "texts" ? "found words" : "found", "aria-label": `${hits} of ${query.results.length} results are hits` },
      query.results.map(([row, hit, value]) => h("li", { class: hit ? "hit" : "miss" },
        h("p", { class: "mark2" }, h("b", null, hit ? "✓ hit" : "✗ miss"), h("span", { title: gallery.measure }, String(value))), item(gallery[answered][row], answered, row)))));
}

function item(what, kind, row) {
  const labels = what.labels.length ? h("span", { class: "labels" }, what.labels.slice(0, 5).join(", ")) : null;
  if (kind === "images" && what.file) {
    return [h("img", { src: what.file, alt: `Image ${row}${what.labels.length ? `: ${what.labels.join(", ")}` : ""}`, width: 112, height: 112, loading: "lazy" }), labels];
  }
  const name = what.caption || `${kind === "images" ? "Image" : "Text"} ${row}`;
  return [h("p", null, name, what.caption && labels ? null : labels ? [h("br"), labels] : null)];
}
