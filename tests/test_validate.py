"""validate_store, write_manifest, and the commands ``python -m agn_helpers``."""

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import stores
from damage_table import catalog, column, curve, flip, put

import agn_helpers as agn
from agn_helpers.__main__ import main
from agn_helpers.packed import pack_store


@pytest.fixture
def folder(made, tmp_path):
    return stores.copy_store(made[2, "folder"], tmp_path / "s.zarr")


@pytest.fixture
def zipped(made, tmp_path):
    return stores.copy_store(made[2, "zip"], tmp_path / "s.zarr.zip")


def errors(path):
    return [f.text for f in agn.validate_store(path, progress=False) if f.level == "error"]


# -- the report ------------------------------------------------------------------------------------------


def test_what_a_report_is(any_store):
    report = agn.validate_store(any_store, progress=False)
    assert report.ok
    assert [f.check for f in report if f.level == "ok"][-2:] == ["ids", "light curves"] or any_store.is_file()
    frame = report.frame()
    assert list(frame) == ["check", "level", "text"]
    assert len(frame) == len(report) == len(str(report).splitlines())
    assert set(frame["check"]) == {"structure", "catalogue", "ids", "light curves", "manifest"}
    assert "6 light curves, every chunk decoded, every length as in lcN" in str(report)


@pytest.mark.parametrize("target", ["p.zarr", "p.zarr.zip"])
def test_a_packed_store_is_checked_like_the_original(any_store, tmp_path, target):
    packed = pack_store(any_store, tmp_path / target, progress=False)
    report = agn.validate_store(packed, progress=False)
    assert report.ok, str(report)
    assert not [f for f in report if f.check == "structure" and f.level != "ok"], str(report)


def test_what_the_published_rows_get_wrong_is_a_warning(any_store):
    found = [f for f in agn.validate_store(any_store, progress=False) if f.level == "warning"]
    assert any("psFlux[g] in 6 of 6 rows is the flux of the u magnitude" in f.text for f in found)
    assert any("no column for 'stdColor[4]'" in f.text for f in found)


def test_every_light_curve_is_looked_at(folder):
    """The damage of the last one is found too, and each thing is told once, with a count."""
    for i in (0, 3, 10, 66, 100):
        curve(i, column("psfmag_g", 0, np.inf))(folder)
    (text,) = errors(folder)
    assert text == "5 light curves hold an infinite magnitude or error in g: 0, 3, 10 and 2 more"


@pytest.mark.parametrize("value", [np.nan, np.inf, -99.0])
def test_a_time_may_lack_where_the_magnitude_does(folder, value):
    def both(table):
        table = column("psfmag_g", 3, -99.0)(table)
        table = column("psfmagerr_g", 3, -99.0)(table)
        return column("mjd_g", 3, value)(table)

    curve(0, both)(folder)
    assert not errors(folder)
    curve(0, column("mjd_g", 4, value))(folder)
    assert errors(folder) == ["1 light curves have a measurement without a time in g: 0"]


def test_infinite_values_in_the_catalogue(folder):
    catalog(column("z", 2, np.inf))(folder)
    assert errors(folder) == ["infinite values in 'z'"]


def test_a_light_curve_of_length_zero_may_be_absent(folder):
    shutil.rmtree(folder / "sdss_lc/4")
    report = agn.validate_store(folder, progress=False)
    assert report.ok
    assert any("1 quasars have no light curve: 4" in f.text for f in report if f.level == "warning")


@pytest.mark.parametrize(
    "name", ["catalog/7", "catalog/00", "catalog/0.0", "catalog/x", "sdss_lc/0/1", "new/.zarray"]
)
def test_members_of_no_array(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"{}")
    report = agn.validate_store(folder, progress=False)
    assert [f.text for f in report if f.check == "structure"] == [
        f"1 members that are no part of a training set: {name!r}"
    ]


def test_damaged_attributes_that_no_call_reads(zipped):
    put("sdss_lc/0/.zattrs", b"{")(zipped)
    assert any("sdss_lc/0/.zattrs is not readable JSON" in t for t in errors(zipped))


def test_a_store_that_cannot_be_opened_is_a_finding(tmp_path):
    path = tmp_path / "s.zarr.zip"
    path.write_bytes(b"not a zip")
    report = agn.validate_store(path, progress=False)
    assert not report.ok
    assert "cannot be read as a zip" in report[0].text


def test_nothing_there(tmp_path):
    for call in (agn.validate_store, agn.write_manifest):
        with pytest.raises(agn.StoreNotFoundError, match="There is nothing at"):
            call(tmp_path / "missing.zarr.zip")


def test_progress_is_silent_in_files(zipped, capsys):
    agn.validate_store(zipped)
    assert capsys.readouterr() == ("", "")
    agn.validate_store(zipped, progress=True)
    assert "light curves: 100%" in capsys.readouterr().err


# -- the manifest ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", ["zip", "folder"])
def test_manifest_agrees_with_sha256sum(made, tmp_path, container):
    path = stores.copy_store(made[2, container], tmp_path / "my store.zarr")
    manifest = agn.write_manifest(path)
    assert manifest == tmp_path / "my store.zarr.sha256"
    program = shutil.which("sha256sum")
    if not program:
        pytest.skip("needs the program sha256sum")
    run = subprocess.run(
        [program, "-c", "--strict", manifest.name], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    assert run.stdout.count(": OK") == len(files)
    report = agn.validate_store(path, progress=False)
    assert report[-1].text == f"{len(files)} files as in my store.zarr.sha256"


def test_each_byte_of_a_folder_counts(folder):
    agn.write_manifest(folder)
    for name in (".zgroup", "catalog/.zattrs", "sdss_lc/0/0", "sdss_lc/100/.zarray"):
        content = (folder / name).read_bytes()
        flip(name)(folder)
        assert f"1 files changed: {name!r}" in errors(folder)
        (folder / name).write_bytes(content)
    assert not errors(folder)


def test_files_that_vanish_or_come(folder):
    agn.write_manifest(folder)
    (folder / "catalog/.zattrs").rename(folder / "catalog/notes")
    found = errors(folder)
    assert "1 files vanished: 'catalog/.zattrs'" in found
    assert "1 files came in addition: 'catalog/notes'" in found


def test_manifest_and_store_renamed_together(zipped):
    agn.write_manifest(zipped)
    other = zipped.with_name("other.zarr.zip")
    zipped.rename(other)
    zipped.with_name("s.zarr.zip.sha256").rename(other.with_name("other.zarr.zip.sha256"))
    assert not errors(other)


@pytest.mark.parametrize(
    "text", ["", "nonsense\n", "0" * 64 + "  s.zarr.zip\n" + "0" * 64 + "  s.zarr.zip\n", "\xff"]
)
def test_a_manifest_that_is_none(zipped, text):
    zipped.with_name("s.zarr.zip.sha256").write_bytes(text.encode("latin-1"))
    (found,) = errors(zipped)
    assert found.startswith("s.zarr.zip.sha256 cannot be compared: ")


def test_a_name_that_no_manifest_can_hold(folder):
    (folder / "two\nlines").write_text("x")
    with pytest.raises(agn.InvalidValueError, match=r"two\\nlines.* cannot stand in a manifest"):
        agn.write_manifest(folder)
    assert not folder.with_name("s.zarr.sha256").exists()


def test_a_link_in_a_folder_gets_no_manifest(folder, tmp_path):
    (tmp_path / "outside").write_text("x")
    (folder / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(agn.DamagedStoreError, match="a link that leads elsewhere"):
        agn.write_manifest(folder)


def test_a_folder_without_manifest_is_a_warning_a_zip_is_not(folder, zipped):
    for path, level in ((folder, "warning"), (zipped, "ok")):
        last = agn.validate_store(path, progress=False)[-1]
        assert (last.check, last.level) == ("manifest", level)
        assert f"python -m agn_helpers manifest {path}" in last.text


# -- the commands ----------------------------------------------------------------------------------------


def test_commands(zipped, capsys):
    assert main(["manifest", str(zipped)]) == 0
    assert capsys.readouterr().out == f"{zipped}.sha256\n"
    assert main(["validate", str(zipped)]) == 0
    assert capsys.readouterr().out.endswith(f"{zipped}: ok\n")
    flip("sdss_lc/0/0")(zipped)
    assert main(["validate", str(zipped), "--quiet"]) == 1
    out = capsys.readouterr().out
    assert "error   light curves  1 light curves cannot be read: " in out
    assert "error   manifest      1 files changed: 's.zarr.zip'" in out
    assert out.endswith(": NOT ok\n")
    assert main(["validate", str(zipped), "--max-bytes", "100"]) == 1
    assert "more than max_bytes=100" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [[], ["nonsense"], ["validate"], ["validate", "/no/such/store"], ["validate", "x", "--max-bytes", "y"]],
)
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        main(arguments)
    assert re.search("error: ", capsys.readouterr().err)


def test_the_command_in_a_process_of_its_own(zipped):
    run = subprocess.run(
        [sys.executable, "-W", "error", "-m", "agn_helpers", "validate", zipped],
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.splitlines()[-1] == f"{zipped}: ok"
