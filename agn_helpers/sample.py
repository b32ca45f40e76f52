"""The sample store: invented quasars on Stripe 82, the same bytes on every machine.

The first two catalogue rows are the published ones; everything else is drawn from
``numpy.random.default_rng([seed, train_id, stream])``, so that a quasar does not depend on how many others
there are, nor on who builds it. The numbers follow published statistics (each named where it stands), never
a published row. `sample_truth` tells what a reader's analysis should find again.
"""

import dataclasses
import functools
import itertools
import json
import math
from base64 import b64encode
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import platformdirs
from numcodecs import Blosc
from tqdm import tqdm

from agn_helpers.catalog import AB_CORRECTION, SOFTENING, magnitude_to_flux, published_record
from agn_helpers.columns import BANDS, MISSING_INTEGER, MISSING_MAGNITUDE, edition_2020, load_json
from agn_helpers.errors import LimitError, TargetExistsError, UnknownTrainIdError, near
from agn_helpers.files import AnyPath, Place, write_zip

__all__ = ["SAMPLE_SEED", "build_sample_store", "damped_random_walk", "sample_store", "sample_truth"]

Floats = npt.NDArray[np.float64]

SAMPLE_SEED = 82
"""Seed of the sample that everybody gets who asks for none."""

_VERSION = 3  # raise it whenever a byte of the sample changes: it names the file in the cache
CATALOG_CHUNK = 400  # rows

_WAVELENGTH = np.array([3551.0, 4686.0, 6166.0, 7480.0, 8932.0])  # Angstrom; Fukugita et al. 1996
_WIDTH = np.array([560.0, 1390.0, 1370.0, 1530.0, 950.0])  # Angstrom; Gunn et al. 1998
_SOFTENING = np.array(list(SOFTENING.values()))
EXTINCTION = np.array([1.0, 0.736, 0.534, 0.405, 0.287])  # A_b / A_u; MacLeod et al. 2012
_MAG = 2.5 / math.log(10.0)

# Median photometric error of RR Lyrae stars (Sesar et al. 2010): the magnitudes at which the sky gives
# 0.1 mag and photon noise 0.01 mag, the floor, and how often a band has no measurement.
_SKY_MAG = np.array([20.99, 22.35, 21.89, 21.33, 19.86])
_PHOTON_MAG = np.array([17.18, 18.58, 18.53, 18.46, 16.99])
_FLOOR = np.array([0.005, 0.003, 0.0035, 0.004, 0.005])
_REJECTED = np.array([0.045, 0.018, 0.003, 0.006, 0.018])

_RED_TAIL = np.array([0.88, 0.88, 0.6, 0.25])  # colours reach further to the red than a Gaussian
_FOCAL_PLANE = np.array([2.0, 4.0, 0.0, 1.0, 3.0])  # place of u, g, r, i, z: a star crosses r, i, u, z, g
_CROSSING = 71.72  # seconds from one filter to the next; Gunn et al. 1998
_LONGITUDE, _SIN_LAT, _COS_LAT = -105.8203, math.sin(0.572132), math.cos(0.572132)  # Apache Point

# Refraction per tan(zenith distance) of a star-like spectrum is calibrated away. What is left of a quasar's:
# its power law (arcsec towards the zenith, a guess), and lines that pull a band's mean wavelength.
_DCR_CONTINUUM = np.array([0.045, 0.015, 0.0, -0.004, -0.006])
_DCR_SLOPE = np.array([9.8, 4.5, 1.9, 1.1, 0.7]) * 1e-4  # arcsec per Angstrom; air of Apache Point


@functools.cache
def _statistics(name: str) -> Floats:
    """Return a table of ``sample_statistics.json``, which names its source."""
    values = np.array(load_json("sample_statistics.json")[name], dtype=np.float64)
    values.flags.writeable = False
    return values


@dataclasses.dataclass(frozen=True)
class _Source:
    """One quasar before it is observed: its catalogue row, its walk, and when it is looked at."""

    row: dict[str, Any]
    mean: Floats  # mag, per band
    tau: float  # d, observed frame
    sf_inf: Floats  # mag, per band
    nights: npt.NDArray[np.int64]  # rows of the observing log, in stored order
    rejected: npt.NDArray[np.bool_]  # (epochs, bands)
    outlier: Floats  # (epochs, bands), mag


def damped_random_walk(t: npt.ArrayLike, tau: float, sf_inf: float, rng: np.random.Generator) -> Floats:
    """Draw a damped random walk (Ornstein-Uhlenbeck process) of mean zero, exactly, at any times.

    Between two times ``dt`` apart the walk forgets and is renewed::

        x(t + dt) = x(t) exp(-dt / tau) + s sqrt(1 - exp(-2 dt / tau)) e,    s = sf_inf / sqrt(2)

    with ``e`` standard normal (Kelly et al. 2009, ApJ 698, 895, eq. A4-A6; MacLeod et al. 2010, ApJ 721,
    1014, eq. 1-3). The structure function is ``sf_inf sqrt(1 - exp(-dt / tau))``.

    Parameters
    ----------
    t : array_like of float, shape (n,)
        Times in days, in any order.
    tau : float
        Damping timescale in days.
    sf_inf : float
        Structure function at long time lags, in magnitudes.
    rng : numpy.random.Generator
        Where chance comes from.

    Returns
    -------
    numpy.ndarray of float64, shape (n,)
        Deviation from the mean in magnitudes, in the order of `t`.

    Examples
    --------
    >>> walk = damped_random_walk(np.arange(20_000.0), 50.0, 0.2, np.random.default_rng(1))
    >>> bool(abs(walk.std() - 0.2 / np.sqrt(2)) < 0.02)
    True
    """
    times = np.asarray(t, dtype=np.float64)
    order = np.argsort(times, kind="stable")
    memory = np.exp(-np.diff(times[order], prepend=-np.inf) / tau)
    kicks = sf_inf / math.sqrt(2.0) * np.sqrt(1.0 - memory**2) * rng.standard_normal(times.size)
    x, walk = 0.0, np.empty_like(times)
    for place, m, kick in zip(order.tolist(), memory.tolist(), kicks.tolist(), strict=True):
        x = m * x + kick
        walk[place] = x
    return walk


def _train_ids(n: int) -> npt.NDArray[np.int64]:
    """Return the first `n` ids: 0, 3, 4, ... with gaps, as in the real set."""
    ids = np.arange(int(1.15 * n) + 40)
    keep = ids * 2654435761 % 2**32 > 0.1 * 2**32
    keep[[0, 3, 4, 10]] = True  # the published rows, and the key that text order puts second
    keep[[1, 2]] = False
    return ids[keep][:n]


def _observing_log(seed: int) -> Floats:
    """Return one row per night: MJD of midnight UT, hour angle of the scan (deg), strip (0 S, 1 N)."""
    rng = np.random.default_rng([seed, 0, 0])
    days = []
    for year, count, mean, scatter in _statistics("seasons").tolist():
        drawn = np.unique(np.round(mean + scatter * rng.standard_normal(3 * int(count))))
        start = 50814 + 365 * (year - 1998) + (year - 1997) // 4  # MJD of 1 January
        days.append(start - 1 + np.sort(drawn[np.argsort(rng.random(drawn.size))[: int(count)]]))
    day = np.concatenate(days)
    hour_angle = np.clip(16.0 * rng.standard_normal(day.size), -40.0, 40.0)
    return np.column_stack([day, hour_angle, rng.random(day.size) < 0.5])


def _fraction_of_day(ra: float, log: Floats) -> Floats:
    """Return when on each night (UT, days) the scan passes `ra`, from the sidereal time (Meeus, eq. 12.4)."""
    sidereal = 280.46061837 + 360.98564736629 * (log[:, 0] - 51544.5) + _LONGITUDE
    return np.asarray((ra + log[:, 1] - sidereal) % 360.0 / 360.98564736629)


def _distance_modulus(z: float) -> float:
    """Return the distance modulus for flat space, H0 = 70 km/s/Mpc, Omega_m = 0.3, as in MacLeod's tables."""
    grid = np.linspace(0.0, z, 201)
    inverse = 1.0 / np.sqrt(0.3 * (1.0 + grid) ** 3 + 0.7)
    integral = float(np.sum(inverse[1:] + inverse[:-1])) * (z / 400.0)
    return 5.0 * math.log10((1.0 + z) * 299792.458 / 70.0 * integral) + 25.0


def _variability(z: float, i_dered: float, rng: np.random.Generator) -> tuple[float, Floats]:
    """Return tau (d, observed frame) and SF_inf (mag) per band: MacLeod et al. 2010, eq. 7 and Table 1.

    The constant terms are theirs, 2.4 and -0.51, plus 0.32 and 0.16, and the scatter is ours: so that fits
    to the sample's light curves are distributed as their fits to the real ones.
    """
    m_i = i_dered - _distance_modulus(z) + 1.25 * math.log10(1.0 + z)
    n = rng.standard_normal(3)
    log_mass = 2.0 - 0.27 * m_i + (0.58 + 0.011 * m_i) * n[0]  # MacLeod et al. 2010, section 5
    rest = np.log10(_WAVELENGTH / (1.0 + z) / 4000.0)
    log_tau = 2.72 + 0.17 * rest[2] + 0.03 * (m_i + 23.0) + 0.21 * (log_mass - 9.0) + 0.4 * n[1]
    log_sf = -0.35 - 0.479 * rest + 0.131 * (m_i + 23.0) + 0.18 * (log_mass - 9.0)
    # The fits have a tighter SF_inf / sqrt(tau) than either: the two scatter together.
    return float(10.0**log_tau * (1.0 + z)), np.asarray(10.0 ** (log_sf + 0.15 * n[1] + 0.12 * n[2]))


def _flux_error(flux: Floats) -> Floats:
    """Return the median single-epoch error of a flux; both in units of a zero-magnitude source."""
    sky = 0.1 / _MAG * 10.0 ** (-0.4 * _SKY_MAG)
    photon = 1e-4 / _MAG**2 * 10.0 ** (-0.4 * _PHOTON_MAG) * np.maximum(flux, 0.0)
    return np.asarray(np.sqrt(sky**2 + photon + (_FLOOR / _MAG * flux) ** 2))


def _flux(mag: Floats) -> Floats:
    return np.asarray(2.0 * _SOFTENING * np.sinh(-mag / _MAG - np.log(_SOFTENING)))


def _magnitude(flux: Floats) -> Floats:
    return np.asarray(-_MAG * (np.arcsinh(flux / (2.0 * _SOFTENING)) + np.log(_SOFTENING)))


def _magnitude_error(flux: Floats, error: Floats) -> Floats:
    return np.asarray(_MAG * error / np.hypot(flux, 2.0 * _SOFTENING))


def designation(ra: float, dec: float) -> str:
    """Return the SDSS name of a position; it cuts digits off and never rounds (IAU convention)."""
    seconds, arcsec = round(ra * 1e6) * 24 // 1000, abs(round(dec * 1e6)) * 36 // 1000
    return (
        f"{seconds // 360000:02d}{seconds // 6000 % 60:02d}{seconds % 6000 // 100:02d}.{seconds % 100:02d}"
        f"{'-' if dec < 0 else '+'}{arcsec // 36000:02d}{arcsec // 600 % 60:02d}"
        f"{arcsec % 600 // 10:02d}.{arcsec % 10}"
    )


def _healpix12(ra: float, dec: float) -> int:
    """Return the nested HEALPix number of level 12 near the equator (Gorski et al. 2005, ApJ 622, 759)."""
    side = 4096
    along, across = side * (0.5 + ra / 90.0), side * 0.75 * math.sin(math.radians(dec))
    up, down = int(along - across), int(along + across)
    face = up // side
    if face == down // side:
        face |= 4
    elif face > down // side:
        face = down // side + 8
    x, y = down % side, side - up % side - 1
    bits = sum(((x >> k & 1) << 2 * k) | ((y >> k & 1) << 2 * k + 1) for k in range(12))
    return face * side * side + bits


def _published_row(train_id: int) -> dict[str, Any] | None:
    rows = published_record()
    match = rows[rows["train_id"] == train_id]
    return dict(zip(match.dtype.names or (), match[0].item(), strict=True)) if match.size else None


def _by_band(name: str, values: Iterable[float], digits: int = 6) -> dict[str, float]:
    return {name.format(b): round(float(v), digits) for b, v in zip(BANDS, values, strict=True)}


def _invented_row(train_id: int, rng: np.random.Generator) -> tuple[dict[str, Any], Floats]:
    """Return a catalogue row without its ``lcN``, and the mean magnitude per band."""
    u, n = rng.random(24), rng.standard_normal(40)
    by_ra = _statistics("by_ra").T
    share = np.concatenate([[0.0], np.cumsum(by_ra[1])]) / by_ra[1].sum()
    east = float(np.interp(u[0], share, np.arange(-60.0, 61.0, 10.0)))
    dec = round(2.532 * float(u[1]) - 1.266, 6)
    z = round(float(np.interp(100.0 * u[2], *_statistics("redshift").T)), 6)
    by_z = _statistics("by_redshift") / 100.0
    place = float(np.interp(z, by_z[:, 0], np.arange(len(by_z))))
    low = min(int(place), len(by_z) - 2)
    bins = by_z[low] * (low + 1 - place) + by_z[low + 1] * (place - low)
    q = bins[1:6]
    steps = [q[0] - 1.1 * (q[1] - q[0]), *q, q[4] + 0.9 * (q[4] - q[3])]
    i_dered = float(np.interp(n[0], [-3.3, -2.054, -0.994, 0.0, 0.994, 2.054, 3.0], steps))
    score = 0.53 * n[1] + 0.85 * n[2:6]
    score = score + _RED_TAIL * np.maximum(score - 1.0, 0.0) ** 2
    middle, below, above = bins[6:].reshape(4, 3).T
    color = middle + score * np.where(score < 0.0, below, above)
    dered = i_dered + np.array([color[:3].sum(), color[1:3].sum(), color[2], 0.0, -color[3]])
    a_u = float(np.interp(east, by_ra[0], by_ra[2]))
    a_u *= math.exp(float(np.interp(east, by_ra[0], by_ra[3])) * float(n[6]))
    mean = dered + a_u * EXTINCTION
    flux = _flux(mean)
    err = np.maximum(_magnitude_error(flux, _flux_error(flux)) / math.sqrt(24.0), 0.0015)
    err = err * np.exp(0.15 * n[7:12])
    ra = round(east % 360.0, 6)
    row: dict[str, Any] = {"train_id": train_id, "ra_sdss": ra, "dec_sdss": dec, "z": z}
    row |= {"sdssj": designation(ra, dec), "z_err": round(3e-4 * (1 + z) * math.exp(0.5 * n[12]), 6)}
    row |= _by_band("psfmag_{}", mean + err * n[13:18]) | _by_band("psfmagerr_{}", err)
    row |= _by_band("extinction_{}", a_u * EXTINCTION)
    row |= _spectrum(u, faint=mean[3] > 19.1) | _photo_ids(ra, dec, u)
    row["spec2coadd"] = round(0.06 * math.hypot(n[18], n[19]), 6)
    row |= _spies(ra, dec, z, mean[3], u, n) | _gaia(ra, dec, mean[2], u, n)
    return row, np.asarray(mean)


def _spectrum(u: Floats, faint: bool) -> dict[str, int]:
    """Return source and ids of the spectrum, packed as SDSS does: differently before and since DR8."""
    fiber = int(u[3] * 640)
    if u[4] < (0.6 if faint else 0.15):
        plate, mjd = 3586 + int(u[5] * 4000), 55181 + int(u[6] * 2600)
        packed = plate << 50 | (fiber + 1) << 38 | (mjd - 50000) << 24 | 1000 << 10
        return {"spec": 14, "specobjid": packed, "thing_id": 60_000_000 + int(u[7] * 500_000_000)}
    plate, mjd = 371 + int(u[5] * 1500), 51780 + int(u[6] * 2400)
    packed = plate << 48 | mjd << 32 | (fiber + 1) << 22
    return {"spec": 7, "specobjid": packed, "thing_id": MISSING_INTEGER}


def _photo_ids(ra: float, dec: float, u: Floats) -> dict[str, int]:
    """Return the DR7 coadd objid: sky version 15, rerun 2, run 106 (S) or 206 (N), camcol, field, object."""
    column, strip = divmod(int((dec + 1.266) / 0.2112), 2)
    field = int((ra - 299.86) % 360.0 / 0.1497)
    run = 206 if strip else 106
    packed = 15 << 59 | 2 << 48 | run << 32 | min(column + 1, 6) << 29 | field << 16
    return {"objid": packed | int(1 + u[8] * 900)}


def _spies(ra: float, dec: float, z: float, mag_i: float, u: Floats, n: Floats) -> dict[str, Any]:
    """Return the SpIES columns (microjansky): footprint, depth and 98 % recovery of Timlin et al. 2016."""
    names = ["ra_sp", "dec_sp", "FLUX_AUTO_ch1", "FLUXERR_AUTO_ch1", "FLUX_AUTO_ch2", "FLUXERR_AUTO_ch2"]
    names += ["CLASS_STAR_ch1", "CLASS_STAR_ch2", "sdss2spies"]
    east = (ra + 180.0) % 360.0 - 180.0
    # Roughly: 115 square degrees from -30 to 35 deg, around the field of SHELA (Papovich et al. 2016).
    covered = -30.0 < east < 35.0 and not 13.9 < east < 27.2 and abs(dec) < 1.11
    if not covered or u[9] > 0.98:
        return {"SPIES_ID": MISSING_INTEGER} | dict.fromkeys(names, math.nan)
    red = 1.2 - 0.25 * min(z, 2.5) + 0.3 * n[20]
    ch1 = 3.631e9 * 10.0 ** (-0.4 * (mag_i - red))
    ch2 = ch1 * 10.0 ** (0.4 * (0.15 + 0.12 * n[21]))
    err1, err2 = math.hypot(1.23, 0.004 * ch1), math.hypot(1.15, 0.004 * ch2)
    east_off, north_off = 0.12 * n[22], 0.12 * n[23]
    values = [(ra + east_off / 3600.0) % 360.0, dec + north_off / 3600.0, ch1 + err1 * n[24], err1]
    values += [ch2 + err2 * n[25], err2, 1.0 - 0.25 * u[10] ** 3, 1.0 - 0.25 * u[11] ** 3]
    values.append(math.hypot(east_off, north_off))
    return {"SPIES_ID": int(1 + u[12] * 5_400_000)} | {
        k: round(float(v), 6) for k, v in zip(names, values, strict=True)
    }


def _gaia(ra: float, dec: float, mag_r: float, u: Floats, n: Floats) -> dict[str, Any]:
    """Return the Gaia DR2 columns; faint sources lack them (Lindegren et al. 2018)."""
    names = ["parallax", "parallax_error", "pmra", "pmra_error", "pmdec", "pmdec_error"]
    row: dict[str, Any] = dict.fromkeys(["sdss2gaia", *names], math.nan) | {"gaia_id": MISSING_INTEGER}
    if u[13] > 1.0 / (1.0 + math.exp((mag_r - 20.9) / 0.15)):
        return row
    row["gaia_id"] = _healpix12(ra, dec) << 35 | int(u[14] * 2**26) << 7
    row["sdss2gaia"] = round(0.05 * math.hypot(n[26], n[27]), 6)
    if u[15] < 0.85 / (1.0 + math.exp((mag_r - 20.5) / 0.2)) + 0.13:
        error = 0.17 * 10.0 ** (0.31 * (max(mag_r, 15.5) - 18.0)) * math.exp(0.15 * n[28])
        errors = [error, error * 1.7 * math.exp(0.1 * n[29]), error * 1.25 * math.exp(0.1 * n[30])]
        for k, (offset, err) in enumerate(zip([-0.03, 0.0, 0.0], errors, strict=True)):
            row[names[2 * k]] = round(offset + 1.08 * err * float(n[31 + k]), 6)
            row[names[2 * k + 1]] = round(err, 6)
    return row


def derived_columns(row: dict[str, Any]) -> dict[str, float]:
    """Return the derived columns but those of Gaia, as the definitions of the catalogue say."""
    dered = {b: round(row[f"psfmag_{b}"] - row[f"extinction_{b}"], 6) for b in BANDS}
    out: dict[str, float] = {f"dered_{b}": v for b, v in dered.items()}
    for k, (blue, red) in enumerate(itertools.pairwise(BANDS)):
        out[f"stdColor[{k}]"] = round(dered[blue] - dered[red], 6)
    # Four digits: the fifth differs between processors' sinh, and the sample must not.
    flux = [float(magnitude_to_flux(m + AB_CORRECTION.get(b, 0.0), b)) for b, m in dered.items()]
    return out | _by_band("psFlux[{}]", flux, digits=4)


def _source(train_id: int, seed: int, log: Floats) -> _Source:
    """Return everything about one quasar but its measurements."""
    rng = np.random.default_rng([seed, train_id, 1])
    row = _published_row(train_id)
    if row is None:
        row, mean = _invented_row(train_id, rng)
        row |= {"psPm[0]": row["pmra"], "psPm[1]": row["pmdec"], "psParallax": row["parallax"]}
        row |= derived_columns(row)
    else:
        mean = np.array([row[f"psfmag_{b}"] for b in BANDS])
    tau, sf_inf = _variability(row["z"], row["dered_i"], rng)

    rng = np.random.default_rng([seed, train_id, 2])
    fraction = _fraction_of_day(row["ra_sdss"], log)
    dark = (fraction > 0.11) & (fraction < 0.41)
    strip = int((row["dec_sdss"] + 1.266) / 0.2112) % 2
    u, scatter = rng.random(2), rng.standard_normal()
    if "lcN" not in row:
        east, by_ra = (row["ra_sdss"] + 180.0) % 360.0 - 180.0, _statistics("by_ra").T
        count = float(np.interp(east, by_ra[0], by_ra[4])) + 3.5 * scatter
        if u[0] < 0.035:  # at the edge of the survey or of a column
            count = 3.0 + 37.0 * u[1]
        elif u[0] > 0.96:  # where the strips overlap
            count *= 1.7 + 0.3 * u[1]
        row["lcN"] = int(min(max(count, 3.0), dark.sum()))
    # Dark nights of the own strip first, by chance among equals; the order they come in is not time's.
    rank = rng.random(log.shape[0]) + (log[:, 2] != strip) + 2.0 * ~dark
    nights = np.argsort(rank)[: row["lcN"]]
    nights = nights[np.argsort(rng.random(nights.size))]
    shape = (nights.size, len(BANDS))
    faint = np.clip(10.0 ** (0.25 * (mean - _SKY_MAG)), 0.6, 8.0)
    rejected = rng.random(shape) < _REJECTED * faint
    bad = rng.random(shape) < 0.0015
    size = (0.3 + 0.7 * rng.random(shape)) * np.where(rng.random(shape) < 0.5, -1.0, 1.0)
    outlier = np.where(bad & ~rejected, size, 0.0)
    return _Source(row, mean, tau, sf_inf, nights, rejected, outlier)


def _chromatic_refraction(z: float) -> Floats:
    """Return by how many arcsec per tan(zenith distance) each band lies nearer to the zenith than r."""
    rest, width = _statistics("lines").T[:, :, None] * (1.0 + z)
    shift = rest - _WAVELENGTH
    weight = width / _WIDTH * (np.abs(shift) < _WIDTH / 2.0)
    pull = np.sum(weight * shift, axis=0) / (1.0 + np.sum(weight, axis=0))
    toward_zenith = _DCR_CONTINUUM - _DCR_SLOPE * pull
    return np.asarray(toward_zenith - toward_zenith[2])


def _light_curve(source: _Source, train_id: int, seed: int, log: Floats) -> npt.NDArray[np.void]:
    """Return the record array of one quasar, as it is stored."""
    rng = np.random.default_rng([seed, train_id, 3])
    row, n = source.row, source.nights.size
    night = log[source.nights]
    mjd = (night[:, 0] + _fraction_of_day(row["ra_sdss"], night))[:, None]
    mjd = mjd + _FOCAL_PLANE * (_CROSSING / 86400.0)

    walk = damped_random_walk(mjd[:, 2], source.tau, 1.0, rng)
    flux = _flux(source.mean + source.sf_inf * walk[:, None])
    seeing = rng.standard_normal((n, 1))
    stretch = np.where(seeing < 0.0, 0.16 * seeing, 0.3 * seeing + 0.06 * seeing**2)
    # One night in five is not quite clear: its calibration adds 1 to 3 per cent to every error.
    haze = rng.random((n, 1))
    error = _flux_error(flux) * np.exp(stretch + 0.08 * rng.standard_normal((n, 5)))
    error = np.hypot(error, np.where(haze > 0.8, 0.1 * haze - 0.072, 0.0) / _MAG * np.abs(flux))
    measured = flux + error * rng.standard_normal((n, 5))
    mag = _magnitude(measured) + source.outlier
    magerr = _magnitude_error(measured, error)

    hour = np.radians(night[:, 1:2] + _FOCAL_PLANE * (_CROSSING * 360.98564736629 / 86400.0))
    dec = math.radians(row["dec_sdss"])
    cos_z = _SIN_LAT * math.sin(dec) + _COS_LAT * math.cos(dec) * np.cos(hour)
    # tan(zenith distance) times sine and cosine of the parallactic angle, from the same triangle.
    east = _COS_LAT * np.sin(hour) / cos_z
    north = (_SIN_LAT * math.cos(dec) - _COS_LAT * math.sin(dec) * np.cos(hour)) / cos_z
    refraction = _chromatic_refraction(row["z"])
    jitter = np.hypot(0.025, 0.6 * np.minimum(magerr, 0.3))
    offset_ra = refraction * east + jitter * rng.standard_normal((n, 5))
    offset_dec = refraction * north + jitter * rng.standard_normal((n, 5))

    mag, magerr = np.round(mag, 6), np.round(magerr, 6)
    dered = np.round(mag - np.array([row[f"extinction_{b}"] for b in BANDS]), 6)
    lost = source.rejected | source.rejected[:, 2:3]  # an offset needs the band and r
    columns = {
        "psfmag": np.where(source.rejected, MISSING_MAGNITUDE, mag),
        "psfmagerr": np.where(source.rejected, MISSING_MAGNITUDE, magerr),
        "mjd": np.round(mjd, 2),
        "offsetRa": np.where(lost, np.nan, np.round(offset_ra, 6)),
        "offsetDec": np.where(lost, np.nan, np.round(offset_dec, 6)),
        "airmass": np.round(1.0 / cos_z, 6),
        "dered": np.where(source.rejected, MISSING_MAGNITUDE, dered),
    }
    out = np.empty(n, dtype=[(name, kind) for name, kind in edition_2020()["light_curve_fields"]])
    for name in out.dtype.names or ():
        if name == "run":  # the real runs of four dates, and a straight line between them
            out[name] = np.interp(night[:, 0], [51075, 52172, 52522, 54433], [94, 2583, 3322, 7202])
        else:
            column, band = name.split("_")
            out[name] = columns[column][:, BANDS.index(band)]
    return out


def json_document(document: Any) -> bytes:
    """Return a metadata document as the 2020 store has it."""
    return json.dumps(document, indent=4, sort_keys=True, separators=(",", ": ")).encode()


@functools.lru_cache(maxsize=256)
def array_document(table: str, rows: int, chunk: int) -> bytes:
    """Return the ``.zarray`` document (Zarr format 2) of the catalogue or of a light curve."""
    fields = edition_2020()[f"{table}_fields"]
    itemsize = np.dtype([(name, kind) for name, kind in fields]).itemsize
    return json_document(
        {
            "chunks": [chunk],
            "compressor": blosc_codec().get_config(),
            "dtype": fields,
            "fill_value": b64encode(bytes(itemsize)).decode(),
            "filters": None,
            "order": "C",
            "shape": [rows],
            "zarr_format": 2,
        }
    )


def blosc_codec() -> Blosc:
    """Return the codec of the 2020 store."""
    return Blosc(cname="lz4", clevel=5, shuffle=Blosc.SHUFFLE)


def catalog_records(rows: Iterable[dict[str, Any]]) -> npt.NDArray[np.void]:
    """Return catalogue rows as the store holds them, missing where a row says nothing."""
    dtype = np.dtype([(name, kind) for name, kind in edition_2020()["catalog_fields"]])
    blank = {"i": MISSING_INTEGER, "f": math.nan, "U": ""}
    blanks = [(name, blank[dtype[name].kind]) for name in dtype.names or ()]
    return np.array([tuple(row.get(name, missing) for name, missing in blanks) for row in rows], dtype)


def store_members(
    attrs: dict[str, Any],
    definitions: dict[str, str],
    rows: int,
    parts: Iterable[npt.NDArray[np.void]],
    curves: Iterable[tuple[int, int, bytes]],
    chunk: int = CATALOG_CHUNK,
) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of every member of a store of the 2020 layout, in its order.

    `parts` are `chunk` rows of the catalogue each; `curves` are id, length and encoded light curve.
    """
    group = json_document({"zarr_format": 2})
    yield ".zgroup", group
    yield ".zattrs", json_document(edition_2020()["root_attrs"] | attrs)
    yield "catalog/.zarray", array_document("catalog", rows, chunk)
    yield "catalog/.zattrs", json_document(edition_2020()["catalog_definitions"] | definitions)
    for k, part in enumerate(parts):
        padded = np.zeros(chunk, part.dtype)  # as Zarr does with the last chunk
        padded[: len(part)] = part
        yield f"catalog/{k}", blosc_codec().encode(padded)
    yield "sdss_lc/.zgroup", group
    for train_id, size, content in curves:
        yield f"sdss_lc/{train_id}/.zarray", array_document("light_curve", size, size)
        yield f"sdss_lc/{train_id}/0", content


def _members(n: int, seed: int, progress: bool | None) -> Iterator[tuple[str, bytes]]:
    log, ids, chunk = _observing_log(seed), _train_ids(n).tolist(), min(n, CATALOG_CHUNK)

    def parts() -> Iterator[npt.NDArray[np.void]]:
        for start in range(0, n, chunk):
            part = catalog_records(_source(i, seed, log).row for i in ids[start : start + chunk])
            yield part
            bar.update(len(part))

    def curves() -> Iterator[tuple[int, int, bytes]]:
        # Text order, '0', '10', '100': that of the 2020 store, and what Zarr then lists.
        for train_id in sorted(ids, key=str):
            curve = _light_curve(_source(train_id, seed, log), train_id, seed, log)
            yield train_id, curve.size, blosc_codec().encode(curve)
            bar.update()

    # None: a bar where someone watches, none in files and notebooks.
    with tqdm(total=2 * n, desc="sample store", disable=None if progress is None else not progress) as bar:
        synthetic = load_json("notes.json")["sample"].format(version=_VERSION, seed=seed, n=n)
        yield from store_members({"synthetic": synthetic}, {}, n, parts(), curves(), chunk)


def _write(path: Path, n: int, seed: int, progress: bool | None, manifest: bool = False) -> None:
    """Write the store: complete or absent."""
    with Place(path, manifest=manifest) as place:
        write_zip(place.temporary, _members(n, seed, progress))


def build_sample_store(
    path: AnyPath,
    n: int = 500,
    seed: int = SAMPLE_SEED,
    *,
    progress: bool | None = None,
    manifest: bool = False,
) -> Path:
    """Write a sample of `n` invented quasars on Stripe 82 as one ``.zarr.zip`` (Zarr format 2).

    The layout, types, attributes and definitions are those of the 2020 edition, and so are the first two
    catalogue rows. The same `n` and `seed` give the same bytes; a quasar is the same in any `n`. Use it for
    trying and teaching, never for results: all light curves are invented.

    Parameters
    ----------
    path : path-like
        File to write; nothing may be there.
    n : int
        Number of quasars, at least 1; 24,579 gives the size of the 2020 edition (about 470 MB).
    seed : int
        Chooses another sample.
    progress : bool, optional
        Show a progress bar; None shows one where someone watches.
    manifest : bool
        Write the SHA-256 checksums beside it too, as `write_manifest` does, in ``NAME.sha256``.

    Returns
    -------
    pathlib.Path
        `path`.

    Raises
    ------
    LimitError
        `n` is below 1 or so large that the file would pass 2 GB.
    TargetExistsError
        There is something at `path`, or beside it the manifest of a former store.
    StoreNotFoundError
        The folder of `path` does not exist.

    Examples
    --------
    >>> import tempfile, zipfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = build_sample_store(Path(folder) / "two.zarr.zip", n=2)
    ...     zipfile.ZipFile(path).namelist()[-4:]
    ['sdss_lc/0/.zarray', 'sdss_lc/0/0', 'sdss_lc/3/.zarray', 'sdss_lc/3/0']
    """
    path = Path(path)
    if not 1 <= n <= 100_000:
        msg = f"A sample store has 1 to 100,000 quasars, not n={n!r}. Pass for example n=500."
        raise LimitError(msg)
    _write(path, n, seed, progress, manifest)
    return path


def sample_path() -> Path:
    """Return where the default sample store stands, or will: in the user's cache folder."""
    return platformdirs.user_cache_path("agn_helpers") / f"sample-{_VERSION}.zarr.zip"


def sample_store(progress: bool | None = None) -> Path:
    """Return the path of the default sample store; build it in the user's cache folder on first use.

    Any number of processes may do so at once. A newer module whose sample differs builds a new file.

    Parameters
    ----------
    progress : bool, optional
        Show a progress bar while building; None shows one where someone watches.

    Returns
    -------
    pathlib.Path
        A ``.zarr.zip`` of 500 quasars. Read it, do not change it: delete it to have it built again.
    """
    path = sample_path()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write(path, 500, SAMPLE_SEED, progress)
        except TargetExistsError:
            if not path.exists():  # else another process was first, with equal bytes
                raise
    return path


def sample_truth(
    train_ids: Iterable[int] | None = None, n: int = 500, seed: int = SAMPLE_SEED
) -> pd.DataFrame:
    """Return what the light curves of a sample store were drawn from.

    Parameters
    ----------
    train_ids : iterable of int, optional
        Which quasars; None gives all of them.
    n, seed : int
        As the store was built.

    Returns
    -------
    pandas.DataFrame
        Indexed by ``train_id``. ``z``; ``tau_rest`` and ``tau_observed``, damping timescale (days);
        ``sf_inf_u`` ... ``sf_inf_z``, long-term structure function (mag); ``mean_u`` ... ``mean_z``, mean
        magnitude (mag, not corrected for extinction); ``outliers``, a tuple of ``(row, band)`` where a bad
        calibration was planted, ``row`` counting in the light curve as stored.

    Raises
    ------
    UnknownTrainIdError
        An id is not in this sample.

    Examples
    --------
    >>> sample_truth([0]).columns[:3].tolist()
    ['z', 'tau_rest', 'tau_observed']
    """
    known = _train_ids(n).tolist()
    members = set(known)
    log, rows = _observing_log(seed), {}
    for train_id in known if train_ids is None else [int(i) for i in train_ids]:
        if train_id not in members:
            hint = near(str(train_id), map(str, known))
            msg = f"No train_id {train_id} in a sample of n={n}.{hint} Pass n= as the store was built."
            raise UnknownTrainIdError(msg)
        source = _source(train_id, seed, log)
        z = source.row["z"]
        rows[train_id] = (
            {"z": z, "tau_rest": source.tau / (1.0 + z), "tau_observed": source.tau}
            | _by_band("sf_inf_{}", source.sf_inf, digits=9)
            | _by_band("mean_{}", source.mean)
            | {"outliers": tuple((int(k), BANDS[b]) for k, b in np.argwhere(source.outlier))}
        )
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("train_id")
