"""The page in Chromium, from disk: without a server and without a network."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from pages import ARMS, FRAMES, HOSTILE, chromium, experiment, grey, many, summary, write_video
from PIL import Image

from w2sd_video.eval import report
from w2sd_video.eval.evaluate import Scores
from w2sd_video.eval.report import votes
from w2sd_video.eval.results import Summary
from w2sd_video.eval.videos import Video

pytestmark = pytest.mark.slow
ABORTED = "net::ERR_ABORTED"  # by leaving the page, or by a video that has enough
PATIENCE = 120_000  # milliseconds, on a machine that has much else to do
PROMPTS = ["a red circle", "a blue square", "a green triangle moving right", "a yellow dot"]


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, Summary]:
    folder = tmp_path_factory.mktemp("run")
    of = summary(folder, PROMPTS)
    report.write(folder / "report" / "index.html", of, experiment(PROMPTS), gallery=True)
    return folder / "report" / "index.html", of


@pytest.fixture
def page(browser):
    """A page that fails the test where it logs an error, or asks for anything that is not on disk."""
    context = browser.new_context(viewport={"width": 1200, "height": 800}, accept_downloads=True)
    context.set_default_timeout(PATIENCE)
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("requestfailed", lambda request: wrong.append(request.url) if request.failure != ABORTED else None)
    opened.on("request", lambda request: wrong.append(request.url) if not request.url.startswith(LOCAL) else None)
    yield opened
    context.close()
    assert not wrong


LOCAL = ("file:", "data:", "blob:")


def shade(page: Any, selector: str) -> float:
    """The grey in the middle of an element, as it is seen."""
    picture = Image.open(io.BytesIO(page.locator(selector).first.screenshot())).convert("L")
    return float(np.asarray(picture)[picture.height // 3 : -picture.height // 3].mean())


def order(page: Any) -> list[str]:
    return page.locator("article.row .prompt").all_text_contents()


def test_it_opens_from_disk_and_draws_without_an_error(run, page):
    page.goto(run[0].as_uri())
    assert page.locator("article.row").count() == 4 and page.locator("article.row figure").count() == 12
    for kind in ("bars", "motion", "evaluations", "radar"):
        for plot in page.locator(f"[data-plot={kind}]").all():
            plot.scroll_into_view_if_needed()
            plot.locator("svg.main-svg").first.wait_for()
    assert page.evaluate("[...document.querySelectorAll('video')].length") == 0  # none before one is played
    named = page.evaluate(
        "[...document.querySelectorAll('button, input, select')].filter(each =>"
        " !(each.getAttribute('aria-label') || each.innerText || each.closest('label'))).length"
    )
    assert named == 0


def test_a_frame_is_the_frame_of_that_number_in_every_arm(run, page):
    page.goto(run[0].as_uri())
    page.locator("article.row").first.locator("button", has_text="Play").click()
    page.wait_for_function("w2sd.player.playing && w2sd.player.time > 0.3")
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Home")
    for frame in (0, 1, 2, 7):
        page.evaluate(f"w2sd.player.go({frame})")
        page.wait_for_function(
            "[...document.querySelectorAll('video')].every(each => !each.seeking && each.readyState > 1)"
        )
        for group in range(3):
            video = f"article.active [data-group='{group}'] video"
            for _ in range(100):  # a frame that is there may be drawn later
                if abs(shade(page, video) - grey(frame)) <= 3:
                    break
                page.wait_for_timeout(100)
            assert shade(page, video) == pytest.approx(grey(frame), abs=3)
    page.keyboard.press(".")
    page.keyboard.press("ArrowRight")
    page.keyboard.press(",")
    assert page.evaluate("w2sd.player.frame") == 8 and page.locator("output").inner_text() == f"9 / {FRAMES}"


def test_arms_play_in_step_for_ten_seconds_whatever_their_rates(browser, page, tmp_path):
    of = Scores([], [])
    for arm, fps in (("a", 8), ("b", 12), ("c", 24)):
        write_video(tmp_path / f"{arm}.mp4", frames=24, fps=fps, shade=fps)
        of.videos.append(Video(tmp_path / f"{arm}.mp4", arm, "p, seed 0", "p"))
    report.write(tmp_path / "index.html", Summary(of), gallery=True)
    page.goto((tmp_path / "index.html").as_uri())
    page.locator("button", has_text="Play").click()
    page.wait_for_function("w2sd.player.playing && w2sd.player.time > 0.2")
    page.evaluate("""() => {
        window.offs = [];
        const look = () => {
            const p = w2sd.player;
            if (p.time > 0.3 && p.time < 0.9) for (const {node, cell} of p.items) if (!node.seeking)
                offs.push(Math.abs(node.currentTime - p.time) * cell.fps);
            requestAnimationFrame(look);
        };
        look();
    }""")
    page.wait_for_timeout(10_000)
    offs = np.array(page.evaluate("offs"))
    assert len(offs) > 50 and np.quantile(offs, 0.98) <= 1, (len(offs), offs.max(), np.median(offs))


def test_filters_and_orders(run, page):
    page.goto(run[0].as_uri())
    assert order(page) == PROMPTS
    page.fill("[data-state=q]", "RED circle")
    page.wait_for_function("document.querySelectorAll('article.row').length == 1")
    assert order(page) == PROMPTS[:1] and "1 of 4 prompts" in page.locator(".count").inner_text()
    page.fill("[data-state=q]", "")
    page.wait_for_function("document.querySelectorAll('article.row').length == 4")
    page.select_option("[data-state=tag]", "camera=static")
    assert (page.wait_for_timeout(50), order(page))[1] == PROMPTS[1::2]
    page.select_option("[data-state=tag]", "")
    page.select_option("[data-state=arm]", label="weak")  # of prompt i, strong has i and weak -i
    for by, expected in (
        ("best", [0, 1, 2, 3]),
        ("worst", [3, 2, 1, 0]),
        ("loss", [3, 2, 1, 0]),
        ("spread", [3, 2, 1, 0]),
    ):
        page.select_option("[data-state=order]", by)
        page.wait_for_timeout(50)
        assert order(page) == [PROMPTS[i] for i in expected], by
    page.select_option("[data-state=outcome]", "loss")
    page.wait_for_timeout(50)
    assert set(order(page)) == set(PROMPTS[1:])
    page.select_option("[data-state=arm]", label="w2sd")
    page.wait_for_timeout(50)
    assert order(page) == []


def test_a_link_restores_filters_prompt_frame_and_view(run, page):
    page.goto(run[0].as_uri())
    page.select_option("[data-state=order]", "spread")
    page.wait_for_timeout(50)
    page.locator("article.row").nth(1).locator("button", has_text="Compare").click()
    page.locator("dialog.stage video").first.wait_for()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("w")
    page.locator("dialog.stage .line").wait_for()
    page.evaluate("w2sd.player.go(5)")
    link = page.url
    other = page.context.new_page()
    other.goto(link)
    other.locator("dialog.stage .line").wait_for()
    other.wait_for_function("w2sd.player.frame == 5")
    assert other.locator("dialog.stage .prompt").inner_text() == PROMPTS[2] and order(other) == PROMPTS[::-1]
    assert other.locator("[data-state=order]").input_value() == "spread"
    other.keyboard.press("Escape")
    other.wait_for_function("!document.querySelector('dialog.stage').open")
    assert other.evaluate("w2sd.player.frame") == 5 and other.locator("article.active video").count() == 3
    other.close()


def test_a_link_shows_the_same_arms_in_a_page_that_was_made_again_with_more(run, page, tmp_path):
    page.goto(run[0].as_uri())
    page.select_option("[data-state=order]", "gain")
    page.wait_for_timeout(50)
    page.locator("article.row", has_text=PROMPTS[1]).locator("button", has_text="Compare").click()
    page.select_option("dialog.stage [data-arm=b]", label="w2sd")
    page.wait_for_function("location.hash.includes('w2sd')")
    link = page.url.partition("#")[2]
    arms = ("another", "w2sd", "strong")
    report.write(tmp_path / "index.html", summary(tmp_path, PROMPTS, arms), experiment(PROMPTS, arms), gallery=True)
    page.goto(f"{(tmp_path / 'index.html').as_uri()}#{link}")
    names = "dialog.stage figcaption .name"
    page.locator(names).nth(1).wait_for()
    assert page.locator(names).all_inner_texts() == ["strong", "w2sd"]
    assert page.locator("dialog.stage .prompt").inner_text() == PROMPTS[1]
    page.keyboard.press("Escape")
    # "weak", of which the order was, is no longer there.
    assert page.evaluate("document.querySelector('[data-state=arm]').selectedOptions[0].text") != "weak"
    page.goto(f"{(tmp_path / 'index.html').as_uri()}#{link.replace('b=w2sd', 'b=weak')}")
    page.wait_for_function("!location.hash.includes('weak')")  # which the page has written anew, without the stage
    for _ in range(2):
        page.locator("article.active").wait_for()
        assert not page.evaluate("document.querySelector('dialog.stage').open")
        page.reload()


def test_a_video_that_is_opened_large_has_its_facts(run, page):
    page.goto(run[0].as_uri())
    page.locator("article.row").nth(1).locator("figure button").last.click()
    facts = page.locator("dialog.stage .facts").inner_text()
    assert "p1-0.mp4" in facts and run[1].groups["w2sd"][1].sha256 in facts and "24, 8 a second, 48 × 32" in facts
    page.keyboard.press("c")
    assert page.locator("dialog.stage .strip img").count() == 3
    page.keyboard.press("Escape")


def test_the_keyboard_alone_reaches_flicker_and_goes_on_to_the_next_prompt(run, browser):
    context = browser.new_context(reduced_motion="reduce")  # so that nothing flickers by itself
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(run[0].as_uri())
    page.locator(".filters [data-state=outcome]").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText") == "Compare"
    page.keyboard.press("Enter")
    page.locator("dialog.stage [data-mode=flicker]").focus()
    page.keyboard.press("f")
    second = "document.querySelectorAll('dialog.stage .over .screen > div')[1].classList.contains('hide')"
    before = page.evaluate(second)
    page.wait_for_timeout(700)
    assert page.evaluate(second) == before
    page.keyboard.press("f")
    assert page.evaluate(second) != before
    page.keyboard.press("j")
    assert page.locator("dialog.stage .prompt").inner_text() == PROMPTS[1]
    page.keyboard.press("Escape")
    page.wait_for_function("!document.querySelector('dialog.stage').open")
    assert page.locator("article.active .prompt").text_content() == PROMPTS[1]
    context.close()


def test_votes_by_keys_are_kept_and_saved_as_a_file_that_is_read_back(run, page, tmp_path):
    page.goto(run[0].as_uri())
    page.locator("[data-do=vote]").click()
    shown = page.locator("dialog.ballot").inner_text()
    assert not any(arm in shown for arm in ARMS) and "0 of 12 pairs" in shown
    for n, key in enumerate(["ArrowLeft", "ArrowRight", "ArrowDown", "s", "ArrowLeft"], 1):
        page.keyboard.press(key)
        page.locator("dialog.ballot [role=status]", has_text=f"{n} of 12").wait_for()
    page.keyboard.press("Backspace")
    page.locator("dialog.ballot [role=status]", has_text="4 of 12").wait_for()
    page.reload()  # the browser keeps them
    page.keyboard.press("v")
    page.locator("dialog.ballot [role=status]", has_text="4 of 12").wait_for()
    with page.expect_download() as download:
        page.locator("[data-do=save]").click()
    download.value.save_as(tmp_path / "votes.json")
    data = json.loads((tmp_path / "votes.json").read_text())
    assert data["count"] == 4 and [each["choice"] for each in data["votes"]] == ["left", "right", "tie", "skip"]
    cast = votes.read([tmp_path / "votes.json"], run[1])
    assert [vote.share for vote in cast] == [1.0, 0.0, 0.5]
    assert len({(each["left"]["arm"], each["right"]["arm"], each["prompt"]) for each in data["votes"]}) == 4
    for name, count in (("ann", 4), ("bob", 0), ("ann", 4)):  # who has no name yet keeps the votes; bob has none
        page.locator("dialog.ballot input[type=text]").fill(name)
        page.keyboard.press("Tab")
        page.locator("dialog.ballot [role=status]", has_text=f"{count} of 12").wait_for()


def test_hostile_prompts_are_shown_as_text(browser, page, tmp_path):
    of = summary(tmp_path, HOSTILE, arms=("</td>", "<b>w2sd"))
    report.write(tmp_path / "r.html", of, experiment(HOSTILE, ("</td>", "<b>w2sd")), gallery=True)
    page.goto((tmp_path / "r.html").as_uri())
    assert page.title() == "A run"
    shown = page.evaluate("[...document.querySelectorAll('article.row .prompt')].map(each => each.textContent)")
    assert shown == HOSTILE
    page.locator("#plots").scroll_into_view_if_needed()
    page.locator("svg.main-svg").first.wait_for()
    page.locator("article.row").first.locator("button", has_text="Compare").click()
    assert page.locator("dialog.stage .prompt").inner_text() == HOSTILE[0] and page.title() == "A run"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_down_and_not_sideways(run, browser, scheme):
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(run[0].as_uri())
    page.locator("#plots").scroll_into_view_if_needed()
    page.locator("svg.main-svg").first.wait_for()
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wide) == 0
    page.locator("article.row").first.locator("button", has_text="Compare").click()
    dialog = page.locator("dialog.stage")
    assert dialog.evaluate("each => each.scrollWidth <= each.clientWidth") and page.evaluate(wide) == 0
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(252, 251, 249)", "dark": "rgb(19, 19, 20)"}[scheme]
    context.close()


def processor_time() -> float:
    """Seconds of the processor that the browser's processes have taken."""
    browsers = [each for each in psutil.Process().children(recursive=True) if "chrom" in each.name()]
    return sum(sum(each.cpu_times()[:2]) for each in browsers)


def test_a_page_of_a_thousand_videos_opens_in_two_seconds(browser, page, tmp_path):
    """Of the processor, all of the browser's processes together, so that other programs change nothing."""
    path = many(tmp_path, 334)
    took = []
    for _ in range(3):
        page.goto("about:blank")
        began = processor_time()
        page.goto(path.as_uri())
        page.locator("article.row").nth(5).wait_for()
        took.append(processor_time() - began)
    assert min(took) < 2, took
    assert "1002 videos" in str(page.locator(".count").text_content())
    assert page.locator("article.row").count() < 100 and page.locator("video").count() == 0
    page.evaluate("scrollTo(0, document.body.scrollHeight)")  # which makes more
    page.wait_for_function("document.querySelectorAll('article.row').length > 24")
