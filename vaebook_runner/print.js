// The sheet that pdf.py prints: the pages of the book one after the other, with every number and reference as Sphinx
// wrote them. How the sheet looks on paper, book.css says.

// No use on paper: scripts, signs beside a heading, the index's row of letters, how long a screen takes to read, and
// the folded code that does nothing but draw a figure or check a range.
const LEFT_OUT = "script, button, .headerlink, .genindex-jumpbox, .reading-time, .tag_hide-input details, summary";
// Tokens of code that have no colour of their own: most of a chapter's elements, and each costs time to print.
const PLAIN = /<span class="(?:n|p|w)">([^<]*)<\/span>/g;
// Where a page's number will be: as wide as one, so that nothing moves when it comes.
const NUMBER = (id) => `<span data-page-of="${id}">000</span>`;

const line = (node) => node?.textContent.trim().replace(/\s+/g, " ") ?? "";
const all = (node, selector) => [...node.querySelectorAll(selector)];
// A page is named by its path, and a place on it by both: such a name is the book's only one.
const pageOf = (link) => decodeURIComponent(link.pathname).slice(1);
const placeOf = (link) => pageOf(link) + decodeURIComponent(link.hash).replace("#", ":");

async function read(page) {
  const html = (await (await fetch(page)).text()).replace(PLAIN, "$1");
  const chapter = new DOMParser().parseFromString(html, "text/html");
  // Its links are relative to where it lies.
  chapter.head.prepend(Object.assign(chapter.createElement("base"), { href: new URL(page, location) }));
  return chapter;
}

// The whole sheet as HTML.
async function compose(version) {
  const index = await read("genindex.html");
  const entries = all(index, "nav.bd-docs-nav :is(p.caption, a.internal)");
  const pages = entries.filter((entry) => entry.href).map(pageOf);
  const chapters = await Promise.all(pages.map(read));
  const articles = chapters.map((chapter, k) => asArticle(chapter, pages[k], pages));
  const mathematical = chapters.find((chapter) => chapter.querySelector("script[src*=mathjax]"));
  return `<!DOCTYPE html>
    <html lang="en" data-theme="light">
    <head><meta charset="utf-8"><title>${entries[0].innerHTML.trim()}</title>${stylesAndMathJax(mathematical)}
    <style>${articles.map(runningHead).join("")}</style></head>
    <body class="book tex2jax_ignore mathjax_ignore">
    <header><p class="title">${entries[0].innerHTML}</p><p>${line(index.querySelector(".component-author"))}</p>
    <p>Version ${version}</p></header>
    <nav class="printed-contents"><h1>Contents</h1>${contents(entries, articles)}</nav>
    <main>${articles.map((article) => article.outerHTML.replace(/(<\/?)details\b/g, "$1div")).join("")}</main>
    </body></html>`;
}

// What a page says, with names that are its own in the whole book and links that stay within it.
function asArticle(chapter, page, pages) {
  const article = chapter.querySelector("article.bd-article");
  if (!article) throw new Error(`${page} has no article`);
  for (const useless of all(article, LEFT_OUT)) useless.remove();
  for (const named of all(article, "[id]")) named.id = `${page}:${named.id}`;
  article.id = page;
  for (const image of all(article, "img[src]")) image.setAttribute("src", image.src);
  for (const link of all(article, "a[href]").filter((link) => link.origin === location.origin)) {
    if (pages.includes(pageOf(link))) link.setAttribute("href", `#${placeOf(link)}`);
    else link.replaceWith(...link.childNodes); // A file to download.
  }
  return article;
}

// The parts, chapters and sections, each with the place for its page's number.
function contents(entries, articles) {
  const rest = [...articles];
  const content = (kind, heading, id) => `<p class="${kind}"><a href="#${id}">${heading}</a>${NUMBER(id)}</p>`;
  return entries.flatMap((entry) => {
    if (!entry.href) return `<p class="part">${entry.innerHTML}</p>`;
    const article = rest.shift();
    // The sections of other pages are short, or tables.
    const headings = article.id.startsWith("notebooks/") ? all(article, "section > h2") : [];
    const sections = headings.map((heading) => content("section", heading.innerHTML, heading.parentElement.id));
    return [content("chapter", entry.innerHTML, article.id), ...sections];
  }).join("");
}

function stylesAndMathJax(chapter) {
  for (const style of all(chapter, "link[rel=stylesheet]")) style.setAttribute("href", style.href);
  for (const script of all(chapter, "script[src]")) script.setAttribute("src", script.src);
  const settings = all(chapter, "script").filter((script) => /mathjax\/|window\.MathJax =/.test(script.outerHTML));
  // What MathJax adds for screen readers doubles the time, and no PDF shows it.
  return [...all(chapter, "link[rel=stylesheet]"), ...settings].map((element) => element.outerHTML).join("\n")
    + "<script>MathJax.options.menuOptions = { settings: { assistiveMml: false } }</script>";
}

// The chapter's title at the top of its pages.
function runningHead(article) {
  const name = article.id.replace(/\W/g, "-");
  const title = JSON.stringify(line(article.querySelector("h1")));
  return `[id="${article.id}"] { page: ${name}; } @page ${name} { @top-left { content: ${title}; } }\n`;
}

// On the sheet: a formula that is wider than the paper is set smaller.
async function fit() {
  await MathJax.startup.promise;
  await document.fonts.ready;
  const fits = all(document, "mjx-container").map((formula) => {
    const number = formula.hasAttribute("display") && formula.closest(".math").querySelector(".eqno");
    // A displayed formula stands in the middle, and keeps clear of its number on both sides.
    const room = formula.closest("p, div, li, td, th, dd, figcaption, h1, h2, h3").clientWidth
      - (number ? 2.2 * number.offsetWidth : 0);
    return [formula, room / formula.querySelector("mjx-math").getBoundingClientRect().width];
  });
  for (const [formula, ratio] of fits)
    if (ratio < 1) formula.style.fontSize = `calc(${formula.style.fontSize || "100%"} * ${0.98 * ratio})`;
}

// On the sheet: the number of its page beside each line of the contents, and in place of each link of the index.
function number(numbers) {
  for (const place of all(document, "[data-page-of]")) place.textContent = numbers[place.dataset.pageOf] ?? "";
  // A term of the index names each page once, in their order.
  for (const entry of all(document, ".genindextable li:has(> a)")) {
    const term = line(entry.firstChild);
    const links = all(entry, ":scope > a").map((link) => [numbers[link.getAttribute("href").slice(1)], link]);
    const inOrder = [...new Map(links)].sort(([a], [b]) => a - b);
    entry.replaceChildren(term, ...inOrder.flatMap(([page, link]) => (link.textContent = page, [", ", link])));
  }
}
