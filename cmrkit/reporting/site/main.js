// Which view the address asks for, and light or dark.

const VIEWS = { matrix: (key, params) => showMatrix(params), paper: showCard, league: showLeague, about: () => "How to read" };
let showing = 0;

async function navigate(first) {
  const { view, key, params } = route();
  const name = VIEWS[view] ? view : "matrix";
  const turn = ++showing;
  let title;
  try {
    title = await VIEWS[name](key, params);
  } catch (error) {
    console.error(error);
    title = "Damaged page";
    $(`#view-${name}`).replaceChildren(h("h1", { tabindex: "-1" }, title), h("p", null, "This part of the page cannot be read. Write it again with ", h("code", null, "cmrkit report"), "."));
  }
  if (turn !== showing) return; // another address was asked for meanwhile
  Object.keys(VIEWS).forEach((v) => { $(`#view-${v}`).hidden = v !== name; });
  $$("nav [data-view]").forEach((a) => (a.dataset.view === (name === "paper" ? "matrix" : name) ? a.setAttribute("aria-current", "page") : a.removeAttribute("aria-current")));
  document.title = `${title} · cmrkit`;
  if (!first) {
    scrollTo(0, 0);
    $(`#view-${name} h1`)?.focus({ preventScroll: true });
  }
}

const THEMES = ["auto", "light", "dark"];
const storage = { get: () => { try { return localStorage.getItem("cmrkit-theme"); } catch { return null; } }, set: (v) => { try { localStorage.setItem("cmrkit-theme", v); } catch { /* a private window keeps nothing */ } } };
function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  $("#theme").textContent = `Theme: ${theme}`;
}
let theme = THEMES.includes(storage.get()) ? storage.get() : "auto";
setTheme(theme);
$("#theme").hidden = false;
$("#theme").addEventListener("click", () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  setTheme(theme);
  storage.set(theme);
});

$("#when").textContent = `on ${index.when.slice(0, 10)}, from ${many(index.records, "run")}`;
$("#skip").addEventListener("click", (e) => { e.preventDefault(); $("#main").focus(); });
addEventListener("hashchange", () => navigate(false));
navigate(true);
