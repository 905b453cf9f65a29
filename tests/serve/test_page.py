"""The page of the server in a real browser, Debian's chromium, with a small random model."""

import base64
import io
import json
import shutil

import pytest
from PIL import Image

from prefixvlm.data.image import decode_image
from prefixvlm.data.sources.feedback import read_corrections
from prefixvlm.inference.captioner import Captioner
from prefixvlm.serve.images import bytes_of
from tests.inference.test_predictor import write_checkpoint
from tests.serve.serving import serving

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is missing; pip install -e '.[dev]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is missing; install it with apt-get install chromium"
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
QUESTION = "what is it?"
# A file that a user drops or pastes, as the event of the browser has it.
TRANSFER = """([type, name, data]) => {
  const transfer = new DataTransfer();
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  transfer.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
  const options = { bubbles: true, cancelable: true };
  document.body.dispatchEvent(type === "ClipboardEvent"
    ? new ClipboardEvent(name, { ...options, clipboardData: transfer })
    : new DragEvent(name, { ...options, dataTransfer: transfer }));
}"""


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def corrections(tmp_path_factory):
    return tmp_path_factory.mktemp("page") / "corrections"


@pytest.fixture(scope="module")
def server(model, corrections):
    with serving(model, feedback=corrections) as (url, _):
        yield url


@pytest.fixture
def opened(browser):
    """Return a function that opens a URL. In the end nothing was wrong, and nothing was asked of other servers."""
    contexts, wrong = [], []

    def open_(url, **options):
        context = browser.new_context(**{"viewport": {"width": 1100, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda each: wrong.append(each.url) if not each.url.startswith((url, "data:")) else None)
        page.on("request", lambda each: page.asked.append(each) if each.method == "POST" else None)
        page.asked, page.choosers = [], []
        page.on("filechooser", lambda chooser: page.choosers.append(chooser))
        page.goto(url)
        page.wait_for_selector("#question[placeholder]", state="attached")  # the tasks of the server are known
        return page

    yield open_
    for context in contexts:
        context.close()
    # The browser itself reports each answer with a code of an error, which the tests of errors ask for.
    assert [each for each in wrong if "Failed to load resource" not in each] == []


@pytest.fixture
def page(opened, server):
    return opened(server)


def ask(page, path, question=""):
    page.set_input_files("#file", path)
    page.wait_for_selector("#picture")
    page.fill("#question", question)
    page.click("#submit")
    done(page)


def done(page):
    page.wait_for_selector(".likeliest")
    page.wait_for_selector("#submit")


def texts(page):
    """Return the text of each card, without the spaces around it."""
    return [text.strip() for text in page.locator(".card .text").all_text_contents()]


def sent(request):
    return json.loads(request.post_data)


def test_the_caption_of_a_chosen_image_comes_token_by_token(page, model, paths):
    page.evaluate("""() => {
      window.seen = new Set();
      const look = () => seen.add(document.querySelector(".card .text")?.textContent.trim() ?? "");
      new MutationObserver(look).observe(document.getElementById("results"), {subtree: true, childList: true});
    }""")
    ask(page, paths[0])
    caption = model.caption(paths[0])
    assert texts(page) == [caption]
    seen = sorted(page.evaluate("[...seen]"), key=len)
    assert len(seen) >= 3
    assert all(caption.startswith(text) for text in seen)
    assert page.locator(".likeliest h3").text_content() == "Likeliest texts"
    assert page.locator("#status").text_content() == caption  # for screen readers
    first = page.locator(".token").first
    probability = first.get_attribute("title")
    assert probability.endswith(" %")
    assert first.get_attribute("aria-label").endswith(f", {probability}")
    assert bytes_of(sent(page.asked[0])["image"]) == paths[0].read_bytes()  # a small image is sent as it is


def test_several_decodings_of_an_answer_stand_side_by_side(page, model, paths):
    page.click("summary")
    page.check("#beam")
    page.fill("#beams", "2")
    page.check("#nucleus")
    page.fill("#samples", "2")
    page.fill("#temperature", "2")
    page.fill("#seed", "7")
    ask(page, paths[1], QUESTION)
    titles = page.locator(".card h3").all_text_contents()
    assert titles == ["greedy", "beam search, 2 beams", "sample, seed 7", "sample, seed 8"]
    options = [{}, {"method": "beam", "num_beams": 2}] + [
        {"method": "nucleus", "top_p": 0.9, "temperature": 2.0, "seed": seed} for seed in (7, 8)
    ]
    assert texts(page) == [model.answer(paths[1], QUESTION, **each).strip() for each in options]
    left = [page.locator(".card").nth(number).bounding_box()["x"] for number in (0, 1)]
    assert left[0] < left[1]


def test_choices_are_ranked_as_bars(page, model, paths):
    page.click("summary")
    page.fill("#choices", "yes\nno\n\n perhaps ")
    ask(page, paths[0], QUESTION)
    assert page.locator(".likeliest h3").text_content() == "Likeliest answers"
    ranked = model.rank(paths[0], ["yes", "no", "perhaps"], QUESTION)
    assert page.locator(".likeliest .name").all_text_contents() == [text for text, _ in ranked]
    shares = page.locator(".likeliest .bar").evaluate_all(
        "bars => bars.map(bar => bar.style.getPropertyValue('--share'))"
    )
    assert [float(share) for share in shares] == sorted(map(float, shares), reverse=True)
    assert all(text.endswith(" %") for text in page.locator(".likeliest .share").all_text_contents())


def test_the_heat_map_of_a_token_lies_over_the_image(page, paths):
    ask(page, paths[0])
    tokens = page.locator(".token")
    tokens.nth(0).click()
    page.wait_for_selector("#map")
    first = page.locator("#map").evaluate("canvas => canvas.toDataURL()")
    assert "Heat map of" in page.locator("#map").get_attribute("aria-label")
    answer = json.loads(page.asked[-1].response().text())
    assert page.locator("#preview").get_attribute("src") == answer["picture"]["url"]
    assert (answer["picture"]["width"], answer["picture"]["height"]) == (64, 64)  # cropped, from 70 x 50
    size = page.locator("#map").evaluate("canvas => [canvas.height, canvas.width]")
    assert size == [len(answer["maps"][0]), len(answer["maps"][0][0])]
    page.keyboard.press("ArrowRight")
    while page.locator("#map").evaluate("canvas => canvas.toDataURL()") == first:
        page.wait_for_timeout(20)
    assert tokens.nth(1).get_attribute("aria-selected") == "true"
    assert sum(each.url.endswith("/v1/heat_map") for each in page.asked) == 1  # all tokens at once
    page.keyboard.press("Escape")
    page.wait_for_selector("#map", state="hidden")
    assert page.locator("#preview").get_attribute("src").startswith("data:image/png")
    assert bytes_of(page.locator("#preview").get_attribute("src")) == paths[0].read_bytes()


def test_a_correction_is_recorded(page, model, corrections, paths):
    ask(page, paths[2], QUESTION)
    page.get_by_text("No", exact=True).click()
    page.locator(".correction input").fill("a blue wall")
    page.keyboard.press("Enter")
    page.get_by_text("Noted: “a blue wall”").wait_for()
    ask(page, paths[3])
    page.get_by_text("Yes", exact=True).click()
    page.get_by_text("Noted as right").wait_for()
    wrong, right = read_corrections(corrections)[0][-2:]
    said = model.answer(paths[2], QUESTION)
    assert (wrong.question, wrong.prediction, wrong.correction) == (QUESTION, said.strip(), "a blue wall")
    assert (corrections / wrong.image).read_bytes() == paths[2].read_bytes()
    assert (right.question, right.correction) == ("", right.prediction)


def test_the_keyboard_is_enough(page, model, paths):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "choose"
    page.keyboard.press("Enter")
    while not page.choosers:
        page.wait_for_timeout(20)
    page.choosers[0].set_files(paths[1])
    page.wait_for_selector("#picture")
    assert page.evaluate("document.activeElement.id") == "question"
    page.keyboard.type(QUESTION)
    page.keyboard.press("Enter")
    done(page)
    assert texts(page) == [model.answer(paths[1], QUESTION).strip()]
    for _ in range(9):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.role") == "option":
            break
    page.keyboard.press("End")
    assert page.locator(".token").last.get_attribute("aria-selected") == "true"


@pytest.mark.parametrize("event", [("DragEvent", "drop"), ("ClipboardEvent", "paste")])
def test_an_image_is_dropped_or_pasted(page, paths, event):
    page.evaluate(TRANSFER, [*event, base64.b64encode(paths[0].read_bytes()).decode()])
    page.wait_for_selector("#picture")
    assert page.locator("#about").text_content() == "dropped.png"
    page.click("#submit")
    done(page)
    assert bytes_of(sent(page.asked[0])["image"]) == paths[0].read_bytes()


def test_a_large_photograph_is_made_smaller_and_upright(page, tmp_path):
    photo, exif = Image.new("RGB", (3000, 2000), "white"), Image.Exif()
    photo.paste("red", (0, 0, 300, 2000))  # on the left; at the top once it is turned
    exif[0x0112] = 6
    photo.save(tmp_path / "photo.jpg", exif=exif)
    ask(page, tmp_path / "photo.jpg")
    data = bytes_of(sent(page.asked[0])["image"])
    image = decode_image(data)
    assert image.size == (683, 1024)
    assert Image.open(io.BytesIO(data)).format == "JPEG"
    red, white = image.getpixel((340, 30)), image.getpixel((340, 900))
    assert red[0] > 200 > 60 > red[1]
    assert min(white) > 240


def test_stop_ends_an_answer(page, paths):
    page.route("**/v1/caption", lambda route: None)  # never answered
    page.set_input_files("#file", paths[0])
    page.wait_for_selector("#picture")
    page.click("#submit")
    page.click("#stop")
    page.wait_for_selector("#submit")
    sync_api.expect(page.locator("#status")).to_have_text("Stopped.")
    assert page.locator("#error").is_hidden()
    page.unroute("**/v1/caption")
    page.click("#submit")
    done(page)


def test_errors_are_one_sentence(page, paths, tmp_path):
    page.click("#submit")
    assert page.locator("#error").text_content() == "Choose an image first."
    (tmp_path / "notes.png").write_text("no image")
    page.set_input_files("#file", tmp_path / "notes.png")
    page.get_by_text("This browser cannot read notes.png as an image; give a PNG, JPEG or WebP.").wait_for()
    page.set_input_files("#file", paths[0])
    page.fill("#question", "why? " * 300)
    page.click("#submit")
    page.wait_for_selector("#error:not([hidden])")
    assert page.locator("#error").text_content().endswith(".")
    page.route("**/v1/caption", lambda route: route.abort())
    page.fill("#question", "")
    page.click("#submit")
    page.get_by_text("The server cannot be reached; is it still running?").wait_for()


def test_the_session_is_listed_and_opened_again(page, model, paths):
    ask(page, paths[0])
    ask(page, paths[1], QUESTION)
    turns = page.locator("#turns button")
    assert turns.locator(".asked").all_text_contents() == [QUESTION, "Caption"]
    turns.last.click()
    assert texts(page) == [model.caption(paths[0])]
    assert page.locator("#question").input_value() == ""
    assert page.locator("#preview").get_attribute("alt") == paths[0].name


def test_a_key_is_asked_for_and_kept_for_the_session(opened, model, paths):
    with serving(model, key="secret") as (url, _):
        page = opened(url)
        page.set_input_files("#file", paths[0])
        page.wait_for_selector("#picture")
        page.click("#submit")
        for key, note in (("wrong", ""), ("secret", "It did not accept the last one.")):
            sync_api.expect(page.locator("#key-note")).to_have_text(note)
            page.wait_for_selector("#key[open]")
            page.fill("#key-value", key)
            page.keyboard.press("Enter")
        done(page)
        assert texts(page) == [model.caption(paths[0])]
        assert page.evaluate("sessionStorage.length") == 1
        assert not page.locator(".correction").count()  # this server collects none


def test_only_tasks_of_the_checkpoint_are_offered(opened, tmp_path, paths):
    write_checkpoint(tmp_path, ["captioning"])
    with serving(Captioner(tmp_path / "x.ckpt")) as (url, _):
        page = opened(url)
        assert page.locator("#question").is_hidden()
        page.set_input_files("#file", paths[0])
        page.wait_for_selector("#picture")
        page.click("#submit")
        done(page)


def test_narrow_dark_and_without_motion(opened, server, paths):
    narrow = {"width": 360, "height": 700}
    page = opened(server, viewport=narrow, color_scheme="dark", reduced_motion="reduce")
    page.click("summary")
    ask(page, paths[0], "what is it? " * 4)
    page.get_by_text("No", exact=True).click()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    colours = page.evaluate("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
    background, ink = [[int(part) for part in colour[4:-1].split(",")] for colour in colours]
    assert max(background) < 60
    assert min(ink) > 200
    page.evaluate("document.querySelector('.card p').className = 'text coming'")
    assert page.evaluate("getComputedStyle(document.querySelector('.coming'), '::after').animationName") == "none"
