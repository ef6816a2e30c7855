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

// The equation that a link names, beside the link, while the pointer rests on it or the keyboard has come to it.
function showEquations() {
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
    tip.textContent = `\\[\\begin{split}${link.dataset.tex}\\end{split}\\]`;
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
    const link = pointerType === "mouse" && target.closest("a[data-tex]");
    if (link) later(() => show(link));
    else if (tip.contains(target)) clearTimeout(waiting);  // The pointer may come over to look closer.
    else if (shown !== document.activeElement) later(hide);
  });
  document.addEventListener("focusin", ({ target }) => (target.matches("a[data-tex]:focus-visible") ? show(target) : hide()));
  document.addEventListener("focusout", hide);
  document.addEventListener("click", hide);
  document.addEventListener("keydown", ({ key }) => key === "Escape" && hide());
}

// Pages opened as files may not read one another, so search shows titles alone.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
