"""The data of the page "Explorer": what its plots and its light curves are drawn from.

Written as scripts, because a page that is opened from a folder may load scripts and nothing else.
The same store gives the same bytes; of a large store, sources evenly spread over its catalogue.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import home_figure
import numpy as np
import numpy.typing as npt
import pandas as pd
from bokeh.core.json_encoder import serialize_json
from bokeh.document import Document
from bokeh.models import (
    BoxSelectTool,
    BoxZoomTool,
    ColumnDataSource,
    CustomJSTickFormatter,
    HoverTool,
    TapTool,
)
from bokeh.plotting import figure

import agn_helpers as agn

MOST_SOURCES = 1000
MOST_BYTES = 12_000_000  # of all scripts together
IN_ONE_PART = 20  # sources whose light curves and rows are loaded together
COLOUR = "g − r (mag)"
LIGHT_CURVE = ("mjd", "mag", "magerr")  # what is shown of it
MARKERS = {"v": "inverted_triangle", "s": "square", "o": "circle", "D": "diamond", "^": "triangle"}
INK, RULE, ACCENT, PALE = "#1c2733", "#e3e8ee", "#b35c00", "#c3ccd6"
TIP = f"<div style='color: {INK}'>{{}}</div>"  # numbers and our own words only: Bokeh makes HTML of it

Numbers = npt.NDArray[np.float64]


def chosen_rows(n: int, most: int) -> npt.NDArray[np.int64]:
    """Numbers of at most `most` of `n` rows, evenly spread, the first and the last among them."""
    if n <= most:
        return np.arange(n)
    return np.round(np.linspace(0, n - 1, most)).astype(np.int64)


def cut_of(ra: Numbers) -> float:
    """Right ascension (deg) at which to cut the circle: the middle of the widest empty stretch.

    360 where the sources lie in one piece already. Stripe 82 goes through 0: cut there, it is two.
    """
    angles = np.unique(ra[np.isfinite(ra)])
    if len(angles) < 2:
        return 360.0
    gaps = np.diff(angles)
    at = int(gaps.argmax())
    if gaps[at] <= angles[0] + 360 - angles[-1]:
        return 360.0
    return round(float(angles[at] + gaps[at] / 2), 3)


def numbers(catalog: pd.DataFrame, name: str) -> Numbers:
    """A column as floats, NaN where it is missing; all NaN where the store has no such column."""
    if name not in catalog or not pd.api.types.is_numeric_dtype(catalog[name]):
        return np.full(len(catalog), np.nan)
    return catalog[name].to_numpy(np.float64, na_value=np.nan)


def as_list(values: Numbers) -> list[float | None]:
    """Numbers for JSON, which knows no NaN."""
    return [v if np.isfinite(v) else None for v in values.tolist()]


def axis(name: str, values: Numbers, places: int) -> dict[str, Any]:
    """One axis of a plot."""
    return {"name": name, "values": as_list(values), "places": places}


def plots_of(catalog: pd.DataFrame) -> dict[str, Any]:
    """What the two plots show: sky and redshift, or colours where the store lacks them."""
    mag = {band: numbers(catalog, f"psfmag_{band}") for band in agn.BANDS}
    with np.errstate(invalid="ignore"):
        colour = mag["g"] - mag["r"]
        ra, dec, z = (numbers(catalog, c) for c in ("ra_sdss", "dec_sdss", "z"))
        first = {
            "title": "On the sky",
            "text": "Right ascension grows to the left, as on the sky seen from Earth. "
            "Declination is stretched.",
            "x": axis("RA (deg)", ra, 4) | {"cut": cut_of(ra), "flip": True},
            "y": axis("Dec (deg)", dec, 4),
        }
        if not np.isfinite(ra + dec).any():
            first = {
                "title": "In two colours",
                "text": "This store has no positions on the sky: two colours instead.",
                "x": axis(COLOUR, colour, 2),
                "y": axis("u − g (mag)", mag["u"] - mag["g"], 2),
            }
        second = {"title": "In redshift and magnitude", "text": "", "x": axis("Redshift", z, 3)}
        if not np.isfinite(z).any():
            second = {
                "title": "In colour and magnitude",
                "text": "This store has no redshifts: a colour instead.",
                "x": axis(COLOUR, colour, 2),
            }
    second["text"] = f"{second['text']} Magnitudes grow downwards: bright sources are at the top.".strip()
    return {"first": first, "second": second, "mag": {b: as_list(m) for b, m in mag.items()}}


def text_of(value: Any) -> str | None:
    """A value of the catalogue with every digit that the store has; None where it is missing."""
    return None if pd.isna(value) else str(value)


def light_curve(store: agn.TrainingSet, train_id: int) -> dict[str, Any]:
    """Measurements that were not rejected, band by band in time order, and how many epochs there are."""
    frame = store.light_curve(train_id)
    good = frame[frame["mag"].notna() & frame["mjd"].notna()]
    bands = {
        str(band): [as_list(part[name].to_numpy(np.float64)) for name in LIGHT_CURVE]
        for band, part in good.groupby("band", observed=True, sort=False)
    }
    return {"epochs": int(frame["epoch"].nunique()), "rejected": len(frame) - len(good), "bands": bands}


def drawings() -> dict[str, Any]:
    """The three empty plots as Bokeh writes them, with names of their own instead of running numbers."""
    document = Document()
    source = ColumnDataSource({"x": [], "y": [], "x2": [], "y2": [], "id": [], "epochs": []}, name="shown")
    every = ColumnDataSource({"x": [], "y": [], "x2": [], "y2": []}, name="every")
    picked = ColumnDataSource({"x": [], "y": [], "x2": [], "y2": []}, name="picked")
    for name, x, y in (("first", "x", "y"), ("second", "x2", "y2")):
        plot = empty_figure(name, 300)
        plot.scatter(x, y, source=every, size=3, color=PALE)
        points = plot.scatter(
            x, y, source=source, name=f"{name}-points", size=7, line_color="white", line_width=0.5,
            fill_color="#0b5394", fill_alpha=0.75, selection_fill_color=ACCENT, selection_fill_alpha=0.95,
            nonselection_fill_alpha=0.15, nonselection_line_alpha=0.15, hover_fill_color=ACCENT,
        )  # fmt: skip
        plot.scatter(x, y, source=picked, size=17, fill_color=None, line_color="#7a3e00", line_width=3)
        plot.scatter(x, y, source=picked, size=7, color="#7a3e00", marker="diamond")
        select = BoxSelectTool(renderers=[points])
        tips = TIP.format("train_id @id: @epochs epochs")
        plot.add_tools(select, TapTool(renderers=[points]), HoverTool(renderers=[points], tooltips=tips))
        plot.toolbar.active_drag = select
        document.add_root(plot)
    document.roots[0].below[0].formatter = CustomJSTickFormatter(
        code="return String(Number(((tick % 360) + 360) % 360).toFixed(6) * 1)", name="angle"
    )
    plot = empty_figure("light-curve", 380)
    points = []
    for band in agn.BANDS:
        empty: dict[str, list[float]] = {n: [] for n in (*LIGHT_CURVE, "low", "high", "band")}
        data = ColumnDataSource(empty, name=f"curve-{band}")
        colour = agn.BAND_COLOURS[band]
        plot.segment("mjd", "low", "mjd", "high", source=data, color=colour, alpha=0.6, name=f"bars-{band}")
        points.append(
            plot.scatter(
                "mjd",
                "mag",
                source=data,
                size=10 if band == "i" else 7,  # a diamond is slender
                marker=MARKERS[agn.BAND_MARKERS[band]],
                color=colour,
                alpha=0.9,
                name=f"points-{band}",
            )
        )
    tips = TIP.format("@band @mag{0.000} ± @magerr{0.000} mag, MJD @mjd{0.00}")
    zoom = BoxZoomTool()
    plot.add_tools(zoom, HoverTool(renderers=points, tooltips=tips))
    plot.toolbar.active_drag = zoom
    plot.xaxis.axis_label = "MJD (days)"
    plot.yaxis.axis_label = "PSF magnitude (mag)"
    plot.xaxis.formatter.use_scientific = False
    document.add_root(plot)
    text = serialize_json(document.to_json())
    names: dict[str, str] = {}
    text = re.sub(r'"(p\d+)"', lambda m: f'"{names.setdefault(m[1], f"b{len(names)}")}"', text)
    drawn: dict[str, Any] = json.loads(text)
    return drawn


def empty_figure(name: str, height: int) -> figure:
    """A white figure without tools, as wide as the page gives it room."""
    plot = figure(name=name, height=height, sizing_mode="stretch_width", toolbar_location=None, tools="",
                  background_fill_color="#ffffff", border_fill_color="#ffffff", outline_line_color=None,
                  min_border_right=12, x_range=(0, 1), y_range=(0, 1))  # fmt: skip
    for line in plot.axis:
        line.axis_label_text_font_style = "normal"
        line.axis_label_text_color = line.major_label_text_color = INK
        line.axis_label_text_font_size = "14px"
        line.major_label_text_font_size = "13px"
        line.axis_line_color = line.major_tick_line_color = PALE
        line.minor_tick_line_color = None
    plot.grid.grid_line_color = RULE
    return plot


def script(call: str, *arguments: Any) -> bytes:
    """A script that hands data to the page; no text in it can end the script or begin another."""
    words = ",".join(json.dumps(a, allow_nan=False, separators=(",", ":")) for a in arguments)
    words = words.replace("<", "\\u003c")
    return f"{call}({words});\n".encode("ascii")


def export(store: agn.TrainingSet, most: int = MOST_SOURCES) -> dict[str, bytes]:
    """Files for the page by name: `index.json`, which the build reads, and scripts for the browser.

    Parameters
    ----------
    store : TrainingSet
        The store to show.
    most : int
        Sources at most.
    """
    definitions = store.column_definitions()
    whole = store.catalog()
    catalog = whole.iloc[chosen_rows(len(whole), most)]
    with_curve = set(store.light_curve_ids().tolist())
    nothing: dict[str, Any] = {"epochs": 0, "rejected": 0, "bands": {}}
    ids = [int(i) for i in catalog.index]
    curves = [light_curve(store, i) if i in with_curve else nothing for i in ids]
    columns = catalog.columns.tolist()
    rows = [[text_of(v) for v in row] for row in zip(*(catalog[c] for c in columns), strict=True)]
    favourite = home_figure.choose(store)
    start = int(favourite["train_id"].iloc[0]) if len(favourite) else -1
    index = {
        "total": len(whole),
        "limits": [MOST_SOURCES, MOST_BYTES],
        "synthetic": str(store.attrs["synthetic"]) if "synthetic" in store.attrs else None,
        "start": str(start if start in ids else ids[0]) if ids else None,
        "inOnePart": IN_ONE_PART,
        "ids": [str(i) for i in ids],
        "epochs": [curve["epochs"] for curve in curves],
        "plots": plots_of(catalog),
        "columns": [
            [name, *(None if pd.isna(v) else str(v) for v in definitions.loc[name, ["unit", "definition"]])]
            for name in columns
        ],
        "markers": agn.BAND_MARKERS,
        "colours": agn.BAND_COLOURS,
    }
    files = {
        "index.json": json.dumps(index, allow_nan=False).encode("ascii"),
        "index.js": script("agnExplorer.index", index, drawings()),
    }
    for number, first in enumerate(range(0, len(ids), IN_ONE_PART)):
        part = slice(first, first + IN_ONE_PART)
        both = [{**curve, "row": row} for curve, row in zip(curves[part], rows[part], strict=True)]
        files[f"part-{number}.js"] = script("agnExplorer.part", number, both)
    return files


def bounded(store: agn.TrainingSet) -> dict[str, bytes]:
    """What `export` gives for as many sources as the limits allow.

    Raises
    ------
    agn_helpers.LimitError
        If one source alone is more than a page can carry.
    """
    most = MOST_SOURCES
    while True:
        files = export(store, most)
        size = sum(map(len, files.values()))
        if size <= MOST_BYTES:
            return files
        if most == 1:
            msg = f"{store.location}: one source takes {size} bytes. The explorer carries {MOST_BYTES}."
            raise agn.LimitError(msg)
        # Half at least, so that this ends; sources may be of very different size.
        most = max(1, min(most // 2, len(store.catalog(columns=[])) * MOST_BYTES // size))


def make(folder: Path, location: str | None = None) -> None:
    """Write the page's data into a folder of its own; a file that would not change is left alone.

    Parameters
    ----------
    folder : Path
        Where the files go; others in it are removed.
    location : str, optional
        The store to read; without it, the sample store.
    """
    with agn.open_training_set(location) as store:
        files = bounded(store)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        target = folder / name
        if not target.exists() or target.read_bytes() != content:
            temporary = target.with_name(f"{name}.part")
            temporary.write_bytes(content)
            os.replace(temporary, target)
    for other in folder.iterdir():
        if other.name not in files:
            other.unlink()
