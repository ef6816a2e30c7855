// Moves z through the latent plane, decodes it and shows the terms of the bound. The numbers lie in the
// JSON beside this script; see vaebook/explorer.py.
(() => {
  const roots = ".vaebook-explorer:not(.live)";
  const root = document.currentScript?.closest(roots) ?? [...document.querySelectorAll(roots)].pop();
  const data = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  const floats = (text) => new Float32Array(bytes(text));
  const rows = (values, n) => Array.from({ length: values.length / n }, (_, i) => values.subarray(i * n, (i + 1) * n));

  // The model ------------------------------------------------------------------------------------------
  const [height, width] = data.shape, d = height * width;
  const codes = rows(floats(data.codes), 4).map(([m1, m2, s1, s2]) => ({ mu: [m1, m2], logSigma: [s1, s2] }));
  const images = rows(floats(data.images), d), means = rows(floats(data.means), 2);
  const logSigmaDec = floats(data.logSigmaDec)[0], LOG_2PI = Math.log(2 * Math.PI);
  const name = (row) => (data.labels ? `a ${data.labels[row]}` : `image ${row + 1}`);

  const scales = floats(data.scales), whole = new Int16Array(bytes(data.weights));
  let start = 0;
  const layers = data.widths.slice(1).map((n, k) => {  // W | b, one row for each of n outputs
    const end = start + n * (data.widths[k] + 1);
    const weights = Float64Array.from(whole.subarray(start, end), (w) => w * scales[k]);
    start = end;
    return { weights, out: new Float64Array(n) };
  });

  function decode(z) {  // f_θ(z); the array is written over by the next call
    let input = z;
    for (const { weights, out } of layers) {
      const last = out === layers.at(-1).out;
      for (let i = 0, w = 0; i < out.length; i++) {
        let sum = 0;
        for (let j = 0; j < input.length; j++) sum += weights[w++] * input[j];
        sum += weights[w++];
        out[i] = last ? sum : Math.tanh(sum);
      }
      input = out;
    }
    return input;
  }

  const logNormal = (z, mu, logSigma) => z.reduce(
    (sum, zj, j) => sum - 0.5 * ((zj - mu[j]) * Math.exp(-logSigma[j])) ** 2 - logSigma[j] - 0.5 * LOG_2PI, 0);

  function terms(z, f = decode(z)) {  // in nats, for the chosen image
    const x = images[choice], q = codes[data.chosen[choice]];
    let square = 0;
    for (let i = 0; i < d; i++) square += (x[i] - f[i]) ** 2;
    const logP = -0.5 * square * Math.exp(-2 * logSigmaDec) - d * (logSigmaDec + 0.5 * LOG_2PI);
    const logPrior = logNormal(z, [0, 0], [0, 0]), logQ = logNormal(z, q.mu, q.logSigma);
    const [meanLogP, kl] = means[choice];
    return { logP, logPrior, logQ, total: logP + logPrior - logQ, meanLogP, kl, bound: meanLogP - kl };
  }

  // The page -------------------------------------------------------------------------------------------
  // data-lm-suppress-shortcuts keeps JupyterLab from taking the plane's keys for its own.
  const ui = document.createElement("div");
  ui.className = "ui";
  ui.innerHTML = `
    <div class="controls">
      <div class="strip" role="group" aria-label="Choose an image x"></div>
      <div><button type="button" class="home">Go to μ(<i>x</i>)</button>
        <button type="button" class="tour" aria-pressed="false">Tour</button></div>
    </div>
    <div class="board">
      <div class="plane" tabindex="0" data-lm-suppress-shortcuts="true" role="application" aria-label="Latent plane.
        Arrow keys move z by 0.05, with Shift by 0.5. Home goes to the mean code of the chosen image.
        Digits 0 to 9 choose an image."><canvas></canvas><div class="cursor"></div></div>
      <div class="side">
        <div class="pictures">
          <div><canvas class="image f" role="img" aria-label="Decoded mean"></canvas>
            <span>decoded mean <i>f</i><sub>θ</sub>(<i>z</i>)</span></div>
          <div><canvas class="image x" role="img"></canvas><span>chosen image <i>x</i></span></div>
        </div>
        <table>
          <thead><tr><th scope="col">in nats</th><th scope="col">at <i>z</i> = <small class="z"></small></th>
            <th scope="col">mean over<small><i>z</i> ∼ <i>q</i><sub>φ</sub>(<i>z</i> | <i>x</i>)</small></th></tr></thead>
          <tbody>
            <tr><th scope="row">log <i>p</i><sub>θ</sub>(<i>x</i> | <i>z</i>)
              <small>how well <i>z</i> explains <i>x</i></small></th>
              <td class="logP"></td><td class="meanLogP"></td></tr>
            <tr><th scope="row">+ log π(<i>z</i>)<small>density of the prior</small></th><td class="logPrior"></td>
              <td class="both" rowspan="2"><span class="kl"></span><small>−KL(<i>q</i><sub>φ</sub> ‖ π)</small></td></tr>
            <tr><th scope="row">− log <i>q</i><sub>φ</sub>(<i>z</i> | <i>x</i>)<small>density of the code</small></th>
              <td class="logQ"></td></tr>
            <tr class="sum"><th scope="row">sum<small>its mean over <i>q</i><sub>φ</sub> is ℒ</small></th>
              <td class="total"></td><td><span class="bound"></span><small>ℒ, the bound</small></td></tr>
          </tbody>
        </table>
      </div>
    </div>
    <p class="key">Drag the point <i>z</i>, or focus the plane and use the arrow keys. ${data.labels ? "Numerals" : "Dots"}
      and grey ellipses: μ and σ of the images. Filled ellipse: <i>q</i><sub>φ</sub> of the chosen one, out to one σ.
      Shading: density of the prior π; the dashed circles hold 50 % and 95 % of it.</p>
    <p role="status" aria-live="polite"></p>`;
  root.append(ui);
  const $ = (selector) => ui.querySelector(selector);
  const plane = $(".plane"), status = $("[role=status]"), tour = $(".tour");

  function paint(canvas, f) {  // 0 is white, 1 is black, as in the book's figures
    if (canvas.width !== width) [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d"), pixels = context.createImageData(width, height);
    for (let i = 0; i < d; i++) {
      const grey = Math.round(255 * (1 - f[i]));  // the array clamps to 0 … 255
      pixels.data.set([grey, grey, grey, 255], 4 * i);
    }
    context.putImageData(pixels, 0, 0);
  }

  // The plane: z runs from −limit to limit on both axes.
  const reach = codes.flatMap(({ mu, logSigma }) => mu.map((m, j) => Math.abs(m) + Math.exp(logSigma[j])));
  const limit = Math.max(3, ...reach) + 0.2;
  const clamp = (v) => Math.min(limit, Math.max(-limit, v));
  let z = [0, 0], choice = 0, waiting = false, resting = 0, touched = false;

  function drawPlane() {
    const side = plane.clientWidth, canvas = plane.firstChild, dpr = window.devicePixelRatio || 1;
    if (!side) return;
    canvas.width = canvas.height = Math.round(side * dpr);
    const c = canvas.getContext("2d"), style = getComputedStyle(root), unit = side / 2 / limit;
    const colour = (variable) => style.getPropertyValue(variable).trim(), classes = colour("--classes").split(" ");
    const to = ([a, b]) => [side / 2 + a * unit, side / 2 - b * unit];
    const ellipse = (mu, [s1, s2]) => {
      c.beginPath();
      c.ellipse(...to(mu), s1 * unit, s2 * unit, 0, 0, 2 * Math.PI);
      c.stroke();
    };
    const text = (label, x, y) => { c.strokeText(label, x, y); c.fillText(label, x, y); };
    c.scale(dpr, dpr);
    const glow = c.createRadialGradient(side / 2, side / 2, 0, side / 2, side / 2, 4 * unit);
    for (let k = 0; k <= 16; k++) {  // out to a radius of 4, where nothing is left of the density
      const share = Math.exp(-((k / 4) ** 2) / 2);
      glow.addColorStop(k / 16, `rgb(${colour("--prior")} / ${colour("--shade") * share})`);
    }
    c.fillStyle = glow;
    c.fillRect(0, 0, side, side);
    c.lineWidth = 0.6;
    c.strokeStyle = colour("--line");
    for (const { mu, logSigma } of codes) ellipse(mu, logSigma.map(Math.exp));
    c.lineWidth = 1;
    c.setLineDash([5, 4]);
    c.strokeStyle = colour("--quiet");
    for (const share of [0.5, 0.95]) ellipse([0, 0], Array(2).fill(Math.sqrt(-2 * Math.log(1 - share))));
    c.textAlign = "center";
    c.textBaseline = "middle";
    c.font = "bold 11px sans-serif";
    codes.forEach(({ mu }, row) => {
      c.fillStyle = classes[data.labels ? data.labels[row] % 10 : 0];
      c.fillText(data.labels ? data.labels[row] : "•", ...to(mu));
    });
    const q = codes[data.chosen[choice]];
    c.setLineDash([]);
    c.lineWidth = 2.5;
    c.strokeStyle = colour("--x");
    c.fillStyle = colour("--x-light");
    ellipse(q.mu, q.logSigma.map(Math.exp));
    c.fill();
    c.font = "11px sans-serif";
    c.fillStyle = colour("--quiet");
    c.strokeStyle = colour("--paper");
    for (let k = -Math.floor(limit); k <= limit; k++) {
      const label = String(k).replace("-", "−"), [x, y] = to([k, k]);
      text(label, x, side - 9);
      if (k > -limit + 0.5) text(label, 9, y);
    }
    c.font = "italic 14px serif";
    text("z₁", side - 12, side - 24);
    text("z₂", 26, 12);
  }

  const number = (v) => (Math.abs(v) < 0.005 ? 0 : v).toFixed(2).replace("-", "−");
  const place = () => `(${number(z[0])}, ${number(z[1])})`;

  function frame() {
    waiting = false;
    const f = decode(z), t = terms(z, f), unit = plane.clientWidth / 2 / limit;
    paint($(".f"), f);
    $(".cursor").style.transform = `translate(${(z[0] + limit) * unit}px, ${(limit - z[1]) * unit}px)`;
    const shown = { ...t, logQ: -t.logQ, kl: -t.kl };
    for (const key in shown) $(`.${key}`).textContent = number(shown[key]);
    $(".z").textContent = place();
    clearTimeout(resting);
    resting = setTimeout(announce, 500);
  }

  function announce() {
    const away = codes.map(({ mu }) => Math.hypot(z[0] - mu[0], z[1] - mu[1]));
    const near = name(away.indexOf(Math.min(...away))), t = terms(z);
    $(".f").setAttribute("aria-label", `Decoded mean, near the code of ${near}`);
    if (!touched) return;  // nobody asked yet
    status.textContent = `z is ${place()}, near the code of ${near}. For the chosen image, ${name(data.chosen[choice])}: `
      + `log likelihood ${number(t.logP)}, sum of the three terms ${number(t.total)} nats.`;
  }

  function moveTo(to) {
    z = [clamp(to[0]), clamp(to[1])];
    if (!waiting) requestAnimationFrame(frame);
    waiting = true;
  }

  function choose(k) {
    choice = k;
    $(".strip").childNodes.forEach((button, i) => button.setAttribute("aria-pressed", i === k));
    $(".x").setAttribute("aria-label", `Chosen image, ${name(data.chosen[k])}`);
    paint($(".x"), images[k]);
    drawPlane();
    moveTo(z);
  }
  const home = () => moveTo(codes[data.chosen[choice]].mu);

  // The tour visits the codes of the images to choose from, and ends at the first touch or key.
  let touring = 0;
  function stop() {
    cancelAnimationFrame(touring);
    touring = 0;
    tour.setAttribute("aria-pressed", false);
  }
  function startTour() {
    const stops = [z, ...data.chosen.map((row) => codes[row].mu)], begin = performance.now();
    const step = (now) => {
      const leg = Math.max(0, now - begin) / 1800, from = stops[Math.floor(leg)], to = stops[Math.floor(leg) + 1];
      if (!to) return stop();
      const s = 0.5 - 0.5 * Math.cos(Math.PI * (leg % 1));
      moveTo([from[0] + s * (to[0] - from[0]), from[1] + s * (to[1] - from[1])]);
      touring = requestAnimationFrame(step);
    };
    tour.setAttribute("aria-pressed", true);
    touring = requestAnimationFrame(step);
  }

  data.chosen.forEach((row, k) => {
    const button = document.createElement("button"), canvas = document.createElement("canvas");
    button.type = "button";
    button.setAttribute("aria-label", `Choose ${name(row)}`);
    canvas.className = "image";
    paint(canvas, images[k]);
    button.append(canvas);
    button.onclick = () => { stop(); choose(k); };
    $(".strip").append(button);
  });
  $(".home").onclick = () => { stop(); home(); };
  tour.onclick = () => (touring ? stop() : startTour());

  for (const kind of ["pointerdown", "keydown", "click"]) ui.addEventListener(kind, () => { touched = true; }, true);
  const follow = (event) => {
    const box = plane.getBoundingClientRect(), half = plane.clientWidth / 2;
    moveTo([((event.clientX - box.left - plane.clientLeft) / half - 1) * limit,
      (1 - (event.clientY - box.top - plane.clientTop) / half) * limit]);
  };
  plane.onpointerdown = (event) => { stop(); plane.setPointerCapture(event.pointerId); follow(event); };
  plane.onpointermove = (event) => { if (plane.hasPointerCapture(event.pointerId)) follow(event); };
  plane.onkeydown = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] }[event.key];
    const step = event.shiftKey ? 0.5 : 0.05, digit = "0123456789".indexOf(event.key);
    if (arrow) moveTo([z[0] + step * arrow[0], z[1] + step * arrow[1]]);
    else if (event.key === "Home") home();
    else if (digit >= 0 && digit < images.length) choose(digit);
    else return;
    stop();
    event.preventDefault();  // the page stays where it is
    event.stopPropagation();  // and so do other listeners of single keys
  };

  root.classList.add("live");
  root.explorer = {
    decode: (at) => [...decode(at)], terms: (at) => terms(at), moveTo,
    get z() { return z; }, get choice() { return choice; },
  };
  new ResizeObserver(() => { drawPlane(); moveTo(z); }).observe(plane);
  const theme = new MutationObserver(drawPlane);
  for (const element of [document.documentElement, document.body]) {
    theme.observe(element, { attributeFilter: ["data-theme", "data-jp-theme-light"] });
  }
  choose(0);
  home();
})();
