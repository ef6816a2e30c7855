// A formula is never broken into lines. Displayed and a little too wide, it is set a little smaller; wider than that, it
// scrolls in a box of its own, which can be reached and scrolled with the keyboard alone.
const SMALLEST = 0.8;

function mendFormulas() {
  const formulas = [...document.querySelectorAll("mjx-container")];
  for (const formula of formulas) {
    formula.dataset.size ??= formula.style.fontSize || "100%";
    formula.style.fontSize = formula.dataset.size;
    const line = formula.closest("p, li, td, dd, figcaption, h1, h2, h3");
    if (line && !formula.hasAttribute("display")) {
      formula.classList.toggle("wide", formula.firstElementChild.getBoundingClientRect().width > line.clientWidth);
    }
  }
  const fits = formulas.map((formula) => formula.clientWidth / formula.scrollWidth);
  formulas.forEach((formula, k) => {
    if (formula.hasAttribute("display") && fits[k] < 1 && fits[k] >= SMALLEST) {
      formula.style.fontSize = `calc(${formula.dataset.size} * ${0.98 * fits[k]})`;
    }
  });
  for (const formula of formulas) {
    const scrolls = formula.scrollWidth > formula.clientWidth && getComputedStyle(formula).overflowX === "auto";
    if (scrolls) formula.tabIndex = 0;
    else formula.removeAttribute("tabindex");
  }
}

window.addEventListener("load", async () => {
  await window.MathJax?.startup?.promise;
  // The column changes with the window, and when a side bar slides in or out.
  new ResizeObserver(mendFormulas).observe(document.querySelector("main"));
  if (window.MathJax) showEquations();
});

// The given height of a figure becomes a ratio: it holds on a narrow screen too, before and after the picture arrives.
for (const { style } of document.querySelectorAll("div.cell_output img[style]")) {
  Object.assign(style, { aspectRatio: `auto ${parseFloat(style.width)} / ${parseFloat(style.height)}`, height: "auto" });
}

// What a cell printed without columns is sentences, which may break into lines.
for (const pre of document.querySelectorAll("div.cell_output pre")) {
  pre.classList.toggle("sentences", !/\S {2,}\S/.test(pre.textContent));
}

// A drawer of side bar links that stayed open would hide the place that was chosen in it.
document.addEventListener("click", ({ target }) => target.closest("dialog a[href^='#']")?.closest("dialog").close());

// A list of references comes with roles that contradict each other, which confuses screen readers.
for (const element of document.querySelectorAll(".citation-list, .citation")) element.removeAttribute("role");

// The equation that a link names, beside the link, while the pointer rests on it or the keyboard has come to it.
// EQUATIONS (equations.js) has the TeX of all the book's equations.
function showEquations() {
  const equation = (link) => link?.matches("a.reference.internal") && EQUATIONS[link.hash.slice(1)];
  const tip = document.body.appendChild(document.createElement("div"));
  Object.assign(tip, { id: "equation-tip", className: "mathjax_process", role: "tooltip", hidden: true });
  let shown = null, waiting = 0;

  function hide() {
    clearTimeout(waiting);
    shown?.removeAttribute("aria-describedby");
    shown = null;
    tip.hidden = true;
  }
  async function show(link) {
    if (shown === link) return;
    hide();
    shown = link;
    MathJax.typesetClear([tip]);
    tip.textContent = `\\[\\begin{split}${equation(link)}\\end{split}\\]`;
    await MathJax.typesetPromise([tip]);
    if (shown !== link) return;
    tip.hidden = false;
    const formula = tip.firstElementChild;
    formula.style.fontSize = `${100 * Math.min(1, formula.clientWidth / formula.scrollWidth)}%`;
    // Below the link where there is room, else above it, and never over the edge of the window.
    const { left, top, bottom } = link.getClientRects()[0], { offsetWidth, offsetHeight } = tip;
    const below = bottom + offsetHeight + 6 < innerHeight || top < offsetHeight + 6;
    tip.style.top = `${scrollY + (below ? bottom + 6 : top - offsetHeight - 6)}px`;
    tip.style.left = `${Math.max(8, Math.min(left, document.documentElement.clientWidth - offsetWidth - 8))}px`;
    link.setAttribute("aria-describedby", tip.id);
  }
  const later = (act) => {
    clearTimeout(waiting);
    waiting = setTimeout(act, 200);
  };
  document.addEventListener("pointerover", ({ target, pointerType }) => {
    const link = target.closest("a");
    if (pointerType === "mouse" && equation(link)) later(() => show(link));
    else if (tip.contains(target)) clearTimeout(waiting);  // The pointer may come over to look closer.
    else if (shown !== document.activeElement) later(hide);
  });
  document.addEventListener("focusin", ({ target }) => {
    if (target.matches("a:focus-visible") && equation(target)) show(target);
    else hide();
  });
  document.addEventListener("focusout", hide);
  document.addEventListener("click", hide);
  document.addEventListener("keydown", ({ key }) => key === "Escape" && hide());
}

// The page of checks: rows that do not contain all the words typed disappear, and so do chapters without any other row.
function filterRows(filter) {
  const [box, status] = filter.querySelectorAll("input, [role=status]"), chapterOf = (row) => row.closest("section");
  const rows = [...chapterOf(filter).querySelectorAll("tbody tr")], chapters = new Set(rows.map(chapterOf));
  const show = () => {
    const words = box.value.toLowerCase().split(/\s+/);
    for (const row of rows) {
      const text = `${chapterOf(row).querySelector("h2").textContent} ${row.textContent}`.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
    for (const chapter of chapters) chapter.hidden = !chapter.querySelector("tbody tr:not([hidden])");
    status.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
  };
  box.addEventListener("input", show);
  addEventListener("hashchange", () => {  // The place that a link names may be hidden.
    box.value = "";
    show();
    document.getElementById(location.hash.slice(1))?.scrollIntoView();
  });
  show();
  filter.hidden = false;
}
for (const filter of document.querySelectorAll(".filter")) filterRows(filter);

// Pages opened as files may not read one another, so search shows titles alone.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

// The book spells as the British do: a reader who looks for reparameterization finds the reparametrisation.
if (typeof Search !== "undefined") {
  const find = Search.query, stemmer = new Stemmer();
  const british = (word) => word.replace(/parameteri[sz]/, "parametris").replace(/^(\w{3,}i)z(?=e|ing|ation)/, "$1s");
  Search.query = (typed) => find(typed.toLowerCase().replace(/\w+/g, (word) =>
    stemmer.stemWord(british(word)) in Search._index.terms ? british(word) : word));
}
