"""Compare the sample store with the real Stripe 82 tables, and write what was found as JSON.

    python benchmarks/compare_sample.py [FOLDER] [--n 3000] [--out benchmarks/sample_comparison.json]

FOLDER (default ``../shared/data/stripe82``) holds ``DB_QSO_S82.dat.gz`` (MacLeod et al. 2012, ApJ 753, 106),
``s82drw_{u,g,r,i,z}.dat.gz`` (MacLeod et al. 2010, ApJ 721, 1014) and ``rrlyrae/*.csv`` (Sesar et al. 2010,
ApJ 708, 717). The figure per quantity is the two-sample Kolmogorov-Smirnov distance: the largest difference
between the two cumulative distributions, 0 where they are equal, 1 where they do not overlap. Timescales and
amplitudes are compared after the same fit: the sample's light curves are fitted here as the real ones were.
"""

import argparse
import itertools
import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from agn_helpers import BANDS, open_training_set
from agn_helpers.sample import SAMPLE_SEED, build_sample_store, sample_truth

ROOT = Path(__file__).resolve().parent.parent
LEVELS = [2.5, 16, 50, 84, 97.5]
EXTINCTION = dict(zip(BANDS, [1.0, 0.736, 0.534, 0.405, 0.287], strict=True))
LOG_TAU, LOG_SF = np.arange(-1.0, 5.01, 0.1), np.arange(-2.2, 0.61, 0.05)


def ks_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the two-sample Kolmogorov-Smirnov distance."""
    a, b = np.sort(a), np.sort(b)
    x = np.concatenate([a, b])
    below_a = np.searchsorted(a, x, side="right") / a.size
    return float(np.max(np.abs(below_a - np.searchsorted(b, x, side="right") / b.size)))


def compare(real: Any, sample: Any) -> dict[str, Any]:
    """Return sizes, quantiles and distance of two sets of values."""
    a, b = (np.asarray(v, dtype=float) for v in (real, sample))
    a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    return {
        "n_real": a.size,
        "n_sample": b.size,
        "ks": round(ks_distance(a, b), 3),
        "real": [round(float(v), 3) for v in np.percentile(a, LEVELS)],
        "sample": [round(float(v), 3) for v in np.percentile(b, LEVELS)],
    }


def fit_walks(curves: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> pd.DataFrame:
    """Return the most probable log10 tau (d) and log10 SF_inf (mag) of each light curve.

    Likelihood of a damped random walk with white noise and a free mean (Kelly et al. 2009, eq. 6-12), on a
    grid flat in both logarithms (the prior of Kozlowski et al. 2010 and MacLeod et al. 2010). NaN where the
    maximum lies on the grid's edge: no fit.
    """
    tau, variance = (g[None] for g in np.meshgrid(10**LOG_TAU, 10 ** (2 * LOG_SF) / 2, indexing="ij"))
    length = max(len(t) for t, _, _ in curves)
    t, y, e = (np.full((len(curves), length), np.nan) for _ in range(3))
    for k, curve in enumerate(curves):
        for table, values in zip((t, y, e), curve, strict=True):
            table[k, : len(values)] = values
    y = y - np.nanmean(y, axis=1, keepdims=True)
    shape = (len(curves), tau.shape[1], tau.shape[2])
    x, q, p = np.zeros(shape), np.zeros(shape), np.broadcast_to(variance, shape)
    logs, yy, yq, qq = (np.zeros(shape) for _ in range(4))
    for k in range(length):
        on = np.isfinite(t[:, k])[:, None, None]
        if k:
            a = np.exp(-np.nan_to_num(t[:, k] - t[:, k - 1], nan=0.0)[:, None, None] / tau)
            x, q, p = a * x, a * q, variance + a**2 * (p - variance)
        noise = np.nan_to_num(e[:, k], nan=1.0)[:, None, None] ** 2
        s = p + noise
        ry, rq = np.nan_to_num(y[:, k])[:, None, None] - x, 1.0 - q  # the same filter sees data and mean
        logs, yy = logs + on * np.log(s), yy + on * ry**2 / s
        yq, qq = yq + on * ry * rq / s, qq + on * rq**2 / s
        gain = on * p / s
        x, q, p = x + gain * ry, q + gain * rq, p * (1.0 - gain)
    chance = -0.5 * (logs + np.log(qq) + yy - yq**2 / qq)
    i, j = np.unravel_index(chance.reshape(len(curves), -1).argmax(axis=1), shape[1:])
    edge = (i == 0) | (i == len(LOG_TAU) - 1) | (j == 0) | (j == len(LOG_SF) - 1)
    return pd.DataFrame(
        {"log_tau": np.where(edge, np.nan, LOG_TAU[i]), "log_sf": np.where(edge, np.nan, LOG_SF[j])}
    )


def read_real(folder: Path) -> tuple[pd.DataFrame, dict[str, pd.DataFrame], pd.DataFrame]:
    """Return the quasar catalogue, the fits per band, and the RR Lyrae measurements."""
    names = [
        "id", "ra", "dec", "sdr5", "m_i", "m_i_corr", "z", "mass", "lum",
        "psfmag_u", "psfmag_g", "psfmag_r", "psfmag_i", "psfmag_z", "a_u",
    ]  # fmt: skip
    quasars = pd.read_csv(folder / "DB_QSO_S82.dat.gz", comment="#", sep=r"\s+", header=None, names=names)
    good = (quasars[[f"psfmag_{b}" for b in BANDS]] > 0).all(axis=1) & (quasars["a_u"] > 0)
    names = [
        "sdr5", "ra", "dec", "z", "m_i", "mass", "chi2", "log_tau", "log_hat", "t0", "t1",
        "s0", "s1", "edge", "p0", "p1", "p2", "mu", "npts",
    ]  # fmt: skip
    fits = {}
    for band in BANDS:
        path = folder / f"s82drw_{band}.dat.gz"
        table = pd.read_csv(path, comment="#", sep=r"\s+", header=None, names=names)
        fitted = (table["edge"] == 0) & (table["log_tau"] > -9) & table["log_tau"].between(-0.9, 4.9)
        table["log_sf"] = table["log_hat"] + 0.5 * (table["log_tau"] - np.log10(365.25))
        table.loc[~fitted, ["log_tau", "log_sf"]] = np.nan
        fits[band] = table
    stars = pd.concat([pd.read_csv(p).assign(star=p.stem) for p in sorted(folder.glob("rrlyrae/*.csv"))])
    return quasars[good], fits, stars[(stars["magerr"] < 5) & (stars["mag"] < 30)]


def run(folder: Path, n: int) -> dict[str, Any]:
    """Build a sample and compare it; return everything that the JSON file holds."""
    quasars, fits, stars = read_real(folder)
    with (
        tempfile.TemporaryDirectory() as scratch,
        open_training_set(build_sample_store(Path(scratch) / "s.zarr.zip", n=n)) as store,
    ):
        catalog = store.catalog()
        curves = {i: store.raw_light_curve(int(i)) for i in catalog.index}
    truth = sample_truth(n=n)
    catalog = catalog.iloc[2:]  # the two published rows are no part of the invention
    curves = {i: c for i, c in curves.items() if i in catalog.index}
    out: dict[str, Any] = {}
    east = [(v["ra"] + 180) % 360 - 180 for v in (quasars, catalog.rename(columns={"ra_sdss": "ra"}))]
    out["right ascension (deg)"] = compare(*east)
    out["redshift"] = compare(quasars["z"], catalog["z"])
    out["extinction A_u (mag)"] = compare(quasars["a_u"], catalog["extinction_u"])
    real = {b: quasars[f"psfmag_{b}"] - EXTINCTION[b] * quasars["a_u"] for b in BANDS}
    for b in BANDS:
        out[f"magnitude {b} (mag)"] = compare(quasars[f"psfmag_{b}"], catalog[f"psfmag_{b}"])
    for blue, red in itertools.pairwise(BANDS):
        for low, high in [(0.3, 0.8), (0.8, 1.3), (1.3, 1.8), (1.8, 2.3), (2.3, 3.0), (3.0, 4.5)]:
            here, there = (t["z"].between(low, high) for t in (quasars, catalog))
            color = catalog[f"dered_{blue}"] - catalog[f"dered_{red}"]
            name = f"colour {blue}-{red}, redshift {low} to {high} (mag)"
            out[name] = compare((real[blue] - real[red])[here], color[there])
    for b in BANDS:
        good = [c[c[f"psfmag_{b}"] > -99] for c in curves.values()]
        out[f"epochs per source, {b}"] = compare(fits[b]["npts"], [len(c) for c in good])
        # Planted errors of calibration are left out: the fit knows of none.
        clean = [np.delete(c, [r for r, o in truth["outliers"][i] if o == b]) for i, c in curves.items()]
        clean = [c[c[f"psfmag_{b}"] > -99] for c in clean]
        sorted_ = [c[np.argsort(c[f"mjd_{b}"])] for c in clean if len(c) >= 10]
        data = [(c[f"mjd_{b}"], c[f"psfmag_{b}"], c[f"psfmagerr_{b}"]) for c in sorted_]
        parts = [fit_walks(data[k : k + 50]) for k in range(0, min(len(data), 800), 50)]
        walks = pd.concat(parts)
        out[f"log10 tau, observed frame, fitted in {b} (d)"] = compare(fits[b]["log_tau"], walks["log_tau"])
        out[f"log10 SF_inf, fitted in {b} (mag)"] = compare(fits[b]["log_sf"], walks["log_sf"])
        hat = [t["log_sf"] - 0.5 * (t["log_tau"] - np.log10(365.25)) for t in (fits[b], walks)]
        out[f"log10 sigma_hat, fitted in {b} (mag / sqrt(yr))"] = compare(*hat)
        star, rows = stars[stars["band"] == b], np.concatenate(good)
        for low in {"u": (18, 20, 21), "z": (17, 18, 19, 20)}.get(b, (17, 18.5, 20)):
            mags = star["mag"], rows[f"psfmag_{b}"]
            errors = star["magerr"], np.round(rows[f"psfmagerr_{b}"], 3)  # as the real table prints
            picked = [e[(m > low) & (m < low + 0.3)] for m, e in zip(mags, errors, strict=True)]
            out[f"single-epoch error, {b} = {low} to {low + 0.3} (mag)"] = compare(*picked)
    rows = np.concatenate(list(curves.values()))
    r = stars[stars["band"] == "r"]
    out["time of observation (MJD)"] = compare(r["time"], rows["mjd_r"])
    out["time of day (UT, d)"] = compare(r["time"] % 1, rows["mjd_r"] % 1)
    nights = [r["time"].astype(int).nunique(), np.unique(rows["mjd_r"].astype(int)).size]
    return {"quantities": out, "nights": dict(zip(["real", "sample"], nights, strict=True))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", default="../shared/data/stripe82", help="the real tables")
    parser.add_argument("--n", type=int, default=3000, help="quasars in the sample")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "sample_comparison.json")
    args = parser.parse_args()
    folder = ROOT / args.folder
    if not (folder / "DB_QSO_S82.dat.gz").is_file():
        sys.exit(f"No Stripe 82 tables in {args.folder!r}; pass the folder that holds DB_QSO_S82.dat.gz.")
    result = {
        "command": f"python benchmarks/compare_sample.py {args.folder} --n {args.n}",
        "n": args.n,
        "seed": SAMPLE_SEED,
        "levels_of_quantiles_in_percent": LEVELS,
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        **run(folder, args.n),
    }
    # One line per quantity, so that a change of one is seen as one.
    lines = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in result.pop("quantities").items())
    text = json.dumps(result, indent=1).removesuffix("\n}") + ',\n "quantities": {\n' + lines + "\n }\n}\n"
    args.out.write_text(text, encoding="utf-8")
    for name, row in json.loads(text)["quantities"].items():
        print(f"{row['ks']:6.3f}  {name:55s} real {row['real']}  sample {row['sample']}")


if __name__ == "__main__":
    main()
