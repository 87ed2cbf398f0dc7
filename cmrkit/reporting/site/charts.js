// Line charts as inline SVG: told apart by colour, dash and marker, with the numbers as a table behind.

const BOX = { width: 400, height: 250, left: 46, right: 10, top: 8, bottom: 38 };
const MARKERS = [
  (x, y) => svg("circle", { cx: x, cy: y, r: 2.6 }),
  (x, y) => svg("rect", { x: x - 2.4, y: y - 2.4, width: 4.8, height: 4.8 }),
  (x, y) => svg("path", { d: `M${x} ${y - 3.2}l3 5.6h-6z` }),
  (x, y) => svg("path", { d: `M${x} ${y - 3.4}l3.2 3.4l-3.2 3.4l-3.2-3.4z` }),
  (x, y) => svg("circle", { cx: x, cy: y, r: 1.6 }),
];

/** Round steps that cover [low, high], about `count` of them. */
function ticks(low, high, count) {
  const raw = (high - low) / count || 1;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * unit).find((s) => s >= raw) || raw;
  const found = [];
  for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + step * 1e-6; t += step) found.push(Number(t.toPrecision(12)));
  return found;
}

/** series: [{name, points: [[x, y], ..]}]; options: x, y (names of the axes), log, zero (the y axis starts at 0). */
function chart(title, series, options) {
  const shown = series.filter((s) => s.points.length).slice(0, MARKERS.length);
  const all = shown.flatMap((s) => s.points);
  if (!all.length) return null;
  const value = options.log ? (x) => Math.log10(x) : (x) => x;
  const [x0, x1] = range(all.map(([x]) => value(x)));
  let [y0, y1] = range(all.map(([, y]) => y));
  if (options.zero) y0 = Math.min(0, y0);
  const inner = { w: BOX.width - BOX.left - BOX.right, h: BOX.height - BOX.top - BOX.bottom };
  const px = (x) => BOX.left + ((value(x) - x0) / (x1 - x0)) * inner.w;
  const py = (y) => BOX.top + (1 - (y - y0) / (y1 - y0)) * inner.h;
  const bottom = BOX.top + inner.h;
  const yTicks = ticks(y0, y1, 4);
  const xTicks = options.log ? [1, 10, 100, 1000, 10000, 100000].filter((t) => value(t) >= x0 - 1e-9 && value(t) <= x1 + 1e-9) : ticks(x0, x1, 5);
  const drawing = svg("svg", { class: "chart", viewBox: `0 0 ${BOX.width} ${BOX.height}`, role: "img", "aria-label": `${title}. ${summary(shown, options)}` },
    yTicks.map((t) => [svg("line", { class: "grid", x1: BOX.left, x2: BOX.width - BOX.right, y1: py(t), y2: py(t) }),
      svg("text", { x: BOX.left - 6, y: py(t) + 4, "text-anchor": "end" }, short(t))]),
    svg("line", { class: "axis", x1: BOX.left, x2: BOX.width - BOX.right, y1: bottom, y2: bottom }),
    xTicks.map((t) => [svg("line", { class: "axis", x1: px(t), x2: px(t), y1: bottom, y2: bottom + 4 }),
      svg("text", { x: px(t), y: bottom + 16, "text-anchor": "middle" }, short(t))]),
    svg("text", { x: BOX.left + inner.w / 2, y: BOX.height - 5, "text-anchor": "middle" }, options.x),
    svg("text", { x: 11, y: BOX.top + inner.h / 2, "text-anchor": "middle", transform: `rotate(-90 11 ${BOX.top + inner.h / 2})` }, options.y),
    shown.map((s, i) => [
      svg("path", { class: `line k${i}`, d: s.points.map(([x, y], j) => `${j ? "L" : "M"}${px(x).toFixed(1)} ${py(y).toFixed(1)}`).join("") }),
      svg("g", { class: `d${i}` }, thinned(s.points).map(([x, y]) => {
        const mark = MARKERS[i](px(x), py(y));
        mark.append(svg("title", null, `${s.name}: ${options.x} ${short(x)}, ${options.y} ${short(y)}`));
        return mark;
      })),
    ]));
  const rows = shown.flatMap((s) => s.points.map(([x, y]) => [s.name, short(x), short(y)]));
  return h("figure", null, h("figcaption", null, title), drawing,
    h("ul", { class: "legend" }, shown.map((s, i) => h("li", null,
      svg("svg", { viewBox: "0 0 26 10", "aria-hidden": "true", class: "chart-key" }, svg("g", { class: "chart" },
        svg("path", { class: `line k${i}`, d: "M0 5H26" }), svg("g", { class: `d${i}` }, MARKERS[i](13, 5)))), s.name))),
    later("Numbers of this figure", () => table(title, [["curve"], [options.x, "num"], [options.y, "num"]], rows)));
}

const short = (v) => (Math.abs(v) >= 1000 ? String(Math.round(v)) : String(Number(v.toPrecision(4))));
const range = (values) => {
  const low = Math.min(...values), high = Math.max(...values);
  return low === high ? [low - 0.5, high + 0.5] : [low, high];
};
const thinned = (points) => (points.length <= 24 ? points : points.filter((_, i) => i % Math.ceil(points.length / 24) === 0));
const summary = (series, options) => series.map((s) => {
  const [first, last] = [s.points[0], s.points[s.points.length - 1]];
  return `${s.name}: ${options.y} ${short(first[1])} at ${options.x} ${short(first[0])}, ${short(last[1])} at ${short(last[0])}`;
}).join("; ");

/** Details whose content is made when they are opened first. */
function later(name, make, open = false) {
  const details = h("details", { open }, h("summary", null, name));
  const build = () => { if (details.open && details.children.length === 1) details.append(make()); };
  details.addEventListener("toggle", build);
  build();
  return details;
}

/** The figures of a group of runs: precision against recall, precision down the ranking, losses. */
function figures(run) {
  const found = [];
  const by = (curves, x, y) => Object.entries(curves).filter(([, c]) => c).map(([d, c]) => ({
    name: ARROWS[d], points: c[x].map((value, i) => [value, c[y][i]]).filter(([a, b]) => a !== null && b !== null) }));
  const curves = run.curves["pr_curve"] || run.curves["pr_curve:rank"];
  const ranks = [run.curves["pr_curve:rank"], run.curves["pr_curve"]].find((c) => c && Object.values(c).some((d) => d && d.x === "rank"));
  if (curves) {
    const where = Object.values(curves).find(Boolean).x === "radius" ? "by Hamming radius" : "by rank";
    found.push(chart(`Precision and recall, ${where}`, by(curves, "recall", "precision"), { x: "recall", y: "precision", zero: true }));
  }
  if (ranks) {
    const whose = run.seeds.length > 1 && curves !== ranks ? `, seed ${run.seeds[0]}` : "";
    found.push(chart(`Precision at N${whose}`, by(ranks, "at", "precision"), { x: "N", y: "precision", log: true, zero: true }));
  }
  if (run.history.length) {
    const lines = run.history.map(([seed, epochs, losses]) => ({ name: `seed ${seed}`, points: epochs.map((e, i) => [e, losses[i]]) }));
    found.push(chart("Training loss", lines, { x: "epoch", y: "loss" }));
  }
  return found.filter(Boolean);
}
