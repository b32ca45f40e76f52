"""The built site in a real browser, from a server and from a folder, for everyone.

Needs Chromium (`make browser`); skipped, with this reason, where there is none.
"""

import base64
import gzip
import io
import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import axe_playwright_python
import browser
import pytest
import yaml
from fontTools.ttLib import TTFont
from site_fixtures import ROOT

pytestmark = pytest.mark.skipif(browser.find_chromium() is None, reason="needs Chromium: make browser")

AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
RUN_AXE = f"""async (colours) => {{
  for (const box of document.querySelectorAll("details")) box.open = true;
  const result = await axe.run(document, {{
    runOnly: colours ? {{type: "rule", values: ["color-contrast"]}} : {json.dumps(RULES)},
    resultTypes: ["violations"],
    rules: colours ? {{}} : {{"color-contrast": {{enabled: false}}}},
  }});
  return result.violations.flatMap(v => v.nodes.map(n => `${{v.id}}: ${{n.html.slice(0, 160)}}`));
}}"""
# Words of code by the thousand share a few colours, and rows of a table too: look at each once.
THIN_OUT = """() => {
  const seen = new Set();
  for (const word of document.querySelectorAll(".highlight pre span")) {
    const key = `${word.className} in ${word.closest("div.highlight").parentElement.className}`;
    // axe does not judge a single letter.
    if (seen.has(key) || word.textContent.length < 2) word.textContent = ""; else seen.add(key);
  }
  for (const row of document.querySelectorAll("tbody tr:nth-child(n+4)")) row.remove();
}"""
WEIGHT_LIMIT = 1_000_000  # bytes, with all that the page loads
TOO_WIDE = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def chromium():
    with browser.chromium() as program:
        yield program


@pytest.fixture(scope="module")
def address(site):
    with browser.served(site) as found:
        yield found


@pytest.fixture
def tab(chromium):
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    yield watched(context)
    context.close()


def watched(context):
    """A page that collects what goes wrong in it.

    A test that looks at `problems` takes a new one for each address: leaving a page stops what it still
    loads, its icon for example, which is no problem of the page.
    """
    page = context.new_page()
    page.problems = []
    page.on("console", lambda m: m.type == "error" and page.problems.append(m.text))
    page.on("pageerror", lambda e: page.problems.append(str(e)))
    page.on("requestfailed", lambda r: page.problems.append(f"{r.url}: {r.failure}"))
    page.on("request", lambda r: page.problems.append(f"asks {r.url}") if asks_others(r.url) else None)
    return page


def asks_others(url):
    return not url.startswith(("data:", "blob:", "file:", "http://127.0.0.1:"))


def visit(tab, url):
    tab.goto(url, wait_until="load")
    # The explorer draws, loads the light curve of a source, and then says which one it is.
    tab.wait_for_function(
        "() => [...document.querySelectorAll('.explorer-summary')].every(e => e.textContent)"
    )


@pytest.mark.parametrize("where", ["server", "folder"])
def test_pages_load_without_error_and_ask_no_other_host(where, site, address, tab):
    for name in browser.pages(site):
        page = watched(tab.context)
        visit(page, address + name if where == "server" else (site / name).as_uri())
        assert page.problems == [], name
        page.close()


FORMULAS = """() => [...document.querySelectorAll(".math")].map(e => {
  const letter = /^[a-zA-Zα-ω]$/;
  const drawn = e.querySelector("math")?.getBoundingClientRect();
  const slanted = x => getComputedStyle(x).fontStyle == "italic";
  return {
    text: e.textContent,
    size: drawn ? Math.min(drawn.width, drawn.height) : 0,
    wrong: [...e.querySelectorAll("mi")].filter(x => slanted(x) != letter.test(x.textContent)).length,
    loose: getComputedStyle(e.parentElement).whiteSpace != "nowrap" && /^[.,;:!?)]/.test(e.nextSibling?.data),
  };
})"""


def test_formulas_are_drawn(site, address, tab):
    seen = 0
    for name in browser.pages(site):
        visit(tab, address + name)
        for formula in tab.evaluate(FORMULAS):
            assert formula["size"] > 4, (name, formula)  # pixels
            assert "\\" not in formula["text"], (name, formula)
            assert not formula["wrong"], (name, formula)  # as in print: one letter is slanted, a word not
            assert not formula["loose"], (name, formula)  # no line ends before the comma
            seen += 1
    assert seen > 20


ICONS = """() => [...document.querySelectorAll("[class*='fa-']")].map(e => {
  const style = getComputedStyle(e, "::before");
  const named = /Brands/.test(style.fontFamily) ? "Brands" : style.fontWeight;
  return {icon: e.className, font: named, drawn: style.content.replaceAll('"', "")};
})"""


def test_every_icon_is_in_the_sites_fonts(site, address, tab):
    """They are part of the style sheet: browsers differ in what a page opened from a folder may load."""
    style = (site / "_static/styles/pydata-sphinx-theme.css").read_text(encoding="utf-8")
    found = re.findall(
        r"font-family:Font Awesome\\ 6 (\w+);.*?weight:(\d+);src:url\(\"data:.*?,(.*?)\"\)", style
    )
    fonts = {
        "Brands" if family == "Brands" else weight: TTFont(io.BytesIO(base64.b64decode(data))).getBestCmap()
        for family, weight, data in found
    }
    assert set(fonts) == {"Brands", "400", "900"}
    assert "url(../vendor" not in style
    seen = set()
    for name in browser.pages(site):
        visit(tab, address + name)
        for icon in tab.evaluate(ICONS):
            assert len(icon["drawn"]) == 1, (name, icon)
            assert ord(icon["drawn"]) in fonts[icon["font"]], (name, icon)
            seen.add(icon["drawn"])
    assert len(seen) > 10


def as_sent(path):
    """Bytes of a file as a web server sends it: text compressed, the rest as it is."""
    data = path.read_bytes()
    return len(gzip.compress(data, 6) if path.suffix in (".html", ".js", ".css", ".svg") else data)


def test_first_visit_to_any_page_is_light(site, address, chromium):
    heavy = {}
    for name in browser.pages(site):
        with chromium.new_context() as context:
            page, files = context.new_page(), set()
            page.on("request", lambda r, files=files: files.add(urlsplit(r.url)))
            visit(page, address + name)
            page.wait_for_load_state("networkidle")
        paths = [site / parts.path.lstrip("/") for parts in files if parts.scheme == "http"]
        assert site / name in paths
        if (total := sum(map(as_sent, paths))) > WEIGHT_LIMIT:
            heavy[name] = total
    assert heavy == {}


PICTURES = """a => a.map(x => [x.clientWidth, x.clientHeight, x.naturalHeight / x.naturalWidth])"""


@pytest.mark.parametrize("width", [1280, 400])
def test_pictures_leave_their_room_before_they_come(width, address, tab):
    tab.set_viewport_size({"width": width, "height": 900})
    visit(tab, address + "notebooks/03_light_curves.html")
    there = tab.eval_on_selector_all(".cell_output img", PICTURES)
    assert len(there) > 5
    for wide, high, ratio in there:
        assert high == pytest.approx(wide * ratio, abs=3), "stretched"
    tab.route("**/*.png", lambda route: None)  # they never come
    tab.reload(wait_until="domcontentloaded")
    before = tab.eval_on_selector_all(".cell_output img", PICTURES)
    for room, picture in zip(before, there, strict=True):
        assert room[:2] == pytest.approx(picture[:2], abs=1)  # pixel


def test_a_request_to_another_host_would_be_noticed(tab):
    tab.set_content("<img src='https://example.invalid/x.png' alt='x'>")
    assert any(p.startswith("asks https://example.invalid") for p in tab.problems)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_no_accessibility_violation_and_nothing_scrolls_sideways(theme, width, site, address, tab):
    tab.set_viewport_size({"width": width, "height": 900})
    tab.add_init_script(f"localStorage.setItem('mode', '{theme}');localStorage.setItem('theme', '{theme}')")
    found = []
    for name in browser.pages(site):
        visit(tab, address + name)
        if name != "404.html":
            assert tab.evaluate("document.documentElement.dataset.theme") == theme
        found += [f"{name}: scrolls sideways by {by}" for by in [tab.evaluate(TOO_WIDE)] if by > 0]
        tab.add_script_tag(path=AXE)
        violations = tab.evaluate(RUN_AXE, False)
        if width == 1280:  # the narrow page has the same colours
            tab.evaluate(THIN_OUT)
            violations += tab.evaluate(RUN_AXE, True)
        found += [f"{name}: {violation}" for violation in violations]
    assert not found, "\n".join(found)


def test_axe_notices_a_violation(tab):
    tab.set_content(
        "<html lang='en'><title>x</title><main><h1>x</h1><img src='data:,'>"
        "<div class='cell'><div class='highlight'><pre><span class='k' style='color:black'>word</span>"
        "<span class='s' style='color:#ddd'>pale</span></pre></div></div></main>"
    )
    tab.add_script_tag(path=AXE)
    assert [line.split(":")[0] for line in tab.evaluate(RUN_AXE, False)] == ["image-alt"]
    tab.evaluate(THIN_OUT)
    assert [line.split(":")[0] for line in tab.evaluate(RUN_AXE, True)] == ["color-contrast"]


def test_code_lines_fit_at_full_width(site, address, tab):
    wide = {}
    for path in sorted((site / "notebooks").glob("*.html")):
        visit(tab, f"{address}notebooks/{path.name}")
        over = tab.evaluate(
            """() => [...document.querySelectorAll(".cell_input pre")]
                 .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent.slice(0, 90))"""
        )
        if over:
            wide[path.name] = over
    assert wide == {}


@pytest.mark.parametrize("where", ["server", "folder"])
def test_search_finds_a_word_of_every_chapter(where, site, address, tab):
    start = address if where == "server" else f"{site.as_uri()}/"
    for path in sorted((site / "notebooks").glob("*.html")):
        title = tab_title(site, path)
        page = watched(tab.context)
        page.goto(f"{start}search.html?q={'+'.join(title.split())}", wait_until="load")
        page.wait_for_selector(f"#search-results li a[href*='{path.name}']")
        page.wait_for_load_state("networkidle")  # it reads the pages that it quotes
        assert page.problems == []
        page.close()


def tab_title(site, path):
    text = path.read_text(encoding="utf-8")
    return text.split("<title>")[1].split("—")[0].split("&#8212;")[0].strip().replace(",", "")


def test_solutions_unfold_by_keyboard_and_say_their_name(site, address, tab):
    for path in sorted((site / "notebooks").glob("0*.html")):
        visit(tab, f"{address}notebooks/{path.name}")
        first = tab.locator("details.hide > summary", has_text="solution").first
        assert not first.evaluate("e => e.parentElement.open")
        first.focus()
        tab.keyboard.press("Enter")
        assert first.evaluate("e => e.parentElement.open")
        tab.emulate_media(media="print")
        tab.evaluate("() => dispatchEvent(new Event('beforeprint'))")
        assert tab.locator("details:not([open])").count() == 0


def test_theme_switches_by_keyboard(address, tab):
    visit(tab, address + "index.html")
    seen = set()
    button = tab.locator("button.theme-switch-button:visible").first
    for _ in range(3):
        button.focus()
        tab.keyboard.press("Enter")
        seen.add(tab.evaluate("document.documentElement.dataset.mode"))
    assert seen == {"light", "dark", "auto"}


def test_wide_tables_scroll_by_keyboard_in_their_own_box(address, tab):
    tab.set_viewport_size({"width": 400, "height": 900})
    visit(tab, address + "notebooks/02_catalog.html")
    box = tab.locator(".table-scroll").first
    box.focus()
    for _ in range(4):
        tab.keyboard.press("ArrowRight")
    tab.wait_for_function("() => document.activeElement.scrollLeft > 0")


def test_form_makes_a_link_to_the_readers_own_hub(address, tab):
    visit(tab, address + "notebooks/02_catalog.html")
    href = tab.locator("a:has-text('JupyterHub')").first.evaluate("e => e.href")
    visit(tab, href)
    tab.fill("#hub-address", "https://hub.example.edu/")
    tab.keyboard.press("Enter")
    link = tab.locator(".hub-link a")
    assert "02_catalog.ipynb" in link.evaluate("e => decodeURIComponent(e.href)")
    assert link.evaluate("e => e.href").startswith(
        "https://hub.example.edu/hub/user-redirect/git-pull?repo=https%3A%2F%2Fgithub.com%2F"
    )


def test_home_page_shows_all_in_one_screen(site, address, tab):
    visit(tab, address + "index.html")
    for what in (
        ".bd-article h1",
        ".start-button",
        ".hero-picture.only-light",
        ".hero-caption",
        ".chapter-card >> nth=-1",
    ):
        box = tab.locator(what).first.bounding_box()
        assert box["y"] + box["height"] <= 900, what
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = next(part for part in contents["parts"] if part["caption"] == "The training set")
    assert tab.locator(".chapter-card").count() == len(chapters["chapters"])
