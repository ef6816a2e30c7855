// A JupyterLab extension in the form that JupyterLab loads, a container of one module: nothing to compile, nothing to install.
// It shows a chapter as the book's page does. Nothing of it is written into a file.
(() => {
    let shared; // the modules that JupyterLab and its extensions share: name → version → module
    const { texMacros, references } = JSON.parse(document.getElementById("jupyter-config-data").textContent);
    const { equations = {}, figures = {}, titles = {}, citations = {} } = references ?? {};

    const STYLE = `
        .vaebook-caption { margin: 0 var(--jp-code-padding) 1.2em calc(var(--jp-cell-collapser-width) + var(--jp-cell-prompt-width)); }
        .vaebook-caption p { max-width: 683px; font-size: var(--jp-content-font-size0); color: var(--jp-content-font-color1); }
        .jp-Notebook .myst h1 { margin-bottom: 0.6em; }
        /* A formula too long for its number to stand beside it breaks at a sign, or has the number below. */
        .jp-Notebook .katex-display .katex-html:has(> .tag) {
            display: flex; flex-wrap: wrap; justify-content: flex-end; align-items: baseline;
        }
        .katex-html:has(> .tag) > .base:first-child, .katex-display .katex-html > .tag { margin-left: auto; }
        .jp-Notebook .katex-display .katex-html > .tag { position: static; padding-left: 1em; }
        /* In the dark a figure is turned over, as on the page (book.css). */
        [data-jp-theme-light="false"] .jp-Notebook .jp-RenderedImage img {
            filter: invert(1) hue-rotate(180deg) brightness(0.9);
            mix-blend-mode: screen;
        }`;

    const modules = async name => Promise.all(Object.values(shared[name] ?? {}).map(async one => (await one.get())()));

    // jupyterlab-myst renders formulas with KaTeX and knows no macros but those in a notebook's first cell. The book
    // has one place for them, _config.yml, from which jupyter_lab_config.py passes them on.
    async function defineMacros() {
        for (const { default: katex } of await modules("katex")) {
            const render = katex.renderToString;
            katex.renderToString = (tex, options) =>
                render(tex, { ...options, macros: { ...texMacros, ...options?.macros } });
        }
    }

    // --- references: numbers, titles and names come from notebooks/references.json; without it, labels stand for them ---

    const number = label => `(${equations[label]?.[1] ?? label})`;
    const figure = label => `Fig. ${figures[label]?.[1] ?? label}`;

    /** Where a label is, seen from the file at a path; a chapter that was opened as .ipynb goes on in it. */
    function address(label, path) {
        const page = (equations[label] ?? figures[label] ?? titles[label])?.[0];
        const here = path.replace(/\.\w+$/, "") === page;
        return page && `${here ? path.split("/").pop() : "../".repeat(path.split("/").length - 1) + page + ".md"}#${label}`;
    }

    /** Equations as links in what code shows and in captions: roles in Markdown, and in HTML the labels of ticks. */
    const inMarkdown = (text, path) => text.replace(/\{eq\}`([^`]+)`/g, (_, label) =>
        equations[label] ? `[${number(label)}](${address(label, path)})` : number(label));
    const inHTML = (text, path) => text.replace(/<code>([\w-]+)<\/code>/g, (code, label) =>
        equations[label] ? `<a href="${address(label, path)}">${number(label)}</a>` : code);

    // --- prose: each construct that jupyterlab-myst leaves as it is written, or numbers in its own way ---

    const text = value => ({ type: "text", value });

    const cited = ({ label, kind }) => {
        const [authors, year] = citations[label] ?? [label, "?"];
        return kind === "narrative" ? `${authors} (${year})` : `${authors}, ${year}`;
    };

    const constructs = {
        math: ({ value, label, key }) =>
            ({ type: "math", enumerated: false, value: label ? `${value}\n\\tag*{${number(label)}}` : value, html_id: label, key }),
        crossReference: ({ kind, label: whole, children }, path) => {
            // Words that go over the end of a line come in one piece with their label.
            const [, broken, label = whole] = /^(.*\S)\s+<([^<>]+)>$/s.exec(whole) ?? [];
            const shown = broken ?? { eq: number, numref: figure }[kind]?.(label) ?? titles[label]?.[1] ?? label;
            const [url, words] = [address(label, path), children?.length ? children : [text(shown)]];
            return url ? { type: "link", url, children: words } : { type: "emphasis", children: words };
        },
        cite: node => text(cited(node)),
        citeGroup: ({ children, kind }) => {
            const all = children.map(cited).join("; ");
            return text(kind === "narrative" ? all : `(${all})`);
        },
        mystRole: node => node.name === "glue:text" ? { ...text(node.value), glue: node.value } : node,
    };

    /** The syntax tree of a cell as the book's page has it. */
    function translate(node, path) {
        const translated = constructs[node.type]?.(node, path) ?? node;
        if (translated !== node || !node.children) return translated;
        return { ...node, children: node.children.map(child => translate(child, path)) };
    }

    // --- numbers: what the prose quotes is what the notebook's own cells have recorded ---

    /** The text that a Python literal of a text stands for. */
    function unquoted(literal) {
        const [, , quoted] = /^(['"])(.*)\1$/s.exec(literal) ?? [];
        const character = (_, byte, unit, itself) => itself ?? String.fromCharCode(parseInt(byte ?? unit, 16));
        return quoted?.replace(/\\(?:x(..)|u(....)|(.))/g, character) ?? literal;
    }

    function recorded(notebook, name) {
        for (const { outputs } of notebook.model?.cells ?? [])
            for (let i = 0; i < (outputs?.length ?? 0); i++) {
                const { metadata, data } = outputs.get(i);
                const literal = data["application/papermill.record/text/plain"];
                if (literal && metadata.scrapbook?.name === name) return unquoted(String(literal));
            }
    }

    /** Fill the recorded numbers in; returns whether any is another than before. */
    function fill(node, notebook) {
        if (!node.glue) return (node.children ?? []).map(child => fill(child, notebook)).some(Boolean);
        const [before, value] = [node.value, recorded(notebook, node.glue)];
        Object.assign(node, value === undefined ? { type: "inlineCode", value: node.glue } : text(value));
        return node.value !== before;
    }

    /** After a run: only the numbers change, so that what a reader has unfolded stays open. */
    function refresh(notebook) {
        for (const { mystModel } of notebook.widgets)
            if (mystModel?.mdast && fill(mystModel.mdast, notebook)) mystModel.stateChanged.emit();
    }

    // --- cells, in the form that a notebook gets them ---

    /** What a tree shows: its nodes get new random keys whenever any cell of the notebook is rendered. */
    const seen = tree => JSON.stringify(tree, (name, value) => name === "key" ? undefined : value);

    function showProse(cell) {
        let parsed, shown;
        Object.defineProperty(cell, "fragmentMDAST", {
            get() {
                if (parsed !== this._fragmentMDAST) {
                    parsed = this._fragmentMDAST;
                    shown = translate(parsed, this.parent.rendermime.resolver.path);
                }
                if (shown) fill(shown, this.parent);
                return shown;
            },
        });
        // jupyterlab-myst renders the whole notebook with each cell: slow, and it would close what a reader has unfolded.
        const { get, set } = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(cell), "mystModel");
        Object.defineProperty(cell, "mystModel", {
            get,
            set(model) { if (seen(model.mdast) !== seen(this.mystModel.mdast)) set.call(this, model); },
        });
        return cell;
    }

    /** Folded as on the page; as nothing is synchronised with the metadata, folding changes no file. */
    function fold(cell) {
        const tags = cell.model.getMetadata("tags") ?? [];
        const hidden = part => tags.includes("hide-cell") || tags.includes(`hide-${part}`);
        if (!hidden("input") && !hidden("output")) return;
        cell.syncCollapse = false;
        [cell.inputHidden, cell.outputHidden] = [hidden("input"), hidden("output")];
    }

    function addCaption(cell) {
        const { caption, name } = cell.model.getMetadata("mystnb")?.figure ?? {};
        if (!caption) return;
        cell.ready.then(async () => {
            const { rendermime } = cell.parent;
            const renderer = rendermime.createRenderer("text/markdown");
            renderer.addClass("vaebook-caption");
            renderer.node.id = name;
            cell.layout.addWidget(renderer);
            const data = { "text/markdown": `**${figure(name)}** ${caption}` };
            await renderer.renderModel(rendermime.createModel({ data }));
        });
    }

    function showCode(cell) {
        fold(cell);
        addCaption(cell);
        let timer;
        cell.model.outputs.changed.connect(() => {
            clearTimeout(timer);
            timer = setTimeout(() => cell.parent && refresh(cell.parent), 100);
        });
        return cell;
    }

    /** A link may lead to a label of the book, which stays in view while the cells above it are being rendered. */
    function followLabels(notebook) {
        const follow = notebook.setFragment;
        notebook.setFragment = async fragment => {
            const label = decodeURIComponent(fragment.slice(1));
            const named = ({ model }) => model.getMetadata("mystnb")?.figure?.name === label
                || [`:label: ${label}`, `(${label})=`].some(line => model.sharedModel.getSource().split("\n").includes(line));
            const cell = notebook.widgets.find(named);
            if (!cell) return follow.call(notebook, fragment);
            notebook.activeCellIndex = notebook.widgets.indexOf(cell);
            notebook.scrollToItem(notebook.activeCellIndex, "center"); // not awaited: it takes as long as the rendering
            const place = () => cell.node.querySelector(`[id="${label}"]`) ?? cell.node;
            const observer = new ResizeObserver(() => place().scrollIntoView({ block: "center" }));
            observer.observe(notebook.viewportNode);
            for (const moved of ["wheel", "pointerdown", "keydown"]) // The reader goes elsewhere.
                document.addEventListener(moved, () => observer.disconnect(), { once: true, capture: true });
        };
        return notebook;
    }

    function adapt(factory) {
        const wrap = (name, change) => {
            const create = factory[name];
            factory[name] = options => change(create.call(factory, options));
        };
        wrap("createMarkdownCell", showProse);
        wrap("createCodeCell", showCode);
        wrap("createNotebook", followLabels);
    }

    // --- outputs ---

    /** A picture as large as its file says: matplotlib drew it with 192 dots to the inch, and a page has 96. */
    function scale(image, png) {
        const [, dots] = /pHYs(....)/s.exec(atob(png.slice(0, 400))) ?? [];
        if (!dots || image.hasAttribute("width")) return;
        const perMetre = [...dots].reduce((sum, byte) => 256 * sum + byte.charCodeAt(0), 0);
        image.decode().then(() => { image.width = image.naturalWidth * 96 / (0.0254 * perMetre); });
    }

    function adaptOutputs(RenderMimeRegistry) {
        const { createRenderer } = RenderMimeRegistry.prototype;
        const rewrite = { "text/markdown": inMarkdown, "text/html": inHTML };
        RenderMimeRegistry.prototype.createRenderer = function (mime) {
            const renderer = createRenderer.call(this, mime);
            const { renderModel } = renderer;
            renderer.renderModel = async model => {
                const before = String(model.data[mime]);
                const after = rewrite[mime]?.(before, this.resolver?.path ?? "") ?? before;
                const data = { value: { ...model.data, [mime]: after } };
                await renderModel.call(renderer, after === before ? model : Object.create(model, { data }));
                if (mime === "image/png") scale(renderer.node.querySelector("img"), before);
            };
            return renderer;
        };
    }

    /** What the kernel says of itself when a notebook is opened is no change that a reader would have to save. */
    function ignoreKernelInfo(NotebookPanel) {
        const update = NotebookPanel.prototype._updateLanguage;
        NotebookPanel.prototype._updateLanguage = function (info) {
            const { dirty } = this.model;
            update.call(this, info);
            this.model.dirty = dirty;
        };
    }

    async function plugin() {
        const [[{ NotebookPanel }], [{ RenderMimeRegistry }]] =
            await Promise.all(["@jupyterlab/notebook", "@jupyterlab/rendermime"].map(modules));
        return {
            id: "vaebook:plugin",
            autoStart: true,
            requires: [NotebookPanel.IContentFactory],
            async activate(app, factory) {
                adapt(factory);
                adaptOutputs(RenderMimeRegistry);
                ignoreKernelInfo(NotebookPanel);
                await defineMacros();
                document.head.append(Object.assign(document.createElement("style"), { textContent: STYLE }));
                app.shell.restored.then(async layout => {
                    if (!layout.fresh) return; // Later starts show what the last one left.
                    await app.commands.execute("docmanager:open", { path: "notebooks/01_kl.md" });
                    await app.commands.execute("toc:show-panel");
                });
            },
        };
    }

    (window._JUPYTERLAB ??= {}).vaebook = {
        init: scope => { shared = scope; },
        get: async () => {
            const module = { __esModule: true, default: await plugin() };
            return () => module;
        },
    };
})();
