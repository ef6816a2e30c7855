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
});

// Pages opened as files may not read one another, so search shows titles alone.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
