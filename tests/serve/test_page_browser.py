"""The page in a real browser, against a real server: what a reader sees, by mouse, by keyboard and on a phone.

With DIFFEMBED_SCREENSHOTS=FOLDER it also writes the pictures of the README there; DIFFEMBED_SECOND_MODEL names the
model that is compared, where the small random one of the tests would be no sight.
"""

import os
import re
import shutil
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from diffembed import Embedder, build_index
from diffembed.documents import ChunkPolicy

playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests need the Python package playwright")
expect = playwright.expect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FOLDER = Path(__file__).parent / "guide"
MODEL, SECOND = "all-minilm-l6-v2", os.environ.get("DIFFEMBED_SECOND_MODEL", "tiny-gemma3")
LEFT, RIGHT = f"guide ({MODEL})", f"guide ({SECOND})"
QUESTION = "how far can the light be seen?"
SCREENSHOTS = os.environ.get("DIFFEMBED_SCREENSHOTS")
PATIENCE_MS = 240_000 if SCREENSHOTS else 20_000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="the browser tests need Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def server(start):
    return start("--model", SECOND, "--documents", str(FOLDER), model=MODEL)


@pytest.fixture(scope="module")
def on_disk(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("indexes") / "coast"
    late = ChunkPolicy(kind="late", size=400)
    build_index(folder, [FOLDER], embedder=Embedder.load(MODEL, dtype="float32"), chunks=late)
    return start("--index", str(folder), model=MODEL)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, server):
    """`open_page("#/search?q=x")`: a page that fails the test if it logs an error or asks anybody but its server."""
    contexts, complaints = [], []

    def opened(address="", *, size=(1280, 800), scheme="light", url=None, expected=()):
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, reduced_motion="reduce"
        )
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        base = url or server.url

        def hear(message):
            if message.type in ("error", "warning") and not any(word in message.text for word in expected):
                complaints.append(message.text)

        page.on("console", hear)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda asked: asked.url.startswith(base) or complaints.append(f"asked {asked.url}"))
        page.goto(f"{base}/{address}")
        return page

    expect.set_options(timeout=PATIENCE_MS)
    yield opened
    for context in contexts:
        context.close()
    assert not complaints


def address(page):
    """(view, parameters) of the address."""
    path, _, query = page.url.partition("#/")[2].partition("?")
    return path, {name: values[0] for name, values in parse_qs(query).items()}


def picture(page, name, *, height=None):
    if SCREENSHOTS is None:
        return
    page.evaluate("document.activeElement.blur()")
    size = page.viewport_size
    if height:
        page.set_viewport_size({"width": size["width"], "height": height})
    page.mouse.move(0, 0)
    page.wait_for_timeout(200)
    path = Path(SCREENSHOTS) / f"{name}.png"
    page.screenshot(path=path)
    assert path.stat().st_size < 200_000


def weights(locator):
    """Words of a passage -> how strongly they are tinted."""
    return dict(
        locator.locator("mark").evaluate_all("all => all.map(m => [m.textContent, +m.style.getPropertyValue('--w')])")
    )


def test_search_by_hand(open_page):
    page = open_page()
    expect(page.get_by_role("heading", name="Ask, and see why")).to_be_visible()
    page.get_by_label("Question", exact=True).fill(QUESTION)
    page.get_by_role("button", name="Search").click()
    hits = page.locator(".hit")
    expect(hits).to_have_count(10)
    expect(page.get_by_role("status")).to_have_text(re.compile(r"10 results in \d"))
    first = hits.first
    expect(first.locator(".file")).to_have_text("lighthouse.md")
    expect(first).to_contain_text("What makes it carry for twenty miles is the lens around it")
    page.wait_for_selector(".results[data-tinted]")
    tints = weights(first)
    assert tints["light"] > 0.5 and tints["light"] > tints.get("glass", 0), tints
    assert first.locator("mark", has_text="light").first.get_attribute("title").startswith("adds 0.")
    # The tint is seen: its colour differs from the paper's.
    colours = page.evaluate("[...document.querySelectorAll('.hit mark')].map(m => getComputedStyle(m).backgroundColor)")
    assert len(set(colours)) > 5
    assert address(page) == ("search", {"q": QUESTION, "index": LEFT, "mode": "dense"})
    assert QUESTION in page.title()
    picture(page, "page-search")


def test_a_link_opens_what_it_names_and_back_returns(open_page):
    page = open_page(f"#/search?q=bread&index={RIGHT}")
    expect(page.get_by_label("Question", exact=True)).to_have_value("bread")
    expect(page.locator("select[name=index]")).to_have_value(RIGHT)
    expect(page.locator(".hit")).to_have_count(10)
    page.locator("select[name=index]").select_option(LEFT)
    expect(page.locator(".hit .file").first).to_have_text("bread.md")
    page.get_by_role("link", name="Document").click()
    expect(page.get_by_role("heading", name="A document from end to end")).to_be_visible()
    page.go_back()
    expect(page.locator(".hit .file").first).to_have_text("bread.md")
    page.go_back()
    expect(page.locator("select[name=index]")).to_have_value(RIGHT)


def test_search_by_keyboard(open_page):
    page = open_page(f"#/search?q=fog&index={LEFT}")
    page.wait_for_selector(".results[data-tinted]")
    focused = lambda: page.evaluate("document.activeElement.getAttribute('aria-label')")  # noqa: E731
    page.keyboard.press("/")
    assert focused() == "Question"
    page.keyboard.type("why is there fog")  # the old question is selected, so it is replaced
    page.keyboard.press("Enter")
    expect(page.locator(".hit .file").first).to_have_text("weather.md")
    page.wait_for_selector(".results[data-tinted]")
    page.keyboard.press("ArrowDown")
    assert focused() == "1. weather.md, line 1"
    page.keyboard.press("ArrowDown")
    assert focused().startswith("2. ")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="weather.md")).to_be_visible()
    assert address(page)[0] == "document" and address(page)[1]["q"] == "why is there fog"


def test_an_instruction_goes_along(open_page):
    page = open_page(f"#/search?q=fog&index={LEFT}")
    expect(page.locator(".hit")).to_have_count(10)
    before = page.locator(".hit .score").all_inner_texts()
    page.get_by_text("Instruction", exact=True).click()
    page.get_by_label("Instruction put before the question").fill("find what to do on board")
    page.keyboard.press("Enter")
    page.wait_for_selector(".results[data-tinted]")
    assert address(page)[1]["instruction"] == "find what to do on board"
    assert page.locator(".hit .score").all_inner_texts() != before


def test_compare_joins_what_both_find(open_page):
    page = open_page(f"#/compare?q={QUESTION}&left={LEFT}&right={RIGHT}")
    page.wait_for_selector(".results[data-tinted]")
    places = [side.locator(".hit").evaluate_all("all => all.map(hit => hit.dataset.place)") for side in sides(page)]
    assert [len(side) for side in places] == [10, 10]
    shared = [place for place in places[0] if place in places[1]]
    assert 0 < len(shared) < 10, "the two models must differ, and not in everything, for this test to mean anything"
    expect(page.locator(".summary")).to_contain_text(f"{len(shared)} of 10 passages found by both")
    assert page.locator("svg.moves path").evaluate_all("all => all.map(path => path.dataset.place)") == shared
    for here, there, side in zip(places, reversed(places), sides(page), strict=True):
        marks = side.locator(".badge").all_inner_texts()
        for rank, (place, mark) in enumerate(zip(here, marks, strict=True)):
            move = there.index(place) - rank if place in there else None
            arrow = "only here" if move is None else "=" if move == 0 else f"{'↑' if move > 0 else '↓'}{abs(move)}"
            assert mark == arrow
    # Every line ends at the heads of the two passages it joins.
    for path in page.locator("svg.moves path").all():
        box = path.bounding_box()
        heads = [
            side.locator(f".hit[data-place={quoted(path.get_attribute('data-place'))}] a").bounding_box()
            for side in sides(page)
        ]
        middles = sorted(head["y"] + head["height"] / 2 for head in heads)
        # Chromium counts three pixels around a line as part of its box.
        assert abs(box["y"] + 3 - middles[0]) < 1 and abs(box["y"] + box["height"] - 3 - middles[1]) < 1
    sides(page)[0].locator(f".hit[data-place={quoted(shared[0])}]").hover()
    expect(page.locator(".hit.is-lit")).to_have_count(2)
    picture(page, "page-compare", height=600)


def test_an_index_on_disk_is_searched_by_meaning_words_and_both(open_page, on_disk):
    page = open_page(f"#/search?q={QUESTION}", url=on_disk.url)
    page.wait_for_selector(".results[data-tinted]")
    expect(page.locator(".hit .file").first).to_have_text("guide/lighthouse.md")
    expect(page.locator(".legend")).to_contain_text("each passage read alone")
    by_meaning = page.locator(".hit .score").first.inner_text()
    page.get_by_role("radio", name="Words").click()
    expect(page.locator(".hit .score").first).not_to_have_text(by_meaning)
    assert address(page)[1]["mode"] == "bm25"
    # By words, every passage shares one with the question.
    for text in page.locator(".hit .passage").all_inner_texts():
        assert re.search(r"\b(how|far|can|the|light|be|seen)\b", text, re.I)
    page.get_by_role("radio", name="Both").click()
    expect(page.locator(".hit .score").first).to_contain_text(re.compile(r"meaning 0\.\d+ \S words \d"))
    page.locator(".hit a").first.click()
    expect(page.get_by_role("heading", name="guide/lighthouse.md")).to_be_visible()
    expect(page.locator(".chunk").nth(3)).to_be_visible()
    page.goto(f"{on_disk.url}/#/map")
    expect(page.locator(".keys-of-map")).to_contain_text("guide/lighthouse.md")


def sides(page):
    return [page.locator(".side.left"), page.locator(".side.right")]


def quoted(place):
    return f'"{place}"'


def test_a_document_from_end_to_end(open_page):
    page = open_page(f"#/document?q={QUESTION}&index={LEFT}&source=lighthouse.md")
    page.wait_for_selector(".results[data-tinted]")
    text = (FOLDER / "lighthouse.md").read_text(encoding="utf-8").rstrip()
    captions = page.locator(".captions")
    expect(captions).to_contain_text(
        re.compile(rf"reading stops after 1,\d+ of {len(text):,} characters \(256 tokens\)")
    )
    num_read = int(re.search(r"after ([\d,]+) of", captions.inner_text())[1].replace(",", ""))
    strip = page.get_by_role("slider", name="Place in the document")
    width = 1000 / len(text)
    assert float(strip.locator("line.stop").get_attribute("x1")) == pytest.approx(num_read * width, abs=0.1)
    bars = strip.locator(".wave rect").evaluate_all(
        "all => all.map(bar => [+bar.getAttribute('x'), +bar.getAttribute('height')])"
    )
    assert max(height for _, height in bars) == pytest.approx(44, abs=0.1)
    assert not any(height for x, height in bars if x > num_read * width + 5), "nothing is drawn where nothing was read"
    # One box a passage, each at its place; the best one is the darkest.
    chunks = page.locator(".chunk")
    boxes = strip.locator(".band rect")
    assert boxes.count() == chunks.count() > 5
    scores = [float(score) for score in chunks.locator(".score").all_inner_texts()]
    best = max(range(len(scores)), key=scores.__getitem__)
    assert boxes.nth(best).evaluate("box => box.style.getPropertyValue('--w')") == "1.000"
    expect(captions).to_contain_text(f"the best has similarity {scores[best]:.3f}")
    picture(page, "page-document")

    # A click on the strip reads that place; the address then names it.
    area = strip.bounding_box()
    page.mouse.click(area["x"] + area["width"] * 0.97, area["y"] + 10)
    expect(chunks.last).to_be_in_viewport()
    expect(page.get_by_role("heading", name="lighthouse.md")).not_to_be_in_viewport()
    assert int(address(page)[1]["at"]) > 0.8 * len(text)
    expect(strip).to_be_in_viewport()
    strip.focus()
    page.keyboard.press("Home")
    expect(strip).to_have_attribute("aria-valuetext", re.compile(r"passage 1 of \d+, line 1"))
    expect(chunks.first).to_be_in_viewport()
    page.keyboard.press("ArrowRight")
    expect(strip).to_have_attribute("aria-valuenow", "2")
    for _ in range(chunks.count()):
        page.keyboard.press("ArrowRight")
    expect(strip).to_have_attribute("aria-valuenow", str(chunks.count()))


def test_a_text_of_ones_own(open_page):
    page = open_page(f"#/document?q={QUESTION}")
    page.get_by_text("Read a text of your own").click()
    hostile = "<img src=x onerror=alert(1)> <b>The lamp</b> is seen from afar."
    page.locator("#own").fill(hostile)
    page.get_by_role("button", name="Read this text").click()
    page.wait_for_selector(".results[data-tinted]")
    expect(page.locator(".chunk .passage")).to_have_text(hostile)
    assert page.locator(".chunk img, .chunk b").count() == 0, "a text is text"
    expect(page.locator(".captions")).to_contain_text("all of it is read")
    assert "afar" not in page.url, "a text of one's own stays out of the address"


def test_the_map_shows_a_passage_under_the_pointer(open_page):
    page = open_page(f"#/map?q={QUESTION}&index={LEFT}")
    canvas = page.get_by_role("img", name=re.compile(r"\d+ passages of guide"))
    expect(canvas).to_be_visible()
    expect(page.locator(".keys-of-map li")).to_have_count(8)
    canvas.focus()
    page.keyboard.press("ArrowRight")
    tip = page.locator(".tip")
    expect(tip).to_contain_text("birds.md:1")
    # The point is where the tip says: under the pointer it lights up, beside it nothing does.
    x, y = tip.evaluate(
        "tip => [parseFloat(tip.style.getPropertyValue('--x')), parseFloat(tip.style.getPropertyValue('--y'))]"
    )
    area = canvas.bounding_box()
    page.mouse.move(area["x"] + 4, area["y"] + 30)
    expect(tip).to_be_hidden()
    page.mouse.move(area["x"] + x, area["y"] + y)
    expect(tip).to_contain_text("birds.md:1")
    page.mouse.click(area["x"] + x, area["y"] + y)
    expect(page.get_by_role("heading", name="birds.md")).to_be_visible()


def test_what_does_not_exist_is_said(open_page):
    page = open_page(f"#/document?index={LEFT}&source=nowhere.md", expected=("400", "404"))
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text(f"The index '{LEFT}' has no document 'nowhere.md'.")
    assert alert.get_by_role("button").count() == 0, "the same request would fail again"


def test_waiting_is_shown_and_a_server_that_is_gone_is_said(open_page):
    page = open_page(expected=("ERR_FAILED",))
    held = []
    page.route("**/page/search", lambda route: held.append(route))
    page.get_by_label("Question", exact=True).fill(QUESTION)
    page.keyboard.press("Enter")
    expect(page.locator(".results[aria-busy=true] .ghost")).to_have_count(4)
    held[0].abort()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("The server cannot be reached. Is it still running?")
    picture(page, "page-error", height=560)
    page.unroute("**/page/search")
    alert.get_by_role("button", name="Try again").click()
    expect(page.locator(".hit")).to_have_count(10)


def test_a_key_is_asked_for(open_page, start, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("open-sesame\n")
    keys.chmod(0o600)
    guarded = start("--api-key-file", str(keys), "--documents", str(FOLDER), model="tiny-gemma3")
    page = open_page("#/search?q=fog", url=guarded.url, expected=("401",))
    expect(page.get_by_role("alert")).to_contain_text("This server asks for an API key.")
    page.get_by_label("API key").fill("open-sesame")
    page.keyboard.press("Enter")
    expect(page.locator(".hit")).to_have_count(10)


@pytest.mark.parametrize("view", ["search", "compare", "document", "map"])
def test_readable_on_a_phone(open_page, view):
    page = open_page(f"#/{view}?q={QUESTION}&source=lighthouse.md", size=(390, 844))
    page.wait_for_selector(".results[data-tinted]" if view != "map" else "canvas")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "nothing is wider than the screen"
    sizes = page.evaluate(
        "[...document.querySelectorAll('main p, main a, main button')].filter(e => e.offsetParent)"
        ".map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(sizes) >= 12
    if view == "search":
        picture(page, "page-phone")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["search", "compare", "document"])
def test_text_has_contrast(open_page, view, scheme):
    """WCAG AA: 4.5 to 1 for every text, the tinted words on their tint included."""
    page = open_page(f"#/{view}?q={QUESTION}&source=lighthouse.md", scheme=scheme)
    page.wait_for_selector(".results[data-tinted]")
    page.evaluate("document.activeElement.blur()")
    found = page.evaluate(CONTRASTS)
    assert len(found) > 30
    assert [one for one in found if one["ratio"] < 4.5] == []
    if (view, scheme) == ("search", "dark"):
        picture(page, "page-search-dark")


def test_the_theme_is_chosen_and_kept(open_page):
    page = open_page()
    paper = lambda: page.evaluate("getComputedStyle(document.documentElement).backgroundColor")  # noqa: E731
    light = paper()
    button = page.locator("#theme")
    button.click()
    expect(button).to_have_attribute("aria-label", "Colours: light")
    button.click()
    expect(button).to_have_attribute("aria-label", "Colours: dark")
    dark = paper()
    assert dark != light
    page.reload()
    assert paper() == dark


CONTRASTS = """() => {
  // Colours as the browser paints them: every layer behind a text, from the page up, laid over one another.
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const known = new Map();
  const paint = (layers) => {
    const key = layers.join();
    if (!known.has(key)) known.set(key, painted(layers));
    return known.get(key);
  };
  const painted = (layers) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const layer of layers) { canvas.fillStyle = layer; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const isHidden = !element.offsetParent || element.closest(".unseen, .announcer, .skip, noscript");
    if (isHidden || !walker.currentNode.data.trim()) continue;
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.unshift(getComputedStyle(e).backgroundColor);
    const paper = paint(layers);
    const ink = paint([...layers, getComputedStyle(element).color]);
    const [low, high] = [luminance(paper), luminance(ink)].sort((a, b) => a - b);
    found.push({ text: walker.currentNode.data.slice(0, 30), ratio: (high + 0.05) / (low + 0.05) });
  }
  return found;
}"""
