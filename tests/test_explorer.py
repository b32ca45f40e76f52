"""The page "Explorer": what it is made from equals the store, and it works for everyone."""

import contextlib
import json
import re
import subprocess
import sys

import browser
import explorer
import numpy as np
import pytest
import stores
import zarr
from numpy.lib import recfunctions
from site_fixtures import ROOT, read_pages

import agn_helpers as agn

EVIL = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
BOOK = "# Explorer\n\n" + "\n".join(
    f"## {title}\n\n```{{explorer}} {part}\n```\n"
    for title, part in (("Find", "find"), ("Look at one source", "look"), ("What", "about"))
)


@pytest.fixture(scope="module")
def odd_store(tmp_path_factory):
    """No positions, no redshifts, and texts that would like to be a program."""
    folder = stores.write_store(tmp_path_factory.mktemp("odd") / "store.zarr")
    root = zarr.open_group(folder, mode="a")
    record = recfunctions.drop_fields(root["catalog"][:], ["z", "z_err"], usemask=False)
    record["ra_sdss"] = np.nan
    definitions = {name: EVIL for name in root["catalog"].attrs}
    root.attrs["synthetic"] = EVIL
    made = root.create_array("catalog", data=record, chunks=(4,), overwrite=True)
    made.attrs.update(definitions)
    return folder


def export(location, most=explorer.MOST_SOURCES):
    with agn.open_training_set(location) as store:
        return explorer.export(store, most)


def arguments(script):
    """What a script of the export calls its function with."""
    found = re.fullmatch(rb"agnExplorer\.(index|part)\((.*)\);\n", script, re.S)
    return json.loads(b"[" + found[2] + b"]")


def sources(files):
    """Every exported source by its train_id."""
    index = arguments(files["index.js"])[0]
    parts = [arguments(files[f"part-{n}.js"]) for n in range(len(files) - 2)]
    assert [number for number, _ in parts] == list(range(len(parts)))
    return dict(zip(map(int, index["ids"]), [s for _, group in parts for s in group], strict=True))


# What is exported


def test_every_value_is_the_stores_own(small_store, monkeypatch):
    monkeypatch.setattr(explorer, "IN_ONE_PART", 4)
    files = export(small_store)
    index, drawings = arguments(files["index.js"])
    assert json.loads(files["index.json"]) == index
    root = zarr.open_group(zarr.storage.ZipStore(small_store, mode="r"), mode="r")
    rows = {int(row["train_id"]): row for row in root["catalog"][:]}
    found = sources(files)
    assert list(found) == list(rows) == list(stores.IDS)
    for train_id, source in found.items():
        record = root[f"sdss_lc/{train_id}"][:]
        assert source["epochs"] == len(record)
        kept = 0
        for band in agn.BANDS:
            good = record[record[f"psfmag_{band}"] != -99.0]
            good = good[np.argsort(good[f"mjd_{band}"], kind="stable")]
            kept += len(good)
            for values, name in zip(
                source["bands"].get(band, [[], [], []]), ("mjd", "psfmag", "psfmagerr"), strict=True
            ):
                assert values == good[f"{name}_{band}"].tolist(), (train_id, band, name)
        assert source["rejected"] == 5 * len(record) - kept
        for (name, _, definition), value in zip(index["columns"], source["row"], strict=True):
            stored = rows[train_id][name]
            if value is None:
                assert stored in (-99, "") or np.isnan(stored), name
            else:
                assert type(stored)(value) == stored, name
            assert definition == agn.columns.find_definition(name, dict(root["catalog"].attrs))[1]
    plots = index["plots"]
    for name, values in (
        ("ra_sdss", plots["first"]["x"]["values"]),
        ("dec_sdss", plots["first"]["y"]["values"]),
        ("z", plots["second"]["x"]["values"]),
        *((f"psfmag_{band}", plots["mag"][band]) for band in agn.BANDS),
    ):
        assert values == [row[name] for row in rows.values()], name
    assert len(drawings["roots"]) == 3


def test_a_source_without_light_curve_is_there_without_one(tmp_path):
    folder = stores.write_store(tmp_path / "store.zarr")
    del zarr.open_group(folder, mode="a")["sdss_lc/66"]
    found = sources(export(folder))
    assert found[66]["bands"] == {}
    assert found[66]["epochs"] == 0
    assert found[66]["row"] is not None


def test_the_same_store_gives_the_same_bytes(small_store):
    assert export(small_store) == export(small_store)


def test_a_large_store_is_thinned_evenly(small_store, monkeypatch):
    monkeypatch.setattr(explorer, "MOST_SOURCES", 3)
    with agn.open_training_set(small_store) as store:
        files = explorer.bounded(store)
    index = json.loads(files["index.json"])
    assert index["ids"] == [str(stores.IDS[i]) for i in (0, 2, 5)]
    assert index["total"] == len(stores.IDS)
    assert list(sources(files)) == [int(i) for i in index["ids"]]
    assert index["start"] in index["ids"]


def test_rows_are_spread_over_the_whole_catalogue():
    rows = explorer.chosen_rows(24_579, 1000)
    assert len(set(rows.tolist())) == 1000
    assert (rows[0], rows[-1]) == (0, 24_578)
    assert set(np.diff(rows).tolist()) == {24, 25}
    assert explorer.chosen_rows(5, 1000).tolist() == [0, 1, 2, 3, 4]
    assert explorer.chosen_rows(0, 1000).tolist() == []


def test_bytes_are_bounded(small_store, monkeypatch):
    all_of_it = export(small_store)
    limit = sum(map(len, all_of_it.values())) - 1000
    monkeypatch.setattr(explorer, "MOST_BYTES", limit)
    with agn.open_training_set(small_store) as store:
        files = explorer.bounded(store)
        assert sum(map(len, files.values())) <= limit
        assert 1 <= len(json.loads(files["index.json"])["ids"]) < len(stores.IDS)
        monkeypatch.setattr(explorer, "MOST_BYTES", 100)
        with pytest.raises(agn.LimitError, match=r"one source takes \d+ bytes\. The explorer carries 100"):
            explorer.bounded(store)


def test_hostile_text_stays_text(odd_store):
    files = export(odd_store)
    for name, content in files.items():
        if name.endswith(".js"):
            assert b"<" not in content, name
    index = arguments(files["index.js"])[0]
    assert index["synthetic"] == EVIL
    assert {definition for _, _, definition in index["columns"]} >= {EVIL}


def test_store_without_redshift_and_position_shows_colours(odd_store):
    plots = json.loads(export(odd_store)["index.json"])["plots"]
    assert plots["second"]["title"] == "In colour and magnitude"
    assert plots["second"]["text"].startswith("This store has no redshifts")
    assert plots["first"]["text"].startswith("This store has no positions on the sky")
    g, r = plots["mag"]["g"], plots["mag"]["r"]
    assert plots["second"]["x"]["values"] == pytest.approx([a - b for a, b in zip(g, r, strict=True)])


@pytest.mark.parametrize(
    ("ra", "cut"),
    [
        ([300.0, 359.0, 1.0, 60.0], 180.0),  # Stripe 82
        ([10.0, 20.0, 30.0], 360.0),
        ([5.0], 360.0),
        ([np.nan, 350.0, 20.0], 185.0),
        ([], 360.0),
    ],
)
def test_the_sky_is_cut_where_it_is_empty(ra, cut):
    assert explorer.cut_of(np.array(ra)) == cut


def test_real_stores_have_a_page(shared_store):
    with agn.open_training_set(shared_store) as store:
        files = explorer.bounded(store)
        assert sum(map(len, files.values())) <= explorer.MOST_BYTES
        last = int(json.loads(files["index.json"])["ids"][-1])
        frame = store.light_curve(last, bands=["g"]).dropna(subset="mag")
    assert sources(files)[last]["bands"]["g"][1] == frame["mag"].tolist()


def test_folder_is_brought_up_to_date(small_store, tmp_path):
    folder = tmp_path / "data"
    explorer.make(folder, str(small_store))
    (folder / "part-9.js").write_text("of an earlier store")
    times = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    explorer.make(folder, str(small_store))
    assert times.pop("part-9.js")
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == times


# The page


def test_only_this_page_loads_its_scripts(site):
    loading = {
        path.relative_to(site).as_posix(): [a for a in page.loads if "explorer/" in a]
        for path, page in read_pages(site).items()
    }
    scripts = loading.pop("explorer.html")
    assert [re.sub(r"\?.*", "", s).rpartition("/")[2] for s in scripts] == [
        "explorer.css",
        "bokeh.min.js",
        "explorer.js",
        "index.js",
    ]
    assert not any(loading.values())


def test_page_says_what_the_data_is_in_the_stores_words(site):
    text = (site / "explorer.html").read_text(encoding="utf-8")
    with agn.open_training_set() as store:
        assert store.attrs["synthetic"][:60] in text
        assert f"Sources of the store on this page: all {len(store.catalog())}." in text
    assert re.search(r"<noscript>.*03_light_curves\.html.*</noscript>", text, re.S)


needs_chromium = pytest.mark.skipif(browser.find_chromium() is None, reason="needs Chromium: make browser")


@pytest.fixture(scope="module")
def chromium():
    with browser.chromium() as program:
        yield program


@contextlib.contextmanager
def opened(chromium, address, **context):
    """A page of the explorer, opened from its folder, that has drawn its first source."""
    place = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}} | context)
    try:
        page = place.new_page()
        page.problems = []
        page.on("console", lambda m: m.type == "error" and page.problems.append(m.text))
        page.on("pageerror", lambda e: page.problems.append(str(e)))
        page.goto(address, wait_until="load")
        page.wait_for_function("document.querySelector('.explorer-summary').textContent")
        yield page
        assert page.problems == []
    finally:
        place.close()


@pytest.fixture
def tab(chromium, site):
    with opened(chromium, (site / "explorer.html").as_uri()) as page:
        yield page


DATA = "name => Object.fromEntries(Object.entries(Bokeh.documents[0].get_model_by_name(name).data)\
.map(([k, v]) => [k, Array.from(v)]))"


def summary_of(tab, train_id):
    tab.wait_for_function(
        "id => document.querySelector('.explorer-summary').textContent.startsWith(`Source ${id}:`)",
        arg=str(train_id),
    )
    return tab.locator(".explorer-summary").inner_text()


def row_of(tab):
    """The catalogue's row as the page shows it."""
    return dict(tab.locator(".explorer-columns button").evaluate_all(
        "all => all.map(b => [b.querySelector('code').textContent, b.lastElementChild.textContent])"
    ))  # fmt: skip


@needs_chromium
def test_limits_lower_the_count_and_the_points(tab):
    with agn.open_training_set() as store:
        catalog = store.catalog()
    tab.fill("[name=x2-from]", "2.5")
    tab.fill("[name=y2-to]", "20")
    wanted = catalog[(catalog["z"] >= 2.5) & (catalog["psfmag_r"] <= 20)]
    assert tab.locator(".explorer-count").inner_text() == f"{len(wanted)} of 500 sources left."
    points = tab.evaluate(DATA, "shown")
    assert points["id"] == [str(i) for i in wanted.index]
    assert points["x2"] == wanted["z"].tolist()
    assert points["y2"] == wanted["psfmag_r"].tolist()
    assert f"{len(wanted)} points" in tab.locator("#explorer-second").get_attribute("aria-label")
    tab.select_option("[name=band]", "i")
    wanted = catalog[(catalog["z"] >= 2.5) & (catalog["psfmag_i"] <= 20)]
    assert tab.evaluate(DATA, "shown")["y2"] == wanted["psfmag_i"].tolist()
    tab.get_by_role("button", name="Show all").click()
    tab.fill("[name=x-from]", "350")
    tab.fill("[name=x-to]", "10")
    around = catalog[(catalog["ra_sdss"] >= 350) | (catalog["ra_sdss"] <= 10)]
    assert tab.evaluate(DATA, "shown")["id"] == [str(i) for i in around.index]
    tab.fill("[name=epochs-from]", "9999")
    assert tab.locator(".explorer-count").inner_text() == "0 of 500 sources left."
    tab.get_by_role("button", name="Next").click()
    assert tab.locator(".explorer-summary").inner_text().startswith("No source is left")


@needs_chromium
def test_picked_source_shows_its_light_curve_and_its_row(tab):
    with agn.open_training_set() as store:
        frame = store.light_curve(66).dropna(subset=["mag", "mjd"])
        row = store.catalog().loc[66]
    tab.fill("[name=id]", "66")
    tab.keyboard.press("Enter")
    text = summary_of(tab, 66)
    assert f"{len(frame)} measurements" in text
    assert f"redshift {row['z']:.3f}" in text
    for band in agn.BANDS:
        shown, part = tab.evaluate(DATA, f"curve-{band}"), frame[frame["band"] == band]
        assert shown["mjd"] == part["mjd"].tolist()
        assert shown["mag"] == part["mag"].tolist()
        assert shown["high"] == (part["mag"] + part["magerr"]).tolist()
    assert row_of(tab)["objid"] == str(row["objid"])  # beyond 2**53: any float would round it
    assert row_of(tab)["ra_sdss"] == f"{row['ra_sdss']} deg"
    assert tab.evaluate(DATA, "picked")["x2"] == [row["z"]]
    assert tab.url.endswith("#source-66")
    axis = tab.evaluate("(({start, end}) => [start, end])(Bokeh.documents[0]"
                        ".get_model_by_name('light-curve').y_range)")  # fmt: skip
    assert axis[0] > frame["mag"].max() > frame["mag"].min() > axis[1]
    tab.uncheck("input[value=g]")
    tab.get_by_text("The light curve as a table").click()
    tab.locator(".explorer-table td").first.wait_for()
    cells = tab.locator(".explorer-table tbody tr").evaluate_all("all => all.map(r => r.innerText)")
    assert len(cells) == (frame["band"] != "g").sum()
    assert cells[0].split() == ["u", *(str(frame.iloc[0][c]) for c in ("mjd", "mag", "magerr"))]
    tab.fill("[name=id]", "5")
    tab.keyboard.press("Enter")
    assert (
        "No source 5 on this page. The nearest are 4 and 6." in tab.locator(".explorer-summary").inner_text()
    )


@needs_chromium
def test_a_box_in_one_plot_marks_in_both_and_a_press_picks(tab):
    place = tab.locator("#explorer-first")
    place.scroll_into_view_if_needed()
    at = place.bounding_box()
    tab.mouse.move(at["x"] + 120, at["y"] + 60)
    tab.mouse.down()
    tab.mouse.move(at["x"] + 220, at["y"] + 160, steps=4)
    tab.mouse.up()
    tab.wait_for_function("document.querySelector('.explorer-count').textContent.includes('marked')")
    marked = tab.evaluate("Bokeh.documents[0].get_model_by_name('shown').selected.indices")
    assert f", {len(marked)} marked." in tab.locator(".explorer-count").inner_text()
    both = tab.evaluate("['first', 'second'].map(n => Bokeh.documents[0].get_model_by_name(n + '-points')"
                        ".data_source.selected.indices.length)")  # fmt: skip
    assert both == [len(marked)] * 2
    ids = tab.evaluate(DATA, "shown")["id"]
    walk = sorted(int(ids[i]) for i in marked)
    with agn.open_training_set() as store:
        start = int(json.loads(explorer.export(store)["index.json"])["start"])
    wanted = next((i for i in walk if i > start), walk[0])
    tab.get_by_role("button", name="Next").click()
    summary_of(tab, wanted)
    # Press a point of the other plot: where it stands is what Bokeh says.
    target, x, y = tab.evaluate(
        """() => {
          const plot = Bokeh.documents[0].get_model_by_name("second");
          const view = [...Bokeh.index].find(v => v.model === plot);
          const {data} = Bokeh.documents[0].get_model_by_name("shown");
          // The one that stands furthest from all others.
          const at = [...data.id].map((_, i) => [view.frame.x_scale.compute(data.x2[i]),
                                                 view.frame.y_scale.compute(data.y2[i])]);
          const gap = (p, q) => Math.hypot(p[0] - q[0], p[1] - q[1]);
          const far = at.map((p) => Math.min(...at.filter(q => q !== p).map(q => gap(p, q))));
          const i = far.indexOf(Math.max(...far));
          return [data.id[i], ...at[i]];
        }"""
    )
    second = tab.locator("#explorer-second")
    second.scroll_into_view_if_needed()
    at = second.bounding_box()
    tab.mouse.click(at["x"] + x, at["y"] + y)
    summary_of(tab, target)
    assert tab.evaluate("Bokeh.documents[0].get_model_by_name('shown').selected.indices.length") == len(
        marked
    )


@needs_chromium
def test_all_works_by_keyboard(tab):
    """From field to field with Tab alone; nothing else is pressed but keys."""
    tab.locator("[name=x2-from]").focus()
    tab.keyboard.type("3")
    count = tab.locator(".explorer-count").inner_text()
    assert count != "500 of 500 sources left."
    for _ in range(40):
        tab.keyboard.press("Tab")
        assert tab.evaluate("!document.activeElement.closest('.explorer-plot')"), "a picture takes no keys"
        if tab.evaluate("document.activeElement.dataset.step") == "1":
            break
    tab.keyboard.press("Enter")
    first = tab.evaluate(DATA, "shown")["id"]
    start = tab.evaluate("document.querySelector('.explorer-go').elements.id.value")
    assert start in first
    summary_of(tab, start)
    column = tab.locator(".explorer-columns li").nth(2)
    column.locator("button").focus()
    assert column.locator("p").is_visible()  # what pointing at it shows
    tab.keyboard.press("Escape")
    assert not column.locator("p").is_visible()
    tab.keyboard.press("Enter")
    assert column.locator("p").is_visible()
    assert column.locator("button").get_attribute("aria-expanded") == "true"
    with agn.open_training_set() as store:
        name = column.locator("code").inner_text()
        assert column.locator("p").inner_text() == store.column_definitions().loc[name, "definition"]
    tab.get_by_role("button", name="Zoom in").focus()
    width = "(({start, end}) => end - start)(Bokeh.documents[0].get_model_by_name('light-curve').x_range)"
    before = tab.evaluate(width)
    tab.keyboard.press("Enter")
    assert tab.evaluate(width) == pytest.approx(before / 2)


@needs_chromium
def test_a_phone_can_use_it(chromium, site):
    address = (site / "explorer.html").as_uri() + "#source-66"
    with opened(chromium, address, viewport={"width": 400, "height": 800}, has_touch=True) as tab:
        summary_of(tab, 66)
        assert tab.evaluate("document.documentElement.scrollWidth <= 400")
        controls = ".explorer :is(button, select, summary, input, .explorer-check)"
        small = tab.locator(controls).evaluate_all(
            "all => all.map(e => (e.closest('label.explorer-check') ?? e).getBoundingClientRect())"
            ".filter(r => r.height && (r.height < 24 || r.width < 24)).length"
        )
        assert small == 0
        tab.locator("[data-step='1']").tap()
        with agn.open_training_set() as store:
            summary_of(tab, min(i for i in store.catalog(columns=["z"]).index if i > 66))
        tab.locator(".explorer-row-box > summary").tap()
        column = tab.locator(".explorer-columns li").first
        column.locator("button").tap()
        assert column.locator("p").is_visible()


@needs_chromium
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_plots_stand_on_white_in_both_themes(theme, chromium, site):
    with opened(chromium, (site / "explorer.html").as_uri(), color_scheme=theme) as tab:
        assert tab.evaluate("document.documentElement.dataset.theme") == theme
        for card in tab.locator(".explorer-card").all():
            assert card.evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(255, 255, 255)"
            assert card.evaluate("e => getComputedStyle(e).color") == "rgb(28, 39, 51)"


@needs_chromium
def test_without_scripts_the_page_says_so_and_leads_on(chromium, site):
    place = chromium.new_context(java_script_enabled=False)
    tab = place.new_page()
    tab.goto((site / "explorer.html").as_uri())
    assert "needs JavaScript" in tab.locator(".explorer-note").inner_text()
    assert not tab.locator(".explorer-filters").is_visible()
    tab.click(".explorer-note a")
    assert tab.url.endswith("03_light_curves.html")
    place.close()


@needs_chromium
def test_lost_file_is_told(chromium, site):
    place = chromium.new_context()
    tab = place.new_page()
    tab.route("**/part-0.js", lambda route: route.abort())
    tab.goto((site / "explorer.html").as_uri() + "#source-0")
    tab.wait_for_function("document.querySelector('.explorer-summary').textContent")
    assert tab.locator(".explorer-summary").inner_text().startswith("The file with source 0 did not load:")
    tab.unroute("**/part-0.js")
    tab.get_by_role("button", name="Go", exact=True).click()
    summary_of(tab, 0)  # the next try asks again
    place.close()


@pytest.fixture(scope="module")
def odd_site(odd_store, tmp_path_factory):
    """The page alone, about the odd store, built by the project's own tool."""
    folder = tmp_path_factory.mktemp("odd-site")
    book = folder / "book"
    book.mkdir()
    (book / "reference").mkdir()
    for name in ("_config.yml", "_ext", "_static", "reference/references.bib", "reference/inventories"):
        (book / name).symlink_to(ROOT / name)
    (book / "_toc.yml").write_text("format: jb-book\nroot: index\n")
    (book / "index.md").write_text(BOOK)
    explorer.make(book / "explorer_data", str(odd_store))
    script = (
        "import sys; from pathlib import Path; import build_book as b; f = Path(sys.argv[1]);"
        "sys.exit(not b.build_site(f / 'book', f / 'html'))"
    )
    built = subprocess.run(
        [sys.executable, "-c", script, folder],
        cwd=ROOT / "tools",
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return folder / "html"


@needs_chromium
def test_hostile_text_of_a_store_does_not_run(odd_site, chromium):
    with opened(chromium, (odd_site / "index.html").as_uri()) as tab:
        tab.locator(".explorer-columns button").first.click()
        assert tab.locator(".explorer-definition").first.inner_text() == EVIL
        assert EVIL in tab.locator("blockquote").inner_text().replace("’", "'").replace("‘", "'")
        assert tab.evaluate("window.hacked") is None
        assert tab.locator(".explorer img, blockquote img").count() == 0
        assert "This store has no redshifts" in tab.locator("figcaption").all_inner_texts()[1]
        assert tab.locator("[data-range]").count() == 4  # a colour is not asked for twice
        tab.fill("[name=id]", "66")
        tab.keyboard.press("Enter")
        assert "g − r" in summary_of(tab, 66)
