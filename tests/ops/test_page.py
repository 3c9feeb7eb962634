"""The page, in a real browser: it shows what is, as it changes, and believes no text."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from playwright.async_api import Browser, Locator, Page, async_playwright, expect

from gateway.config.schema import HttpSettings
from gateway.frame import Frame
from gateway.inference.engine import Engine
from gateway.inference.events import AnomalyEvent
from gateway.ops.api import Api
from gateway.ops.event_commands import add_event_commands
from gateway.ops.http import serve
from gateway.settings import Secret
from gateway.tag import TagTable
from tests.ops.fake_view import FakeEvent, FakeView

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=ARGUMENTS
        )
        yield browser
        await browser.close()


@dataclass
class Opened:
    """A page with a gateway behind it, and everything the browser complained of."""

    page: Page
    view: FakeView
    complaints: list[str]


@pytest.fixture
def view() -> FakeView:
    view = FakeView({"pump-1": "pump", "pump-2": "pump", "tank-1": "tank"})
    for _ in range(5):
        view.sample({"pump-1.pressure": 4.125})
    return view


@pytest.fixture
async def opened(view: FakeView, browser: Browser) -> AsyncIterator[Opened]:
    async with serve(view, HttpSettings(listen="127.0.0.1:0")) as (_, port):
        page = await browser.new_page()
        complaints: list[str] = []

        def complain(text: str) -> None:
            # What Chromium says, when it has the time, for the sake of password managers.
            if not text.startswith("[DOM] Password field"):
                complaints.append(text)

        page.on("console", lambda message: complain(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.goto(f"http://127.0.0.1:{port}/")
        await expect(page.locator("#name")).to_have_text("line-1")
        yield Opened(page, view, complaints)
        assert complaints == []
        await page.close()


def row(opened: Opened, asset: str, tag_field: str) -> Locator:
    card = opened.page.locator("article.card").filter(has=opened.page.locator("h4", has_text=asset))
    return card.locator(".row").filter(has=opened.page.locator(f".field:text-is('{tag_field}')"))


async def test_values_appear_with_units_and_change_live(opened: Opened) -> None:
    pressure = row(opened, "pump-1", "pressure")
    await expect(pressure.locator(".value")).to_have_text("4.13bar")
    opened.view.sample({"pump-1.pressure": 7.5})
    await expect(pressure.locator(".value")).to_have_text("7.50bar")
    line = await pressure.locator("path.line").get_attribute("d")
    assert line is not None
    assert line.count("L") == 5  # five stored points and the one that came live
    await expect(opened.page.locator(".group h3 b")).to_have_text(["pump", "tank"])


async def test_bad_quality_shows_its_reason_instead_of_a_value(opened: Opened) -> None:
    opened.view.sample({"pump-2.flow": math.nan})
    flow = row(opened, "pump-2", "flow")
    await expect(flow.locator(".value")).to_have_text("no communication", use_inner_text=True)
    await expect(opened.page.locator("#tags-good")).to_have_text("14")
    await opened.page.get_by_role("button", name="Bad quality").click()
    await expect(opened.page.locator("article.card h4")).to_have_text(["pump-2"])


async def test_an_anomaly_is_seen_on_its_card_in_the_list_and_above(opened: Opened) -> None:
    view = opened.view
    view.score_of["pump-2"] = 1.5
    now_ns = view.clock.utc_ns()
    view.event_list = [
        FakeEvent(
            model="line-anomaly",
            asset="pump-2",
            start_ns=now_ns - 42 * 10**9,
            end_ns=now_ns,
            is_open=True,
            peak=1.75,
            top="vibration,flow",
        )
    ]
    card = opened.page.locator("article.card[data-state=bad]")
    await expect(card.locator("h4")).to_have_text("pump-2")
    await expect(card.locator(".pill")).to_have_text("anomaly")
    await expect(card.locator("output")).to_have_text("1.50")
    assert await card.locator(".fill").evaluate("node => node.style.width") == "75%"
    await expect(card.locator(".row[data-suspect] .field")).to_have_text(["flow", "vibration"])
    await expect(opened.page.locator("#anomalies")).to_have_text("1")
    event = opened.page.locator("#events li")
    await expect(event).to_contain_text("peak 1.75")
    await expect(event).to_contain_text("for 42 s")
    await event.click()
    await expect(opened.page.locator("article.card h4")).to_have_text(["pump-2"])
    view.event_list = []
    view.score_of["pump-2"] = math.nan
    await expect(opened.page.locator("article.card .pill")).to_have_text("unknown")
    await expect(opened.page.locator("#events")).to_have_text("No anomaly so far.")


def an_event(view: FakeView) -> FakeEvent:
    now_ns = view.clock.utc_ns()
    return FakeEvent(
        model="health", asset="pump-2", start_ns=now_ns - 9 * 10**9, end_ns=now_ns,
        is_open=True, peak=1.75, top="vibration",
    )  # fmt: skip


async def test_an_operator_answers_an_event_with_the_token(
    view: FakeView, browser: Browser, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TOKEN_OF_TEST", "a-token-of-sixteen-signs")
    engine = Engine([], TagTable(), tmp_path, directory=tmp_path)
    event = an_event(view)
    engine.recent_events.append(
        AnomalyEvent(
            model=event.model, asset=event.asset, start_ns=event.start_ns, end_ns=event.end_ns,
            is_open=True, peak=event.peak, score_last=1.5, top=event.top,
        )
    )  # fmt: skip
    api = Api(Secret("env:TOKEN_OF_TEST"), view.clock)
    add_event_commands(api, engine)
    view.event_list = [event]
    async with serve(view, HttpSettings(listen="127.0.0.1:0"), api) as (_, port):
        page = await browser.new_page()
        await page.goto(f"http://127.0.0.1:{port}/")
        await page.locator("#events .answer").click()
        dialog = page.locator("dialog.operate")
        note, token = dialog.locator(".note"), dialog.get_by_label("The gateway's token")
        await dialog.get_by_role("button", name="It was normal").click()
        await expect(note).to_have_text("Give the gateway's token first.")
        await token.fill("wrong")
        await dialog.get_by_role("button", name="It was normal").click()
        await expect(note).to_have_text("That is not the gateway's token.")
        await token.fill("a-token-of-sixteen-signs")
        await dialog.get_by_label("In your words").fill("cleaning")
        await dialog.get_by_role("button", name="It was normal").click()
        await expect(note).to_have_text("It was normal: done.")
        await expect(token).to_be_hidden()
        await dialog.get_by_role("button", name="Snooze").click()
        await expect(note).to_contain_text("Snooze for 8 hours: done.")
        await page.close()
    said = engine.notes.of_event(event.model, event.asset, event.start_ns)
    assert said is not None
    assert (said.verdict, said.words) == ("normal", "cleaning")
    assert engine.notes.state_of(event.model, event.asset, view.clock.utc_ns()) == "snoozed"


async def test_without_a_token_the_page_says_where_to_answer(opened: Opened) -> None:
    opened.view.event_list = [an_event(opened.view)]
    await opened.page.locator("#events .answer").click()
    dialog = opened.page.locator("dialog.operate")
    await expect(dialog).to_contain_text("sluicegate events")
    await expect(dialog.locator(".actions button")).to_have_count(0)


async def test_troubles_are_named(opened: Opened) -> None:
    view = opened.view
    await expect(opened.page.locator("#status")).to_have_text("running")
    view.sources[0].stats.connected = False
    view.sources[0].stats.error_last = "connection refused"
    view.sinks[0].stats.state = "parked"
    view.sinks[0].stats.error_last = "401 Unauthorized"
    await expect(opened.page.locator("#status")).to_have_text("needs a look")
    await expect(opened.page.locator("#sources")).to_contain_text("connection refused")
    await expect(opened.page.locator("#sinks")).to_contain_text("401 Unauthorized")
    view.trouble = "no space left"
    await expect(opened.page.locator("#status")).to_have_text("not working")
    await expect(opened.page.locator("#reasons")).to_contain_text("spool: no space left")


async def test_new_tags_appear_without_a_reload(opened: Opened) -> None:
    opened.view.add_tag("valve-1", "valve", "position", "%", 50.0, 0.0)
    opened.view.sample()
    await expect(row(opened, "valve-1", "position").locator(".value")).to_have_text("50%")


async def test_hostile_names_are_inert(opened: Opened) -> None:
    view = opened.view
    view.add_tag(HOSTILE, HOSTILE, HOSTILE, HOSTILE, 1.0, 0.0)
    view.assets[HOSTILE] = "pump"
    view.score_of[HOSTILE] = 2.0
    view.models[HOSTILE] = view.models["line-anomaly"]
    view.sources[0].name = HOSTILE
    view.sources[0].stats.connected = False
    view.sources[0].stats.error_last = HOSTILE
    view.sinks[0].name = HOSTILE
    view.event_list = [
        FakeEvent(
            model=HOSTILE, asset=HOSTILE, start_ns=1, end_ns=2, is_open=True, peak=2.0, top=HOSTILE
        )
    ]
    view.sample()
    page = opened.page
    await expect(page.locator("article.card h4", has_text=HOSTILE)).to_be_visible()
    await expect(page.locator("#events")).to_contain_text(HOSTILE)
    await expect(page.locator("#sources")).to_contain_text(HOSTILE)
    assert await page.evaluate("window.hacked") is None
    assert await page.locator("img, body script").count() == 0


async def test_the_policy_would_stop_a_script_that_got_in(view: FakeView, browser: Browser) -> None:
    async with serve(view, HttpSettings(listen="127.0.0.1:0")) as (_, port):
        page = await browser.new_page()
        await page.goto(f"http://127.0.0.1:{port}/")
        await expect(page.locator("#name")).to_have_text("line-1")
        await page.evaluate(
            "document.body.insertAdjacentHTML('beforeend',"
            " '<img src=x onerror=\"window.hacked=1\">');"
            "document.body.append(Object.assign(document.createElement('script'),"
            " {textContent: 'window.hacked=2'}))"
        )
        await asyncio.sleep(0.2)  # the picture's error comes when it comes
        assert await page.evaluate("window.hacked") is None
        await page.close()


async def test_a_filter_narrows_by_name_and_class(opened: Opened) -> None:
    names = opened.page.locator("article.card h4")
    await opened.page.fill("#filter", "pump 2")
    await expect(names).to_have_text(["pump-2"])
    await opened.page.fill("#filter", "TANK")
    await expect(names).to_have_text(["tank-1"])
    await opened.page.fill("#filter", "nothing")
    await expect(opened.page.locator("#more")).to_have_text("No asset is like that now.")


async def test_many_assets_are_shown_on_demand(browser: Browser) -> None:
    view = FakeView({f"pump-{number}": "pump" for number in range(64)})
    view.sample()
    async with serve(view, HttpSettings(listen="127.0.0.1:0")) as (_, port):
        page = await browser.new_page()
        await page.goto(f"http://127.0.0.1:{port}/")
        await expect(page.locator("article.card")).to_have_count(48)
        await page.get_by_role("button", name="Show all 64 assets").click()
        await expect(page.locator("article.card")).to_have_count(64)
        await page.close()


async def test_it_says_when_the_gateway_is_gone_and_comes_back_with_it(
    view: FakeView, browser: Browser
) -> None:
    page = await browser.new_page()
    async with serve(view, HttpSettings(listen="127.0.0.1:0")) as (_, port):
        await page.goto(f"http://127.0.0.1:{port}/")
        await expect(page.locator("#status")).to_have_text("running")
    await expect(page.locator("#status")).to_have_text("disconnected")
    await expect(page.locator("#reasons")).to_contain_text("does not answer")
    assert await page.evaluate("document.body.classList.contains('stale')")
    async with serve(view, HttpSettings(listen=f"127.0.0.1:{port}")):
        await expect(page.locator("#status")).to_have_text("running", timeout=10_000)
        await expect(page.locator("#reasons")).to_be_hidden()
        assert not await page.evaluate("document.body.classList.contains('stale')")
    await page.close()


@pytest.mark.parametrize("scheme", ["dark", "light"])
async def test_text_has_contrast_in_both_schemes(
    view: FakeView, browser: Browser, scheme: str
) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1 for text; all of these are smaller than "large"."""
    async with serve(view, HttpSettings(listen="127.0.0.1:0")) as (_, port):
        page = await browser.new_page(color_scheme=scheme)  # type: ignore[arg-type] - a literal
        await page.goto(f"http://127.0.0.1:{port}/")
        await expect(page.locator("#name")).to_have_text("line-1")
        ratios = await page.evaluate(
            """() => {
              const light = (color) => {
                const [r, g, b] = color.match(/[\\d.]+/g).map((part) => part / 255)
                  .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
              };
              const style = (name) => getComputedStyle(document.documentElement)
                .getPropertyValue(name);
              const resolve = (value) => {
                const probe = document.body.appendChild(document.createElement("i"));
                probe.style.color = value;
                const found = getComputedStyle(probe).color;
                probe.remove();
                return light(found);
              };
              const ground = resolve(style("--surface"));
              return ["--text", "--muted", "--good", "--warn", "--bad"].map((name) => {
                const [low, high] = [resolve(style(name)), ground].sort((a, b) => a - b);
                return (high + 0.05) / (low + 0.05);
              });
            }"""
        )
        assert min(ratios) >= 4.5, ratios
        await page.close()


async def test_a_click_on_a_signal_shows_its_stored_past(opened: Opened) -> None:
    now_ns, view = opened.view.clock.utc_ns(), opened.view
    t_ns = now_ns - np.arange(3000, 0, -1) * 10**9
    values = np.where(np.arange(3000) == 1234, 99.0, 4.0)
    view.stored = Frame.of(t_ns, np.zeros(3000, np.int32), values)
    await row(opened, "pump-1", "pressure").locator(".spark").click()
    dialog = opened.page.locator("dialog")
    await expect(dialog.locator("h2")).to_have_text("pump-1.pressure")
    await expect(dialog.locator(".note")).to_contain_text("4 to 99 bar, 3,000 samples")
    assert (await dialog.locator("path").get_attribute("d") or "").count("L") > 100
    await dialog.locator("button", has_text="7 days").click()
    await expect(dialog.locator("button", has_text="7 days")).to_have_attribute(
        "aria-pressed", "true"
    )
    await dialog.locator("button", has_text="Close").click()
    await expect(dialog).not_to_be_visible()
    spans = {(end - start) / 10**9 for _, start, end, *_ in view.asked}  # type: ignore[operator]
    assert spans == {3600, 7 * 86400}


async def test_the_cards_life_is_said_as_the_order_of_magnitude_it_is(opened: Opened) -> None:
    lanes = opened.page.locator("#lanes")
    await expect(lanes).to_contain_text("not known in the first ten minutes")
    wear = opened.view.wear
    wear.bytes_day, wear.flushes_day, wear.life_days = 300 * 2.0**20, 80_000.4, 7.4 * 365
    opened.view.sample()
    await expect(lanes).to_contain_text("300 MiB and 80,000 flushes a day: a card lasts about 7 y")
