"""The public archive, fetched from a server that the test starts, becomes a store of the 2020 layout."""

import contextlib
import gzip
import http.server
import io
import json
import pathlib
import sys
import tarfile
import threading
import zipfile

import numpy as np
import pytest

import agn_helpers as agn
from agn_helpers import stripe82
from agn_helpers.__main__ import main
from agn_helpers.columns import edition_2020

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data" / "stripe82"

HEAD = "#  SDSS S82 spectroscopically confirmed quasars\n#   dbID    ra(deg J2000) dec   SDR5ID ...\n"
ROWS = {
    70: "     70    2.169302    1.238649    301  -23.901  -24.181  1.0730    0.000    0.000  "
    "20.793  20.469  20.197  20.040  20.000   0.116",
    98: "     98  359.091028   -0.962126    144  -23.399  -23.576  0.7867    0.000    0.000  "
    " 0.000  20.183  19.849  19.818  19.430   0.183",
    4952501: "4952501   55.363995    1.253936     -1  -25.760   -1.000  3.1040   -1.000   -1.000  "
    "24.170  21.710  20.410  20.220  20.240   0.000",
    1018: "   1018    1.364696   -0.098956    190  -23.121  -24.045  0.6125    0.000   45.433  "
    "20.098  19.722  19.784  19.485  19.541   0.178",
}
FIT = (
    "  301   2.169302    1.238649  1.0730 -23.901   0.000     0.956316      2.00000    -0.500000      "
    "1.72993  2.69370  -0.833362  -0.607438  1  144.030  113.518  140.641  20.5842   60\n"
    "  144 359.091028   -0.962126  0.7867 -23.399   0.000      1.12813      -10        -10          "
    "-10  -10  -10  -10  0  127.643  68.4325  127.459  20.2093    9\n"
)


def light_curve_text(dbid, n):
    """A light curve as the archive documents it: 17 columns, no header, -99.99 for what is missing."""
    rng = np.random.default_rng(dbid)
    lines = []
    for k in range(n):
        day = 51075 + rng.integers(3300)  # not in the order of time
        band = [f"{day + 0.0008 * b:.6f} {20 + rng.normal(0, 0.2):.3f} {0.02:.3f}" for b in range(5)]
        if k % 3 == 1:
            band[k % 5] = f"{day:.6f} -99.99 -99.99"
        if k % 7 == 2:
            band[0] = "-99.99 -99.99 -99.99"
        lines.append(" ".join(band) + " 2.169302 1.238649")
    return "\n".join(lines) + "\n"


LENGTHS = {70: 610, 98: 12, 1018: 0}  # 4952501 has no file at all


def write_archive(folder, *, rows=ROWS, texts=None, extra=(), kind="w:gz"):
    """Write a small archive; `extra` are (TarInfo, bytes)."""
    folder.mkdir(exist_ok=True)
    texts = {i: light_curve_text(i, n) for i, n in LENGTHS.items()} if texts is None else texts
    (folder / "DB_QSO_S82.dat").write_text(HEAD + "\n".join(rows.values()) + "\n")
    with tarfile.open(folder / "QSO_S82.tar.gz", kind) as archive:
        for name, text in texts.items():
            info = tarfile.TarInfo(f"QSO_S82/{name}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
        for info, content in extra:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    for band in "ugriz":
        (folder / f"s82drw_{band}.dat").write_text("# fits\n" + FIT)
    return folder


@pytest.fixture
def archive(tmp_path):
    return write_archive(tmp_path / "archive")


class Web(http.server.ThreadingHTTPServer):
    """Serves a folder; `.how[name]` says how the next answers for a file go wrong."""

    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.how, self.seen, self.validator = folder, {}, [], '"first"'
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.release = threading.Event()

    def handle_error(self, *_):
        pass  # a client that hangs up is part of the tests


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        web, name = self.server, self.path.rsplit("/", 1)[-1]
        web.seen.append((self.path, self.headers.get("Range")))
        troubles = web.how.get(name, [])
        trouble = troubles.pop(0) if troubles else None
        if isinstance(trouble, int):
            return self.send_error(trouble)
        if trouble == "redirect":
            self.send_response(302)
            self.send_header("Location", f"/moved/{name}")
            return self.end_headers()
        body = (web.folder / name).read_bytes()
        start = 0
        asked = self.headers.get("Range")
        if asked and self.headers.get("If-Range") == web.validator and trouble != "no ranges":
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                return self.send_error(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        if trouble != "no length":
            self.send_header("Content-Length", len(body) - start)
        if web.validator:
            self.send_header("ETag", web.validator)
        self.end_headers()
        if trouble == "half":  # then the line is cut
            self.wfile.write(body[start : start + (len(body) - start) // 2])
        elif trouble == "stalls":
            self.wfile.write(body[start : start + 10])
            self.wfile.flush()
            web.release.wait(20)
        elif trouble == "slow":
            for k in range(start, len(body), 997):
                self.wfile.write(body[k : k + 997])
                self.wfile.flush()
        else:
            self.wfile.write(body[start:])
        return None


@contextlib.contextmanager
def serving(folder):
    web = Web(folder)
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield web
    finally:
        web.release.set()
        web.shutdown()
        web.server_close()
        thread.join()


@pytest.fixture
def web(archive):
    with serving(archive) as server:
        yield server


def fetch(folder, web, names=("QSO_S82.tar.gz",), **kwargs):
    kwargs = {"addresses": [web.address], "pause": 0.0, "progress": False, "timeout": 10} | kwargs
    return agn.fetch_stripe82(folder, names, **kwargs)


def same_files(folder, archive, names=("QSO_S82.tar.gz",)):
    return all((folder / n).read_bytes() == (archive / n).read_bytes() for n in names)


# -- fetching -----------------------------------------------------------------------------------


def test_every_file_is_fetched_once_and_its_checksum_recorded(web, archive, tmp_path):
    there = tmp_path / "cache" / "deeper"
    paths = fetch(there, web, stripe82.FILES)
    assert list(paths) == list(stripe82.FILES)
    assert same_files(there, archive, stripe82.FILES)
    record = json.loads((there / "checksums.json").read_text())
    assert record["s82drw_g.dat"]["url"] == f"{web.address}/s82drw_g.dat"
    n = len(web.seen)
    assert fetch(there, web, stripe82.FILES) == paths
    assert len(web.seen) == n == 7
    assert sorted(p.name for p in there.iterdir()) == sorted([*stripe82.FILES, "checksums.json"])


@pytest.mark.parametrize("trouble", ["redirect", "slow", 500, 503])
def test_what_a_patient_client_survives(web, archive, tmp_path, trouble):
    web.how["QSO_S82.tar.gz"] = [trouble]
    fetch(tmp_path / "here", web)
    assert same_files(tmp_path / "here", archive)


def test_a_broken_download_goes_on_where_it_stopped(web, archive, tmp_path):
    web.how["QSO_S82.tar.gz"] = ["half", "half"]
    fetch(tmp_path / "here", web)
    assert same_files(tmp_path / "here", archive)
    ranges = [r for _, r in web.seen]
    assert ranges[0] is None
    assert all(r.startswith("bytes=") for r in ranges[1:])
    assert len(set(ranges)) == 3


def test_the_next_call_goes_on_too(web, archive, tmp_path):
    web.how["QSO_S82.tar.gz"] = ["half"]
    with pytest.raises(agn.FetchError, match=r"could not be fetched.*Try again later"):
        fetch(tmp_path / "here", web, attempts=1)
    assert (tmp_path / "here" / "QSO_S82.tar.gz.part").stat().st_size > 0
    assert not (tmp_path / "here" / "QSO_S82.tar.gz").exists()
    fetch(tmp_path / "here", web, attempts=1)
    assert web.seen[-1][1] is not None
    assert same_files(tmp_path / "here", archive)


@pytest.mark.parametrize("change", ["new version", "no ranges", "no validator"])
def test_bytes_of_two_versions_are_never_joined(web, archive, tmp_path, change):
    web.validator = None if change == "no validator" else web.validator
    web.how["QSO_S82.tar.gz"] = ["half"]
    with pytest.raises(agn.FetchError, match="could not be fetched"):
        fetch(tmp_path / "here", web, attempts=1)
    if change == "new version":
        web.validator = '"second"'
        write_archive(archive, texts={70: light_curve_text(7, 50), 98: light_curve_text(8, 50)})
    elif change == "no ranges":
        web.how["QSO_S82.tar.gz"] = ["no ranges"]
    fetch(tmp_path / "here", web, attempts=1)
    assert same_files(tmp_path / "here", archive)


def test_a_torn_note_means_from_the_start(web, archive, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    (here / "QSO_S82.tar.gz.part").write_bytes(b"of what version?")
    (here / "QSO_S82.tar.gz.part.from").write_text(f"{web.address}/QSO_S82.tar.gz\n")
    fetch(here, web)
    assert web.seen[0][1] is None
    assert same_files(here, archive)


def test_a_complete_part_whose_process_died_is_used_or_fetched_again(web, archive, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    (here / "QSO_S82.tar.gz.part").write_bytes((archive / "QSO_S82.tar.gz").read_bytes())
    (here / "QSO_S82.tar.gz.part.from").write_text(f"{web.address}/QSO_S82.tar.gz\n{web.validator}")
    fetch(here, web)
    assert same_files(here, archive)


@pytest.mark.parametrize(
    ("trouble", "match"),
    [
        ([404], "status 404"),
        (["half"] * 3, "ChunkedEncodingError"),
        ([500] * 3, "status 500"),
        (["no length"] * 3, "ConnectionError"),
        (["stalls"] * 3, "ConnectionError|ReadTimeout"),
    ],
)
def test_a_failure_is_polite_and_leaves_nothing_under_the_name(web, tmp_path, trouble, match):
    web.how["QSO_S82.tar.gz"] = list(trouble)
    with pytest.raises(agn.FetchError, match=match) as e:
        fetch(tmp_path / "here", web, timeout=0.3)
    assert "pass a mirror" in str(e.value)
    assert isinstance(e.value, OSError)
    assert not (tmp_path / "here" / "QSO_S82.tar.gz").exists()
    assert len(web.seen) == len(trouble)  # one question for a "no", at most three in all


def test_nobody_listens(tmp_path, web):
    with pytest.raises(agn.FetchError, match="ConnectionError"):
        fetch(tmp_path / "here", web, addresses=["http://127.0.0.1:9"], attempts=1)
    with pytest.raises(agn.FetchError, match="no address given"):
        fetch(tmp_path / "here", web, addresses=[])


def test_the_mirror_is_asked_when_the_first_address_fails(web, archive, tmp_path):
    with serving(tmp_path) as empty:
        empty.how["QSO_S82.tar.gz"] = [404]
        fetch(tmp_path / "here", web, addresses=[f"{empty.address}/x/", web.address])
        assert len(empty.seen) == 1
    assert same_files(tmp_path / "here", archive)
    assert json.loads((tmp_path / "here/checksums.json").read_text())["QSO_S82.tar.gz"]["url"].startswith(
        web.address
    )


def test_a_file_that_changed_on_disk_is_told(web, tmp_path):
    here = tmp_path / "here"
    fetch(here, web)
    (here / "QSO_S82.tar.gz").write_bytes(b"something else")
    with pytest.raises(agn.FetchError, match=r"is not what was fetched first.*Remove it"):
        fetch(here, web)


def test_a_file_that_changed_on_the_server_is_told(web, archive, tmp_path):
    here = tmp_path / "here"
    fetch(here, web)
    (here / "QSO_S82.tar.gz").unlink()
    write_archive(archive, texts={70: light_curve_text(7, 3)})
    with pytest.raises(agn.FetchError, match=r"differs from the one fetched first.*checksums\.json"):
        fetch(here, web)
    assert sorted(p.name for p in here.glob("QSO*")) == ["QSO_S82.tar.gz.part.from"]


def test_a_file_that_was_there_before_is_recorded(web, archive, tmp_path):
    fetch(archive, web)
    assert web.seen == []
    assert len(json.loads((archive / "checksums.json").read_text())) == 1


def test_a_damaged_record_is_told(web, tmp_path):
    for text in ("{", "[]", '{"QSO_S82.tar.gz": 3}'):
        (tmp_path / "checksums.json").write_text(text)
        with pytest.raises(agn.FetchError, match=r"checksums\.json is damaged"):
            fetch(tmp_path, web)


@pytest.mark.skipif(sys.platform == "win32", reason="the lock is one of POSIX")
def test_two_processes_do_not_write_to_the_same_file(web, tmp_path):
    import fcntl

    with (tmp_path / "QSO_S82.tar.gz.part").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(agn.FetchError, match="Another process is fetching"):
            fetch(tmp_path, web)
    fetch(tmp_path, web)


def test_without_requests_the_message_says_what_to_install(web, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "requests", None)
    with pytest.raises(agn.FetchError, match=r"agn-helpers\[download\]"):
        fetch(tmp_path, web)


# -- building -----------------------------------------------------------------------------------


def test_every_value_of_the_store_is_its_source_s(archive, tmp_path):
    store = agn.build_stripe82_store(tmp_path / "s.zarr.zip", archive)
    with agn.open_training_set(store) as ts:
        catalog, record = ts.catalog(), ts.root["catalog"][:]
        assert catalog.index.tolist() == sorted(ROWS)
        assert record.dtype == np.dtype([tuple(f) for f in edition_2020()["catalog_fields"]])
        for i, line in ROWS.items():
            words, row = line.split(), catalog.loc[i]
            assert [row["ra_sdss"], row["dec_sdss"], row["z"]] == [float(words[k]) for k in (1, 2, 6)]
            for band, word in zip("ugriz", words[9:14], strict=True):
                assert np.array_equal(row[f"psfmag_{band}"], float(word) or np.nan, equal_nan=True)
        a_u = [float(line.split()[14]) for line in ROWS.values()]
        got = catalog.loc[list(ROWS), "extinction_r"]
        assert np.allclose(got, [0.534 * a or np.nan for a in a_u], equal_nan=True)
        assert catalog["lcN"].to_dict() == {70: 610, 98: 12, 1018: 0, 4952501: 0}
        assert catalog.loc[70, "sdssj"] == "000840.63+011419.1"
        assert catalog[["gaia_id", "objid", "parallax", "psfmagerr_g"]].isna().all(axis=None)
        assert ts.light_curve_ids().tolist() == [70, 98]
        for i in (70, 98):
            table = np.array([line.split() for line in light_curve_text(i, LENGTHS[i]).splitlines()], float)
            table[table == -99.99] = -99.0
            stored = ts.raw_light_curve(i)
            for b, band in enumerate("ugriz"):
                for k, stem in enumerate(("mjd", "psfmag", "psfmagerr")):
                    assert np.array_equal(stored[f"{stem}_{band}"], table[:, 3 * b + k])
            assert (stored["run"] == -99).all()
            assert np.isnan(stored["airmass_g"]).all()
            good = stored["psfmag_g"] != -99
            dered = stored["psfmag_g"] - catalog.loc[i, "extinction_g"]
            assert np.allclose(stored["dered_g"][good], dered[good], atol=1e-6)
            assert (stored["dered_g"][~good] == -99).all()
        assert (ts.light_curve(70)["mag"].isna().sum()) > 20
        assert "dbID" in ts.define("train_id")
        source = ts.attrs["source"]
        assert source["light_curves_without_a_catalogue_row"] == 0
        assert len(source["QSO_S82.tar.gz"]["sha256"]) == 64
    assert agn.validate_store(store, progress=False).ok


def test_derived_columns_follow_their_definitions(archive, tmp_path):
    with agn.open_training_set(agn.build_stripe82_store(tmp_path / "s.zarr.zip", archive)) as ts:
        report = agn.check_catalog(ts.catalog())
    checked = report[report["rows"] > 0]
    assert len(checked) == 14
    assert (checked["finding"] == "agrees").all()


def test_the_same_files_give_the_same_bytes(archive, tmp_path):
    first = agn.build_stripe82_store(tmp_path / "a.zarr.zip", archive).read_bytes()
    assert agn.build_stripe82_store(tmp_path / "b.zarr.zip", archive).read_bytes() == first


def test_a_store_with_its_manifest(archive, tmp_path):
    store = agn.build_stripe82_store(tmp_path / "s.zarr.zip", archive, manifest=True)
    made = (tmp_path / "s.zarr.zip.sha256").read_bytes()
    assert agn.write_manifest(store).read_bytes() == made
    store.unlink()
    with pytest.raises(agn.TargetExistsError, match="the manifest of a former store"):
        agn.build_stripe82_store(store, archive)
    assert not store.exists()


def test_light_curves_stand_in_text_order(archive, tmp_path):
    write_archive(archive, texts={i: light_curve_text(i, 2) for i in (98, 70, 4952501, 1018)})
    store = agn.build_stripe82_store(tmp_path / "s.zarr.zip", archive)
    with zipfile.ZipFile(store) as z:
        names = [n.split("/")[1] for n in z.namelist() if n.startswith("sdss_lc/") and n.endswith("/0")]
    assert names == ["1018", "4952501", "70", "98"]


def test_files_may_be_packed_or_not(archive, tmp_path):
    first = agn.open_training_set(agn.build_stripe82_store(tmp_path / "a.zarr.zip", archive))
    for name in ("DB_QSO_S82.dat", "QSO_S82.tar.gz"):
        path = archive / name
        plain = (
            gzip.decompress(path.read_bytes()) if name.endswith(".gz") else gzip.compress(path.read_bytes())
        )
        path.unlink()
        (archive / (name if name.endswith(".gz") else f"{name}.gz")).write_bytes(plain)
    second = agn.open_training_set(agn.build_stripe82_store(tmp_path / "b.zarr.zip", archive))
    with first, second:
        assert first.catalog().equals(second.catalog())
        assert first.light_curves().equals(second.light_curves())


def test_a_missing_file_is_named_with_the_command(archive, tmp_path):
    (archive / "QSO_S82.tar.gz").unlink()
    with pytest.raises(agn.StoreNotFoundError, match=r"no QSO_S82\.tar\.gz .*fetch_stripe82\("):
        agn.build_stripe82_store(tmp_path / "s.zarr.zip", archive)
    assert not list(tmp_path.glob("*zarr*"))


def test_nothing_is_written_over(archive, tmp_path):
    (tmp_path / "s.zarr.zip").write_text("mine")
    with pytest.raises(FileExistsError, match="left alone"):
        agn.build_stripe82_store(tmp_path / "s.zarr.zip", archive)
    assert (tmp_path / "s.zarr.zip").read_text() == "mine"


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("1 2 3", r"DB_QSO_S82\.dat, line 5: expected 15 numbers, found '1 2 3'"),
        (ROWS[70].replace("1.0730", "1.O730"), r"DB_QSO_S82\.dat, line 5: expected 15 numbers"),
        (ROWS[70].replace("1.0730", "nan"), r"DB_QSO_S82\.dat, line 5"),
        (ROWS[98], "dbID 98 is no whole number, or stands there twice"),
        (ROWS[70].replace("     70", "   70.5"), r"dbID 70\.5 is no whole number"),
        (ROWS[70].replace("2.169302", "392.1693"), "not on the sky"),
    ],
)
def test_a_bad_line_of_the_catalogue_is_named(archive, tmp_path, line, match):
    rows = {**ROWS, 1018: line}
    rows = {k: rows[k] for k in (98, 4952501, 1018)}
    write_archive(archive, rows=rows)
    with pytest.raises(agn.DamagedStoreError, match=match):
        agn.build_stripe82_store(tmp_path / "s.zarr.zip", archive)
    assert not list(tmp_path.glob("*zarr*"))


@pytest.mark.parametrize("bad", ["51075.1 20.1", "x " * 17, "inf " + "1 " * 16, "\xe9 " * 17, "1 " * 18])
def test_a_bad_line_of_a_light_curve_is_named(archive, tmp_path, bad):
    lines = light_curve_text(98, 5).splitlines()
    write_archive(archive, texts={70: light_curve_text(70, 4), 98: "\n".join([*lines[:3], bad, *lines[3:]])})
    with pytest.raises(agn.DamagedStoreError, match=r"member 'QSO_S82/98', line 4: expected 17 numbers"):
        agn.build_stripe82_store(tmp_path / "s.zarr.zip", archive)
    assert not list(tmp_path.glob("*zarr*"))


def member(name, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    ("extra", "error", "match"),
    [
        (member("../../etc/98"), agn.DamagedStoreError, "not a plain file"),
        (member("/etc/98"), agn.DamagedStoreError, "not a plain file"),
        (member("QSO_S82/1018", tarfile.SYMTYPE, "/etc/passwd"), agn.DamagedStoreError, "not a plain file"),
        (member("QSO_S82/1018", tarfile.LNKTYPE, "QSO_S82/70"), agn.DamagedStoreError, "not a plain file"),
        (member("QSO_S82/1018", tarfile.FIFOTYPE), agn.DamagedStoreError, "not a plain file"),
        (member("copy/70"), agn.DamagedStoreError, "second light curve of dbID 70"),
    ],
)
def test_hostile_members_are_refused(archive, tmp_path, extra, error, match):
    write_archive(archive, extra=[(extra, b"")])
    with pytest.raises(error, match=match):
        agn.build_stripe82_store(tmp_path / "s.zarr.zip", archive)
    assert not list(tmp_path.glob("*zarr*"))


def test_sizes_are_bounded(archive, tmp_path, monkeypatch):
    write_archive(archive, texts={70: light_curve_text(70, 300)})
    for name, limit in (("MAX_FILE", 20_000), ("MAX_TOTAL", 20_000), ("MAX_FILES", -1)):
        with monkeypatch.context() as m:
            m.setattr(stripe82, name, limit)
            with pytest.raises(agn.LimitError, match="too large, or there are too many"):
                agn.build_stripe82_store(tmp_path / "s.zarr.zip", archive)
    monkeypatch.setattr(stripe82, "MAX_FILE", 300)
    with pytest.raises(agn.LimitError, match="longer than 300 bytes"):
        agn.build_stripe82_store(tmp_path / "s.zarr.zip", archive)


def test_notes_are_skipped_and_strangers_counted(archive, tmp_path):
    stranger = light_curve_text(5, 3).encode()
    extra = [
        (member("QSO_S82/README"), b"hello"),
        (member("QSO_S82", tarfile.DIRTYPE), b""),
        (member("QSO_S82/5"), stranger),
    ]
    write_archive(archive, extra=extra)
    with agn.open_training_set(agn.build_stripe82_store(tmp_path / "s.zarr.zip", archive)) as ts:
        assert ts.light_curve_ids().tolist() == [70, 98]
        assert ts.attrs["source"]["light_curves_without_a_catalogue_row"] == 1


def test_a_file_that_was_cut_off_is_told_wherever_it_was_cut(archive, tmp_path):
    for name in ("QSO_S82.tar.gz", "DB_QSO_S82.dat"):
        path = archive / name
        whole = path.read_bytes() if name.endswith(".gz") else gzip.compress(path.read_bytes())
        for share in (0.05, 0.3, 0.6, 0.9):
            path.write_bytes(whole[: int(share * len(whole))])
            with pytest.raises(agn.DamagedStoreError, match=r"Remove it and fetch it again"):
                agn.build_stripe82_store(tmp_path / "s.zarr.zip", archive)
        path.write_bytes(whole)
    assert not list(tmp_path.glob("*zarr*"))


def test_the_road_from_server_to_store_to_command_line(web, tmp_path, capsys):
    target = tmp_path / "mine.zarr.zip"
    arguments = ["fetch-stripe82", str(target), "--folder", str(tmp_path / "cache"), "--from", web.address]
    assert main([*arguments, "--quiet", "--manifest"]) == 0
    assert agn.validate_store(target).ok
    assert target.with_name("mine.zarr.zip.sha256").exists()
    assert "open_training_set(" in capsys.readouterr().out
    with agn.open_training_set(target) as ts:
        assert len(ts.catalog()) == len(ROWS)
        assert ts.attrs["source"]["DB_QSO_S82.dat"]["url"] == f"{web.address}/DB_QSO_S82.dat"
    assert main([*arguments, "--quiet"]) == 1
    assert "left alone" in capsys.readouterr().err


# -- published fits -----------------------------------------------------------------------------


def test_published_fits_are_read_with_their_units(archive):
    fits = agn.read_stripe82_fits(archive, bands=["g", "r"])
    one = fits.loc[(70, "g")]
    assert one["tau"] == pytest.approx(100)
    assert one["sf_inf"] == pytest.approx(10**-0.5 * (100 / 365.25) ** 0.5)
    assert one["edge"]
    assert fits.loc[(98, "r"), ["tau", "sf_inf", "mean"]].isna().all()
    assert fits.loc[(98, "r"), "n"] == 9
    assert len(fits) == 4


def test_two_quasars_at_one_place_are_refused(archive):
    rows = {**ROWS, 5: ROWS[70].replace("     70", "      5")}
    write_archive(archive, rows=rows)
    with pytest.raises(agn.DamagedStoreError, match="two quasars stand at one place"):
        agn.read_stripe82_fits(archive, bands="g")


def test_fits_of_other_quasars_are_refused(archive):
    text = (archive / "s82drw_g.dat").read_text().replace("2.169302", "2.169303")
    (archive / "s82drw_g.dat").write_text(text)
    with pytest.raises(agn.DamagedStoreError, match=r"s82drw_g\.dat: no quasar of the catalogue"):
        agn.read_stripe82_fits(archive, bands="g")


# -- the real tables ----------------------------------------------------------------------------


@pytest.fixture
def real(tmp_path):
    if not (SHARED / "DB_QSO_S82.dat.gz").exists():
        pytest.skip("needs stripe82/ in ../shared/data, which is not part of the project")
    folder = tmp_path / "real"
    folder.mkdir()
    for path in SHARED.glob("*.gz"):
        (folder / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    return folder


def test_the_real_catalogue_becomes_9258_quasars(real, tmp_path):
    lines = [line.split() for line in (real / "DB_QSO_S82.dat").read_text().splitlines() if line[0] != "#"]
    texts = {line[0]: light_curve_text(int(line[0]), 1 + k % 9) for k, line in enumerate(lines[::20])}
    made = write_archive(tmp_path / "made", texts=texts)
    (real / "QSO_S82.tar.gz").write_bytes((made / "QSO_S82.tar.gz").read_bytes())
    with serving(real) as web:
        fetch(tmp_path / "cache", web, ["DB_QSO_S82.dat", "QSO_S82.tar.gz"])
    store = agn.build_stripe82_store(tmp_path / "s.zarr.zip", tmp_path / "cache", progress=False)
    with agn.open_training_set(store) as ts:
        catalog, counts = ts.catalog(), ts.light_curves(progress=False)
    assert len(catalog) == 9258
    order = [int(line[0]) for line in lines]
    for column, k in {"ra_sdss": 1, "dec_sdss": 2, "z": 6}.items():
        assert catalog.loc[order, column].tolist() == [float(line[k]) for line in lines]
    assert catalog["extinction_g"].isna().sum() == 301  # those that are not in the catalogue of SDSS DR5
    assert counts["train_id"].nunique() == len(texts) == 463
    report = agn.check_catalog(catalog)
    assert (report.loc[report["rows"] > 0, "finding"] == "agrees").all()


def test_the_real_fits_join_the_real_catalogue(real):
    fits = agn.read_stripe82_fits(real)
    assert len(fits) == 5 * 9258
    assert fits.loc[(70, "g"), "tau"] == pytest.approx(10**1.94827)
    good = fits[~fits["edge"] & (fits["n"] > 40)].xs("g", level="band")
    assert 100 < good["tau"].median() < 1000  # MacLeod et al. 2010, figure 3
    assert 0.1 < good["sf_inf"].median() < 0.4
