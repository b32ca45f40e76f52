"""The home page's picture: the light curve of one source of the store that the book reads.

Drawn for the light and for the dark theme, and once as the picture that social networks show.
"""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from astropy.time import Time
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import agn_helpers as agn

# Ink, rules, and how much white is mixed into the bands' colours, which are made for white paper.
THEMES = {"light": ("#1c2733", "#d5dde5", 0.0), "dark": ("#dde5ec", "#33414f", 0.4)}
CANDIDATES = 60  # the most variable of the first ones in the store


def choose(store: agn.TrainingSet) -> pd.DataFrame:
    """A light curve whose variability one can see: large scatter, many epochs, small errors."""
    best, chosen = -1.0, pd.DataFrame()
    for train_id in store.light_curve_ids()[:CANDIDATES]:
        frame = store.light_curve(int(train_id))
        g = frame[(frame["band"] == "g") & frame["mag"].notna()]
        if len(g) < 10:
            continue
        low, high = np.percentile(g["mag"], [10, 90])
        score = (high - low) / (0.05 + g["magerr"].median()) * np.sqrt(len(g))
        if score > best:
            best, chosen = score, frame
    return chosen


def draw(frame: pd.DataFrame, ink: str, rule: str, white: float, size: tuple[float, float]) -> Figure:
    """The five bands against the year."""
    figure, ax = plt.subplots(figsize=size, layout="constrained")
    figure.patch.set_alpha(0)
    ax.patch.set_alpha(0)
    for band in agn.BANDS:
        part = frame[(frame["band"] == band) & frame["mag"].notna() & (frame["magerr"] < 0.3)]
        year = Time(part["mjd"].to_numpy(), format="mjd").decimalyear
        ax.plot(
            year,
            part["mag"],
            agn.BAND_MARKERS[band],
            color=(1 - white) * np.array(to_rgb(agn.BAND_COLOURS[band])) + white,
            markersize=6,
            alpha=0.85,
            markeredgewidth=0,
            label=band,
        )
    # The main body of the points; a few outliers would make everything else flat.
    bright, faint = np.nanpercentile(frame["mag"], [0.5, 99.5])
    ax.set_ylim(faint + 0.15, bright - 0.15)
    ax.set_xlabel("year", color=ink)
    ax.set_ylabel("brightness (mag)", color=ink)
    ax.tick_params(colors=ink)
    ax.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    ax.grid(color=rule, linewidth=0.6)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(rule)
    ax.legend(ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False,
              labelcolor=ink, handletextpad=0.1, columnspacing=1.2)  # fmt: skip
    return figure


def make(folder: Path, location: str | None = None) -> None:
    """Draw the pictures into a folder; a file that would not change is left alone.

    Parameters
    ----------
    folder : Path
        Where `home-light.svg`, `home-dark.svg` and `social.png` go.
    location : str, optional
        The store to read; without it, the sample store.
    """
    with agn.open_training_set(location) as store:
        frame = choose(store)
    pictures = {}
    # Text as text, so that the reader's own font is used; a fixed salt, so that bytes repeat.
    style = {"svg.fonttype": "none", "svg.hashsalt": "agn", "font.size": 11,
             "font.family": "sans-serif"}  # fmt: skip
    with plt.style.context("default"), plt.rc_context({"backend": "agg"}):
        for theme, colours in THEMES.items():
            file = io.BytesIO()
            with plt.rc_context(style):
                figure = draw(frame, *colours, size=(5.6, 3.9))
                figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
            plt.close(figure)
            pictures[f"home-{theme}.svg"] = file.getvalue()
        file = io.BytesIO()
        figure = draw(frame, *THEMES["light"], size=(12, 6.3))
        figure.savefig(file, format="png", dpi=100, facecolor="white")
        plt.close(figure)
        pictures["social.png"] = file.getvalue()
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in pictures.items():
        target = folder / name
        if not target.exists() or target.read_bytes() != content:
            target.write_bytes(content)
