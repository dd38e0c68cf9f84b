"""The page works from disk: no error, no network, no markup out of a model's mouth."""

import json
import re
import shutil

import pytest

from sdtt.report.evaluation import write_report
from sdtt.report.page import inline_svg

BROWSERS = "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"


# ---------------------------------------------------------------- as text


def test_a_sample_that_would_end_the_script_does_not(made, reported):
    page = (reported / "report.html").read_text("utf-8")
    data = re.search(r'<script type="application/json" id="draws">(.*?)</script>', page, re.DOTALL)
    draws = json.loads(data[1])
    assert draws[0]["samples"][0]["tokens"][0] == made.harm
    assert page.count("<script") == 2
    assert "<b>" not in page


def test_a_model_is_named_in_the_page_as_text(made, tmp_path):
    made.write(tmp_path, [made.perplexity(made.harm, draw=made.draw_of(steps=s)) for s in (4, 8)])
    page = write_report([tmp_path], tmp_path, title=made.harm).read_text("utf-8")
    assert page.count("<script") == 2
    assert "&lt;/script&gt;&lt;script&gt;" in page


def test_the_page_refers_to_no_other_host(reported):
    page = (reported / "report.html").read_text("utf-8")
    assert not re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?(?:https?:)?//", page)
    assert "default-src 'none'" in page


def test_figures_take_the_pages_colours_and_share_no_id():
    drawn = '<g id="a" style="fill: #111111"/><use href="#a"/><p clip-path="url(#a)"/>'
    svg = f"<?xml?><svg>{drawn}</svg>"
    inline = inline_svg(svg, "one", 'a "title"')
    assert 'id="one-a"' in inline
    assert 'href="#one-a"' in inline
    assert "url(#one-a)" in inline
    assert "fill: var(--ink)" in inline
    assert 'aria-label="a &quot;title&quot;"' in inline


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium of the system."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser is installed: none of {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, reported):
    """The page of all records, with one sample that would do harm; its errors are collected."""
    page = browser.new_page(color_scheme="light")
    page.errors = []
    page.on("console", lambda message: page.errors.append(message.text))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("request", lambda request: page.errors.append(request.url))
    page.address = (reported / "report.html").as_uri()
    page.goto(page.address)
    yield page
    page.close()


def test_the_page_opens_without_an_error_or_another_request(opened):
    assert opened.errors == [opened.address]
    assert opened.title() != "harmed"
    assert opened.locator("figure svg").count() == 7


def set_slider(pane, value):
    slider = pane.locator("input")
    slider.evaluate("(e, v) => { e.value = v; e.dispatchEvent(new Event('input')) }", str(value))


def test_the_slider_replays_which_step_revealed_which_token(opened, made):
    pane = opened.locator(".pane").first
    masked, text = pane.locator(".mask"), pane.locator(".text")
    assert masked.count() == 0  # the whole text at first
    assert text.text_content() == made.harm + " a b c"
    # revealed in the steps 1, 0, 3, 1, counted from 0
    for step, hidden in ((0, 4), (1, 3), (2, 1), (3, 1), (4, 0)):
        set_slider(pane, step)
        assert masked.count() == hidden
    set_slider(pane, 2)
    assert pane.locator(".new").all_text_contents() == [made.harm, " c"]
    assert pane.locator("output").text_content() == "Step 2 of 16"


def test_the_arrow_keys_move_the_slider(opened):
    pane = opened.locator(".pane").first
    set_slider(pane, 4)
    pane.locator("input").press("ArrowLeft")
    assert pane.locator(".mask").count() == 1


def test_another_draw_and_sample_can_be_chosen(opened, made):
    pane = opened.locator(".pane").first
    draw, sample = pane.locator("select").all()
    names = draw.locator("option").all_text_contents()
    assert "student, dilated, 4 steps" in names
    draw.select_option(label="student, dilated, 4 steps")
    assert pane.locator("output").text_content() == "Step 4 of 4"
    sample.select_option(label="2 of 2")  # only its text is known
    assert pane.locator("input").is_disabled()
    assert pane.locator(".text").text_content() == made.harm


def test_play_goes_from_masks_to_the_whole_text(opened):
    opened.clock.install(time=0)
    opened.clock.pause_at(1000)  # seconds
    opened.locator("#play").click()
    opened.clock.run_for(100)
    assert opened.locator(".pane").first.locator(".mask").count() == 4
    opened.clock.run_for(10_000)
    assert opened.locator(".mask").count() == 0
    assert opened.locator("#play").text_content() == "Play both"


def column(opened, heading):
    """The main table's heading and a way to read its column."""
    table = opened.locator("table").first
    button = table.locator("th button", has_text=re.compile(f"^{heading}$"))
    place = button.evaluate("b => b.closest('th').cellIndex + 1")
    return button, lambda: table.locator(f"tbody td:nth-child({place})").all_text_contents()


def test_a_click_sorts_numbers_as_numbers_and_missing_values_last(opened):
    button, read = column(opened, "steps")
    heading = button.locator("xpath=..")
    button.click()
    assert read() == ["4", "4", "8", "8", "16", "16", "–", "–"]
    assert heading.get_attribute("aria-sort") == "ascending"
    button.click()
    assert read() == ["16", "16", "8", "8", "4", "4", "–", "–"]
    assert heading.get_attribute("aria-sort") == "descending"


def test_the_keyboard_sorts_text_and_only_one_heading_is_the_order(opened):
    steps, _ = column(opened, "steps")
    steps.click()
    button, read = column(opened, "model")
    button.press("Enter")
    assert read() == ["ar", "real text", *["student"] * 3, *["teacher"] * 3]
    assert steps.locator("xpath=..").get_attribute("aria-sort") == "none"


def test_the_switch_turns_light_to_dark_and_back(opened):
    def paper():
        return opened.evaluate("getComputedStyle(document.body).backgroundColor")

    assert paper() == "rgb(255, 255, 255)"
    opened.locator("#theme").click()
    assert paper() == "rgb(22, 24, 28)"
    assert opened.locator("#theme").get_attribute("aria-pressed") == "true"
    opened.locator("#theme").click()
    assert paper() == "rgb(255, 255, 255)"


def test_a_reader_in_the_dark_gets_a_dark_page_and_figures(opened):
    opened.emulate_media(color_scheme="dark")
    light = "getComputedStyle(document.querySelector('figure svg')).fill"
    assert opened.evaluate(light) == "rgb(232, 232, 234)"
    opened.locator("#theme", has_text="Light").wait_for()


def test_a_narrow_screen_scrolls_tables_not_the_page(opened):
    opened.set_viewport_size({"width": 390, "height": 800})
    assert opened.evaluate("document.documentElement.scrollWidth") == 390
