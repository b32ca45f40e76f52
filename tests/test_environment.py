"""``python -m agn_helpers check``: what is there is ok, what is not says what to type."""

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata

import execute
import nbformat
import platformdirs
import pytest
from packaging.requirements import Requirement
from site_fixtures import ROOT

from agn_helpers import environment
from agn_helpers.__main__ import main

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def shown(capsys, *options):
    """Run the command; return its exit status and its lines."""
    status = main(["check", *options])
    return status, capsys.readouterr().out.splitlines()


def line_about(lines, word):
    (line,) = [line for line in lines if word in line]
    return line


@pytest.fixture
def pretend(monkeypatch):
    """Say that a package has another version, or None: that it is not installed."""

    def pretend(name, version):
        def answer(asked, real=metadata.version):
            if asked == name and version is None:
                raise metadata.PackageNotFoundError(asked)
            return version if asked == name else real(asked)

        monkeypatch.setattr(metadata, "version", answer)

    return pretend


def test_this_environment_is_complete(capsys):
    status, lines = shown(capsys)
    assert status == 0, "type: make book\n" + "\n".join(lines)
    assert lines[-1] == "complete"
    asked = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["chapters"]]
    for name in {Requirement(text).name for text in asked} - {"agn-helpers"}:
        assert re.fullmatch(r"ok +\S+ [\w.]+", line_about(lines, f" {name} "))
    assert all(line.startswith("ok") for line in lines[:-1])


def test_each_need_is_looked_for_once(capsys):
    names = [line.split()[1] for line in shown(capsys)[1][:-1]]
    assert len(set(names)) == len(names)
    assert {"dask", "pooch", "pyyaml"} <= set(names)  # extras that the extra of the chapters names


def test_the_module_alone_needs_no_chapters(capsys, pretend):
    pretend("dask", None)
    assert shown(capsys, "--module-only")[0] == 0
    assert shown(capsys)[0] == 1


@pytest.mark.parametrize(
    ("name", "requirement", "chapters"),
    [
        ("numpy", "numpy", ""),
        ("light-curve", "light-curve", " (for chapter 3)"),
        ("moto", "moto[s3,server]", ""),
    ],
)
def test_missing_package(name, requirement, chapters, capsys, pretend):
    pretend(name, None)
    status, lines = shown(capsys)
    line = line_about(lines, f"{name}{chapters}")
    assert status == 1
    assert re.fullmatch(rf"missing +{name}( \(for chapter [\d, ]+\))? is not installed\. Type: .*", line)
    assert re.search(rf' -m pip install "{re.escape(requirement)}>=[\d.]+"$', line)
    assert lines[-1].startswith("1 to mend")


@pytest.mark.parametrize("version", ["0.15.1", "0.16.6rc1"])
def test_version_that_is_too_old(version, capsys, pretend):
    pretend("numcodecs", version)
    status, lines = shown(capsys)
    assert status == 1
    line = line_about(lines, "numcodecs")
    assert line.startswith(f"missing  numcodecs {version} is not >=0.16.6. Type: ")
    assert line.endswith('-m pip install "numcodecs>=0.16.6"')


def test_trial_version_of_a_later_one_is_late_enough(capsys, pretend):
    pretend("numcodecs", "0.17.0rc1")
    assert shown(capsys)[0] == 0


def test_version_that_is_too_new(capsys, pretend):
    """The chapters allow fewer versions than the module: the bounds of both hold."""
    pretend("zarr", "4.0.0")
    assert "zarr 4.0.0 is not <4,>=" in line_about(shown(capsys, "--module-only")[1], "zarr ")
    pretend("zarr", "3.4.2")
    assert shown(capsys, "--module-only")[0] == 0
    status, lines = shown(capsys)
    assert status == 1
    assert re.search(r"zarr 3\.4\.2 is not <3\.2,<4,>=[\d.]+\. Type: ", line_about(lines, "zarr "))


@pytest.mark.parametrize("version", [(3, 10, 12), (3, 15, 0)])
def test_python_of_another_age(version, capsys, monkeypatch):
    monkeypatch.setattr(sys, "version_info", version)
    status, lines = shown(capsys)
    monkeypatch.undo()
    assert status == 1
    assert lines[0].startswith(f"missing  Python {'.'.join(map(str, version))} is not ")
    assert "Type: python3.12 -m venv .venv" in lines[0]


def test_cache_folder_that_takes_no_file(tmp_path, capsys, monkeypatch):
    file = tmp_path / "cache"
    file.write_text("a file, not a folder")
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: file / name)
    status, lines = shown(capsys)
    assert status == 1
    assert re.search(rf"sample store .* cannot be built: .* in {re.escape(str(file))}\. Type: ", lines[-2])


def test_sample_is_not_built(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / "a" / name)
    status, lines = shown(capsys)
    assert status == 0
    assert lines[-2].endswith("will be built at its first use, in seconds")
    assert list(tmp_path.iterdir()) == []


def test_kernel_that_starts_another_python(tmp_path, capsys, monkeypatch):
    other = str(tmp_path / "bin" / "python3")
    spec = tmp_path / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": [other, "-m", "ipykernel_launcher"], "display_name": "Other"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    status, lines = shown(capsys)
    assert status == 1
    line = line_about(lines, "Jupyter kernel")
    assert f"starts {other}, not {sys.executable}" in line
    assert re.search(r" -m ipykernel install --(sys-prefix|user)$", line)


def test_no_kernel(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", None)
    status, lines = shown(capsys)
    assert status == 1
    assert line_about(lines, "Jupyter").endswith(" -m pip install ipykernel")


def test_the_python_that_is_named_is_this_one(tmp_path, capsys, monkeypatch, pretend):
    pretend("tqdm", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert f'Type: "{sys.executable}" -m pip' in line_about(shown(capsys)[1], "tqdm")
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    assert "Type: python -m pip" in line_about(shown(capsys)[1], "tqdm")


class Installed:
    """What an installation wrote about the module."""

    def __init__(self, text, name="METADATA"):
        self.text, self.name = text, name
        self.metadata = metadata.Distribution.metadata.fget(self)
        self.requires = self.metadata.get_all("Requires-Dist")

    def read_text(self, name):
        return self.text if name == self.name else None


def test_module_that_is_not_installed(capsys, monkeypatch):
    monkeypatch.setattr(metadata, "distributions", lambda **asked: [])
    status, lines = shown(capsys)
    assert status == 1
    assert lines[0].endswith(f' -m pip install -e "{ROOT}[chapters]"')


def test_installation_from_before_the_chapters_had_needs(capsys, monkeypatch):
    old = Installed("Name: agn-helpers\nRequires-Python: >=3.11\nRequires-Dist: numpy>=2\n", "PKG-INFO")
    monkeypatch.setattr(metadata, "distributions", lambda **asked: [old])
    status, lines = shown(capsys)
    assert status == 1
    assert "as of an older version" in lines[0]
    assert lines[0].endswith(f' -m pip install -e "{ROOT}[chapters]"')
    new = Installed(
        "Name: agn-helpers\nRequires-Python: >=3.11\nProvides-Extra: chapters\n"
        "Requires-Dist: numpy>=2\nRequires-Dist: agn-helpers-no; extra == 'chapters'\n"
    )
    monkeypatch.setattr(metadata, "distributions", lambda **asked: [old, new])
    assert "agn-helpers-no is not installed" in line_about(shown(capsys)[1], "-no is")


def import_with(folder, *flags):
    code = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(ROOT)!r}]; import agn_helpers"
    run = subprocess.run([sys.executable, "-I", *flags, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1
    return run.stderr


def test_import_without_any_package_says_what_to_type(tmp_path):
    message = import_with(tmp_path, "-S")
    assert "ModuleNotFoundError: No module named 'numpy'. agn_helpers cannot start:" in message
    assert message.rstrip().endswith(f' -m pip install -e "{ROOT}[chapters]"')


def test_import_with_an_older_zarr_says_what_to_type(tmp_path):
    (tmp_path / "zarr").mkdir()
    (tmp_path / "zarr" / "__init__.py").write_text("raise ImportError('cannot import name LocalStore')")
    (tmp_path / "zarr-2.18.7.dist-info").mkdir()
    (tmp_path / "zarr-2.18.7.dist-info" / "METADATA").write_text("Name: zarr\nVersion: 2.18.7\n")
    message = import_with(tmp_path)
    assert "ImportError: cannot import name LocalStore. agn_helpers cannot start:" in message
    assert re.search(r'missing  zarr 2\.18\.7 is not .*pip install "zarr.*"\n', message)


def test_import_that_fails_for_another_reason_is_left_as_it_is(tmp_path):
    (tmp_path / "zarr").mkdir()
    (tmp_path / "zarr" / "__init__.py").write_text("raise ImportError('a broken library')")
    message = import_with(tmp_path)
    assert message.rstrip().endswith("ImportError: a broken library")
    assert "agn_helpers cannot start" not in message


def test_chapters_are_those_that_import_it():
    own = {Requirement(text).name for text in PROJECT["dependencies"]} | {"agn_helpers"}
    every = {Requirement(t).name for e in PROJECT["optional-dependencies"].values() for t in e} - {
        "agn-helpers"
    }
    indirect = {"4": {"cloudpickle"}, "5": {"pooch", "requests"}}  # through the helper module
    known = {"light_curve": "light-curve", "werkzeug": "moto"}  # moto's server brings it
    for path in execute.notebooks():
        if (chapter := path.name[:2].lstrip("0")) in environment._CHAPTERS:
            code = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
            found = set(re.findall(r"^\s*(?:import|from) (\w+)", "\n".join(code), flags=re.MULTILINE))
            names = {known.get(name, name) for name in found - own - set(sys.stdlib_module_names)}
            assert environment._CHAPTERS[chapter] == names | indirect.get(chapter, set())
    assert every - {"pyyaml", "zarr"} == set().union(*environment._CHAPTERS.values())


def test_setup_page_names_the_command():
    page = (ROOT / "setup.md").read_text(encoding="utf-8")
    assert "python -m agn_helpers check" in page
    assert "(is-everything-there)=" in page
    help_page = (ROOT / "reference" / "troubleshooting.md").read_text(encoding="utf-8")
    assert "](#is-everything-there)" in help_page
