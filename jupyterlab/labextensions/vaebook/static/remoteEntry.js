// A JupyterLab extension in the form that JupyterLab loads, a container of one module: nothing to compile, nothing to install.
(() => {
    let shared;

    // jupyterlab-myst renders formulas with KaTeX and knows no macros but those in a notebook's first cell. The book
    // has one place for them, _config.yml, from which jupyter_lab_config.py passes them on.
    async function defineMacros() {
        const { texMacros } = JSON.parse(document.getElementById("jupyter-config-data").textContent);
        for (const version of Object.values(shared.katex ?? {})) {
            const katex = (await version.get())().default;
            const render = katex.renderToString;
            katex.renderToString = (tex, options) =>
                render(tex, { ...options, macros: { ...texMacros, ...options?.macros } });
        }
    }

    const plugin = {
        id: "vaebook:plugin",
        autoStart: true,
        async activate(app) {
            await defineMacros();
            app.shell.restored.then(async layout => {
                if (!layout.fresh) return; // Later starts show what the last one left.
                await app.commands.execute("docmanager:open", { path: "notebooks/01_kl.md" });
                await app.commands.execute("toc:show-panel");
            });
        },
    };

    (window._JUPYTERLAB ??= {}).vaebook = {
        init: scope => { shared = scope; },
        get: async () => () => ({ __esModule: true, default: plugin }),
    };
})();
