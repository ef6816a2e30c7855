"""The explorer's page computes the same as PyTorch, and works with mouse, touch, keyboard and screen reader.

The script of the page runs in the system's Chromium; without one, these tests are skipped.
"""

import base64
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from IPython.core.formatters import DisplayFormatter
from playwright.sync_api import Page, Playwright, sync_playwright

from vaebook.data import load
from vaebook.divergences import kl_to_prior
from vaebook.estimates import monte_carlo
from vaebook.explorer import Explorer, choices, explorer
from vaebook.models import VAE, BernoulliDecoder, Encoder, mlp, mlp_vae
from vaebook.training import train

ROOT = ".vaebook-explorer"
FOLDER = Path(__file__).parent.parent / "vaebook"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
Digits = tuple[torch.Tensor, torch.Tensor, tuple[int, int]]  # images, their labels, height and width


@pytest.fixture(scope="module")
def digits() -> Digits:
    images = load("digits")
    assert images.test_labels is not None
    return images.test.double(), images.test_labels, images.shape


@pytest.fixture(scope="module")
def model(digits: Digits) -> VAE:
    vae = mlp_vae(64, 2, seed=0).double()
    train(vae, digits[0], digits[0], epochs=8, learning_rate=3e-3, device="cpu")
    return vae


@pytest.fixture(scope="module")
def made(model: VAE, digits: Digits) -> Explorer:
    return explorer(model, *digits)


@pytest.fixture(scope="module")
def document(made: Explorer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page that contains only the fragment, without other styles or scripts."""
    path = tmp_path_factory.mktemp("explorer") / "page.html"
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Explorer</title>'
    body = f'<body style="margin: 16px"><main><h1>Explorer</h1>{made._repr_mimebundle_()[0]["text/html"]}</main></body>'
    path.write_text(f'<!doctype html><html lang="en"><head>{head}</head>{body}</html>', encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as p:
        yield p


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[object]:
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    yield browser
    browser.close()


@pytest.fixture
def page(browser: object, document: Path) -> Iterator[Page]:
    """The explorer, opened from a file. The test fails if the script logs an error or requests another file."""
    page = browser.new_page(viewport={"width": 800, "height": 800})  # type: ignore[attr-defined]
    complaints: list[str] = []
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url))
    page.goto(document.as_uri())
    page.wait_for_selector(f"{ROOT}.live")
    yield page
    page.close()
    assert [c for c in complaints if not c.startswith(("data:image/png", document.as_uri()))] == []


def ask(page: Page, expression: str, argument: object = None) -> object:
    """The value of an expression in ``e``, the explorer's JavaScript object, and ``a``, the argument."""
    code = f"(a) => {{ const e = document.querySelector('{ROOT}').explorer; return ({expression}); }}"
    return page.evaluate(code, argument)


def rest(page: Page) -> str:
    """The announcement for screen readers after z has stopped moving."""
    page.wait_for_timeout(700)
    return page.locator(f"{ROOT} [role=status]").inner_text()


def places() -> torch.Tensor:
    """Points in the whole plane, also where the prior has little mass, (60, 2)."""
    return 3.5 * (2 * torch.rand(60, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1)


# The object


def test_the_fragment_is_small_self_contained_and_reproducible(made: Explorer, model: VAE, digits: Digits) -> None:
    html = made._repr_mimebundle_()[0]["text/html"]
    assert len(html.encode()) < 1_000_000
    assert html == explorer(model, *digits)._repr_mimebundle_()[0]["text/html"]
    code = re.sub(r"[A-Za-z0-9+/=]{200,}", "", html)  # the numbers and the picture
    assert len(code) < 25_000
    assert not re.search(r"https?:|//[a-z]|@import|\bfetch\b|\beval\b|\bid=|Math\.random", code)
    assert "</script" not in made.payload
    assert repr(made) == "Explorer(180 images of 8 × 8 pixels, 10 to choose from)"


def test_a_notebook_gets_the_page_the_picture_and_a_line_of_text(made: Explorer) -> None:
    data, metadata = DisplayFormatter().format(made)
    assert set(data) == {"text/plain", "text/html", "image/png"}
    assert data["text/html"] == made._repr_mimebundle_()[0]["text/html"]
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert data["image/png"] in data["text/html"]  # the page contains the same picture
    assert metadata["scrapbook"]["name"] == "explorer"


def test_it_uses_no_random_numbers_and_does_not_change_the_model(model: VAE, digits: Digits) -> None:
    before, weights = torch.get_rng_state(), [w.clone() for w in model.parameters()]
    explorer(model, *digits)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))


def test_choices_are_the_first_of_each_class_or_the_first_ten() -> None:
    assert choices(torch.tensor([3, 3, 0, 1, 0]), 5) == [2, 3, 0]
    assert choices(torch.arange(30).flip(0), 30) == list(range(29, 19, -1))
    assert choices(None, 7) == list(range(7))


def test_the_fragment_is_small_for_large_float32_images_without_labels() -> None:
    html = explorer(mlp_vae(784, 2).float(), torch.rand(300, 784).float(), None, (28, 28))._repr_mimebundle_()[0][
        "text/html"
    ]
    assert len(html.encode()) < 1_000_000


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: (mlp_vae(64, 3), (8, 8)), ValueError, "needs latent_dim = 2, got 3"),
        (
            lambda: (mlp_vae(64, 2), (8, 9)),
            ValueError,
            "shape needs 64 pixels, got 8 × 9; give the height and the width",
        ),
        (
            lambda: (VAE(Encoder(mlp(64, 4)), BernoulliDecoder(mlp(2, 64)), 64, 2), (8, 8)),
            TypeError,
            "needs a GaussianDecoder with an mlp, got BernoulliDecoder",
        ),
    ],
)
def test_errors(make: object, error: type[Exception], message: str) -> None:
    vae, shape = make()  # type: ignore[operator]
    with pytest.raises(error, match=message):
        explorer(vae, torch.rand(5, 64), None, shape)


def test_a_decoder_without_tanh_is_refused() -> None:
    vae = mlp_vae(64, 2)
    vae.decoder.network[1] = torch.nn.ReLU()  # type: ignore[index, operator, union-attr]
    with pytest.raises(TypeError, match=r"layer 1 of the decoder needs to be Tanh, got ReLU\(\)"):
        explorer(vae, torch.rand(5, 64), None, (8, 8))


def test_numerals_contrast_with_the_background() -> None:
    def luminance(colour: str) -> float:
        c = torch.tensor([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = torch.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        return float(linear @ torch.tensor([0.2126, 0.7152, 0.0722]))

    css = (FOLDER / "explorer.css").read_text(encoding="utf-8")
    schemes = zip(*(re.findall(rf"--{name}: (.*?);", css) for name in ("paper", "classes")), strict=True)
    for paper, classes in schemes:
        paper = "#ffffff" if paper == "#fff" else paper
        assert len(classes.split()) == 10
        for colour in classes.split():
            bright, dim = sorted((luminance(paper), luminance(colour)), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) > 4.5


def test_in_dark_mode_the_frames_of_turned_images_come_out_in_the_colours_of_z_and_x() -> None:
    dark = (FOLDER / "explorer.css").read_text(encoding="utf-8").split('[data-theme="dark"]')[1]
    colours = dict(re.findall(r"--([a-z-]+): #([0-9a-f]{6});", dark))
    channels = {name: torch.tensor(list(bytes.fromhex(colour))) / 255 for name, colour in colours.items()}
    (turn,) = (float(share) for share in re.findall(r"--turn: invert\(([\d.]+)\)", dark))
    for name in ("z", "x"):
        turned = turn + (1 - 2 * turn) * channels[f"{name}-frame"]
        assert (turned - channels[name]).abs().max() < 0.08  # no channel comes out as 0
    white = turn + (1 - 2 * turn)
    assert white == pytest.approx(channels["paper"].max().item(), abs=0.002)


# The computations of the page


def test_the_decoder_agrees_with_pytorch_to_one_grey_level(page: Page, model: VAE) -> None:
    z = places()
    decoded = torch.tensor(ask(page, "a.map(e.decode)", z.tolist()), dtype=torch.float64)
    with torch.no_grad():
        f = model.decode(z).mean
    assert (decoded - f).abs().max() < 0.25 / 255  # after rounding, at most one grey level
    assert f.std(0).max() > 0.1  # the pictures differ


def test_the_canvas_shows_the_decoded_mean_to_one_grey_level(page: Page, model: VAE) -> None:
    read = "[...document.querySelector('canvas.f').getContext('2d').getImageData(0, 0, 8, 8).data]"
    for z in 0.8 * places()[:10]:  # inside the plane, so that moveTo reaches z
        ask(page, "e.moveTo(a)", z.tolist())
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        shown = torch.tensor(page.evaluate(read)).reshape(64, 4)
        with torch.no_grad():
            grey = 255 * (1 - model.decode(z).mean.clamp(0, 1))
        assert (shown[:, :3] - grey[:, None]).abs().max() <= 1


def test_the_terms_agree_with_pytorch(page: Page, model: VAE, digits: Digits) -> None:
    x, labels, _ = digits
    row, z = choices(labels, len(x))[3], places()
    page.locator(f"{ROOT} .strip button").nth(3).click()
    found = ask(page, "a.map(e.terms)", z.tolist())
    with torch.no_grad():
        q = model.encode(x[row])
        log_p, log_prior, log_q = model.decode(z).log_prob(x[row]), model.prior().log_prob(z), q.log_prob(z)
        kl = kl_to_prior(q)
        draws = q.rsample((20_000,), torch.Generator().manual_seed(0))
        mean = monte_carlo(model.decode(draws).log_prob(x[row]))
    wanted = {"logP": log_p, "logPrior": log_prior, "logQ": log_q, "total": log_p + log_prior - log_q}
    for name, values in wanted.items():
        computed = torch.tensor([terms[name] for terms in found], dtype=torch.float64)  # type: ignore[attr-defined]
        torch.testing.assert_close(computed, values, rtol=1e-3, atol=1e-3)
    terms = found[0]  # type: ignore[index]
    assert terms["kl"] == pytest.approx(kl.item(), rel=1e-3)
    assert abs(mean.z_score(terms["meanLogP"])) < 4
    assert terms["bound"] == pytest.approx(terms["meanLogP"] - terms["kl"])


def test_the_table_shows_the_terms_and_adds_up(page: Page) -> None:
    ask(page, "e.moveTo([0.5, -1])")
    page.wait_for_timeout(100)
    terms = ask(page, "e.terms([0.5, -1])")
    shown = {
        name: float(page.locator(f"{ROOT} .{name}").inner_text().replace("−", "-"))
        for name in ("logP", "logPrior", "logQ", "total", "meanLogP", "kl", "bound")
    }
    assert shown["logP"] == pytest.approx(terms["logP"], abs=0.006)  # type: ignore[index]
    assert shown["logQ"] == pytest.approx(-terms["logQ"], abs=0.006)  # type: ignore[index]
    assert shown["total"] == pytest.approx(shown["logP"] + shown["logPrior"] + shown["logQ"], abs=0.02)
    assert shown["bound"] == pytest.approx(shown["meanLogP"] + shown["kl"], abs=0.02)
    assert page.locator(f"{ROOT} th .z").inner_text() == "(0.50, −1.00)"


# The use of the page


def test_a_drag_moves_z(page: Page) -> None:
    box = page.locator(f"{ROOT} .plane").bounding_box()
    assert box is not None
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(*middle)
    page.mouse.down()
    assert ask(page, "e.z") == pytest.approx([0, 0], abs=0.02)
    page.mouse.move(middle[0] + box["width"] / 4, middle[1] - box["height"] / 8, steps=3)
    right, up = ask(page, "e.z")  # type: ignore[misc]
    assert right == pytest.approx(2 * up, abs=0.02)
    page.mouse.move(2000, middle[1])  # outside the plane: z stays inside
    assert 3 < ask(page, "e.z")[0] < 5  # type: ignore[index, operator]
    page.mouse.up()
    page.mouse.move(*middle)
    assert ask(page, "e.z")[0] > 3  # type: ignore[index, operator]  # without a pressed button z does not move


def test_a_finger_moves_z(browser: object, document: Path) -> None:
    context = browser.new_context(has_touch=True, viewport={"width": 375, "height": 700})  # type: ignore[attr-defined]
    page = context.new_page()
    page.goto(document.as_uri())
    box = page.locator(f"{ROOT} .plane").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert ask(page, "e.z") == pytest.approx([0, 0], abs=0.03)
    context.close()


def test_the_keyboard_alone_does_everything(page: Page) -> None:
    for _ in range(20):  # Tab passes the buttons and reaches the plane
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('.plane')"):
            break
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert page.evaluate("'lmSuppressShortcuts' in document.activeElement.dataset")  # read by JupyterLab
    ask(page, "e.moveTo([0, 0])")
    for key in "Right", "Right", "Up":
        page.keyboard.press(f"Arrow{key}")
    for key in "Left", "Down", "Down":
        page.keyboard.press(f"Shift+Arrow{key}")
    assert ask(page, "e.z") == pytest.approx([0.1 - 0.5, 0.05 - 1.0])
    page.keyboard.press("7")
    assert ask(page, "e.choice") == 7
    assert page.locator(f"{ROOT} [aria-pressed=true]").get_attribute("aria-label") == "Choose a 7"
    assert ask(page, "e.z") == pytest.approx([-0.4, -0.95])
    page.keyboard.press("Home")
    said = rest(page)
    assert "near the code of a 7. For the chosen image, a 7: log likelihood" in said
    assert re.search(r"z is \(−?\d\.\d\d, −?\d\.\d\d\), near", said)
    page.keyboard.press("Shift+Tab")  # back to a button
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    assert ask(page, "e.choice") == 9


def test_nothing_is_announced_before_the_reader_does_something(page: Page) -> None:
    assert rest(page) == ""


def test_a_frame_takes_less_than_half_of_its_time(page: Page) -> None:
    """Moves z in each frame for one second, and measures the time of the script within each frame."""
    script = """async () => {
      const {explorer} = document.querySelector(".vaebook-explorer"), original = window.requestAnimationFrame;
      const times = [];
      window.requestAnimationFrame = (callback) => original.call(window, (now) => {
        const begin = performance.now();
        callback(now);
        times.push(performance.now() - begin);
      });
      const end = performance.now() + 1000;
      for (let k = 0; performance.now() < end; k++) {
        explorer.moveTo([2 * Math.sin(k / 20), 2 * Math.cos(k / 30)]);
        await new Promise((done) => original.call(window, done));
      }
      window.requestAnimationFrame = original;
      return times.sort((a, b) => a - b);
    }"""
    times = page.evaluate(script)
    assert len(times) > 20
    assert times[len(times) // 2] < 8  # milliseconds


def test_the_tour_runs_when_asked_and_ends_at_a_key(page: Page) -> None:
    before = ask(page, "e.z")
    page.wait_for_timeout(200)
    assert ask(page, "e.z") == before  # the tour has not started
    tour = page.get_by_role("button", name="Tour")
    tour.click()
    page.wait_for_timeout(2500)
    assert ask(page, "e.z") != before
    assert tour.get_attribute("aria-pressed") == "true"
    page.locator(f"{ROOT} .plane").press("ArrowUp")
    assert tour.get_attribute("aria-pressed") == "false"
    after = ask(page, "e.z")
    page.wait_for_timeout(200)
    assert ask(page, "e.z") == after


def test_the_tour_is_hidden_for_readers_who_prefer_reduced_motion(page: Page) -> None:
    page.emulate_media(reduced_motion="reduce")
    assert not page.locator(f"{ROOT} .tour").is_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 800])
def test_axe_finds_nothing_serious_and_nothing_scrolls_sideways(page: Page, theme: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.evaluate("(theme) => { document.documentElement.dataset.theme = theme; }", theme)
    page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper = page.evaluate(f"getComputedStyle(document.querySelector('{ROOT}')).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 18, 18)"}[theme]
    violations = Axe().run(page).response["violations"]
    assert [v["id"] for v in violations if v["impact"] in ("serious", "critical")] == []


def test_the_plane_is_redrawn_when_the_theme_changes(page: Page) -> None:
    read = "document.querySelector('.plane canvas').toDataURL()"
    light = page.evaluate(read)
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.wait_for_timeout(100)
    assert page.evaluate(read) != light


def test_the_picture_replaces_the_explorer_in_print_and_without_scripts(
    browser: object, page: Page, document: Path
) -> None:
    assert not page.locator(f"{ROOT} > img").is_visible()
    page.emulate_media(media="print")
    assert page.locator(f"{ROOT} > img").is_visible()
    assert not page.locator(f"{ROOT} .ui").is_visible()
    context = browser.new_context(java_script_enabled=False)  # type: ignore[attr-defined]
    plain = context.new_page()
    plain.goto(document.as_uri())
    picture = plain.locator(f"{ROOT} > img")
    assert picture.is_visible()
    assert "latent plane" in (picture.get_attribute("alt") or "")
    assert (picture.bounding_box() or {"width": 0})["width"] > 300
    context.close()


def test_two_explorers_on_one_page_are_independent(browser: object, made: Explorer, tmp_path: Path) -> None:
    path = tmp_path / "two.html"
    path.write_text(
        f'<!doctype html><meta charset="utf-8">{made._repr_mimebundle_()[0]["text/html"] * 2}', encoding="utf-8"
    )
    page = browser.new_page()  # type: ignore[attr-defined]
    page.goto(path.as_uri())
    moved = page.evaluate(
        f"""() => {{
        const [a, b] = [...document.querySelectorAll("{ROOT}")].map((root) => root.explorer);
        a.moveTo([1, 2]);
        return [a.z, b.z];
    }}"""
    )
    assert moved[0] == [1, 2]
    assert moved[1] != [1, 2]
    page.close()
