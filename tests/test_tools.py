"""Pins, launch files, the build for another store: what surrounds the book."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from urllib.parse import parse_qs, urlsplit

import build_book
import editions
import execute
import nbformat
import pytest
import yaml
import zip_site
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from packaging.markers import Marker
from packaging.requirements import Requirement
from site_fixtures import ROOT, Page

CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DIRECT, INDIRECT = (ROOT / "requirements.txt").read_text(encoding="utf-8").split("\n# --- ")
URL = CONFIG["repository"]["url"]


def pins(text):
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return [Requirement(line) for line in lines if "==" in line]


def test_every_version_is_pinned_once_for_each_environment():
    seen = {}
    for pin in pins(DIRECT + "\n" + INDIRECT):
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), pin
        seen.setdefault(pin.name, []).append(pin)
    for name, several in seen.items():
        for python in ("3.11", "3.12", "3.13", "3.14"):
            environment = {"python_version": python}
            fits = [p for p in several if p.marker is None or Marker(str(p.marker)).evaluate(environment)]
            assert len(fits) <= 1, (name, python)


def test_each_direct_dependency_has_its_reason():
    for line in DIRECT.splitlines():
        if "==" in line:
            assert len(line.partition("#")[2].strip()) >= 5, line


def test_pins_fit_what_the_module_asks_for():
    pinned = {pin.name: str(pin.specifier)[2:] for pin in pins(DIRECT + "\n" + INDIRECT)}
    asked = PROJECT["dependencies"] + [d for e in PROJECT["optional-dependencies"].values() for d in e]
    for text in asked:
        requirement = Requirement(text)
        if requirement.name != PROJECT["name"]:
            assert requirement.specifier.contains(pinned[requirement.name]), text


def test_installed_versions_are_the_pinned_ones():
    from importlib.metadata import version

    for pin in pins(DIRECT):
        if pin.marker is None or pin.marker.evaluate():
            assert pin.specifier.contains(version(pin.name)), "type: make book"


def test_readme_names_the_commands_that_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, flags=re.MULTILINE))
    named = set(re.findall(r"make ([a-z-]+)(?=[\s`])", readme)) - {"alone"}
    assert {"book", "test"} <= named <= targets
    assert set(re.findall(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)[0].split()) == targets
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_help_lists_every_target():
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^([a-z-]+):.*## ", makefile, flags=re.MULTILINE):
        assert f"make {target} " in shown


NOT_ON_COLAB = {"performance.ipynb"}  # shows a file of the project, which Colab does not fetch


@pytest.mark.parametrize("path", execute.notebooks(), ids=lambda p: p.stem)
def test_launch_buttons_open_this_notebook(path, site):
    page = Page((site / "notebooks" / f"{path.stem}.html").read_text(encoding="utf-8"))
    organisation, repository = urlsplit(URL).path.strip("/").split("/")
    file = f"notebooks/{path.name}"
    assert (
        f"https://mybinder.org/v2/gh/{organisation}/{repository}/main?urlpath=lab/tree/{file}" in page.links
    )
    colab = f"https://colab.research.google.com/github/{organisation}/{repository}/blob/main/{file}"
    assert (colab in page.links) == (path.name not in NOT_ON_COLAB)
    form = next(link for link in page.links if "own-jupyterhub" in link)
    assert parse_qs(urlsplit(form).query) == {"chapter": [file]}
    assert f"{URL}/edit/main/{file}" in page.links


def test_form_for_a_hub_offers_every_notebook(site):
    page = (site / "setup.html").read_text(encoding="utf-8")
    form = re.search(r'<form class="hub-form".*?</form>', page, flags=re.DOTALL)[0]
    assert f'data-repository="{URL}" data-branch="main"' in form
    offered = re.findall(r'<option value="([^"]*)">([^<]+)</option>', form)
    assert [file for file, title in offered] == [f"notebooks/{path.name}" for path in execute.notebooks()]
    for file, title in offered:
        assert title in (site / file).with_suffix(".html").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", execute.notebooks(), ids=lambda p: p.stem)
def test_colab_cell_installs_this_project_and_does_nothing_elsewhere(path):
    cells = [c for c in nbformat.read(path, as_version=4).cells if execute.has_tag(c, "install-on-colab")]
    if path.name in NOT_ON_COLAB:
        assert cells == []
        return
    assert len(cells) == 1
    assert f'"{URL}"' in cells[0].source
    assert cells[0].outputs == []
    extra = re.search(r"agn-helpers\[(\w+)\]", cells[0].source)[1]
    assert extra in PROJECT["optional-dependencies"]


def test_binder_uses_the_books_own_versions():
    binder = ROOT / "binder"
    # A line with -r tells Binder to copy the whole project before it installs.
    lines = (binder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == ["-r ../requirements.txt"]
    python = (binder / "runtime.txt").read_text(encoding="utf-8").strip()
    assert python in ("python-3.11", "python-3.12", "python-3.13", "python-3.14")
    # These files in the project's root would be overlooked, because the folder binder exists.
    assert not {"environment.yml", "Pipfile", "Dockerfile", "apt.txt", "start"} & {
        p.name for p in ROOT.iterdir()
    }


@pytest.mark.skipif(shutil.which("sh") is None, reason="needs sh")
def test_binder_can_run_what_follows_the_installation():
    script = ROOT / "binder" / "postBuild"
    subprocess.run(["sh", "-n", script], check=True)
    assert script.read_bytes().startswith(b"#!/bin/sh\n")
    assert os.access(script, os.X_OK), "Binder starts it as a program"


def test_extra_for_colab_covers_what_the_chapters_import():
    known = {"light_curve": "light-curve", "werkzeug": "moto"}  # moto's server brings it
    named = {Requirement(d).name for e in PROJECT["optional-dependencies"].values() for d in e}
    named |= {Requirement(d).name for d in PROJECT["dependencies"]}
    ours = {"agn_helpers", "google", "IPython", "IPython.display"} | set(sys.stdlib_module_names)
    for path in execute.notebooks():
        source = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code")
        for module in re.findall(r"^\s*(?:import|from) (\w+)", source, flags=re.MULTILINE):
            assert module in ours or known.get(module, module) in named, (path.name, module)


# The book about another store


@pytest.fixture
def small_book(tmp_path, monkeypatch):
    """A book of one page and one notebook, built by the project's own tool."""
    root = tmp_path / "book project"
    (root / "notebooks").mkdir(parents=True)
    for name in (
        "_config.yml",
        "_ext",
        "_static",
        "reference",
        "agn_helpers",
        "requirements.txt",
        "setup.md",
    ):
        (root / name).symlink_to(ROOT / name)
    toc = {"format": "jb-book", "root": "index", "chapters": [{"file": "notebooks/01_short"}]}
    (root / "_toc.yml").write_text(yaml.safe_dump(toc))
    (root / "index.md").write_text("# Title\n")
    cells = [
        new_markdown_cell("# Short"),
        new_code_cell("import agn_helpers as agn\nlen(agn.open_training_set().catalog())"),
    ]
    nbformat.write(new_notebook(cells=cells), root / "notebooks" / "01_short.ipynb")
    monkeypatch.setattr(build_book, "ROOT", root)
    sources = (
        "_config.yml",
        "_toc.yml",
        "_ext",
        "_static",
        "notebooks",
        "reference/*.bib",
        "reference/inventories",
        "index.md",
    )
    monkeypatch.setattr(build_book, "SOURCES", sources)
    return root


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")  # of others
def test_book_about_another_store_leaves_the_notebooks_alone(small_book, small_store, capsys):
    stored = small_book / "notebooks" / "01_short.ipynb"
    before = hashlib.sha256(stored.read_bytes()).hexdigest()
    assert build_book.main(["--store", str(small_store)]) == 0
    folder = small_book / "_build" / "stores" / build_book.store_name(str(small_store))
    assert hashlib.sha256(stored.read_bytes()).hexdigest() == before
    shown = nbformat.read(folder / "book" / "notebooks" / "01_short.ipynb", as_version=4)
    import agn_helpers as agn

    with agn.open_training_set(small_store) as ts:
        assert shown.cells[1].outputs[0].data["text/plain"] == str(len(ts.catalog()))
    assert (folder / "html" / "notebooks" / "01_short.html").exists()
    assert "executed in" in capsys.readouterr().out
    assert build_book.main(["--store", str(small_store)]) == 0
    assert "01_short.ipynb: stands" in capsys.readouterr().out


def test_failing_cell_stops_and_is_named(small_book, small_store, capsys):
    path = small_book / "notebooks" / "01_short.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].source = "raise ValueError('this store has no redshift')"
    nbformat.write(notebook, path)
    assert build_book.main(["--store", str(small_store)]) == 1
    message = capsys.readouterr().err
    assert "01_short.ipynb, cell 2 of 2, stopped" in message
    assert "this store has no redshift" in message


@pytest.mark.parametrize("kind", ["packed", "challenge"])
def test_store_of_another_layout_is_told_at_once(small_book, small_store, tmp_path, capsys, kind):
    import agn_helpers as agn

    other = tmp_path / "other.zarr.zip" if kind == "packed" else editions.write_challenge(tmp_path / "dc")
    if kind == "packed":
        agn.pack_store(small_store, other)
    assert build_book.main(["--store", str(other)]) == 1
    assert "it has not the layout that the book explains" in capsys.readouterr().err
    assert not (small_book / "_build").exists()


def test_wrong_path_is_told_at_once_and_nothing_is_made(small_book, capsys):
    assert build_book.main(["--store", "nowhere.zarr.zip"]) == 1
    assert "There is nothing at" in capsys.readouterr().err
    assert not (small_book / "_build").exists()


@pytest.mark.parametrize(
    ("location", "name"),
    [("/a/qso_s82.zarr.zip", "qso_s82"), ("/a/my store.zarr", "my-store"), ("sciserver", "sciserver")],
)
def test_folder_of_a_store_is_named_after_it(location, name):
    assert build_book.store_name(location) == name


def test_staging_keeps_times_and_removes_what_is_gone(small_book, tmp_path):
    stage = tmp_path / "stage"
    build_book.stage(stage)
    time = (stage / "index.md").stat().st_mtime_ns
    (stage / "old.md").write_text("old")
    assert build_book.stage(stage)
    assert (stage / "index.md").stat().st_mtime_ns == time
    assert not (stage / "old.md").exists()


@pytest.mark.parametrize("name", ["_ext/book_home.py", "_static/book.css"])
def test_every_page_is_built_again_when_an_extension_or_the_style_changes(small_book, tmp_path, name):
    """Sphinx does not know which pages depend on it, so it left the old ones."""
    stage = tmp_path / "stage"
    assert build_book.stage(stage)
    assert not build_book.stage(stage)
    (stage / name).write_text("as it was")
    assert build_book.stage(stage)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")  # of others
def test_next_build_tells_a_mistake_again_and_drops_a_page_that_is_gone(small_book, tmp_path):
    """Sphinx tells a page's warnings only when it reads it, and leaves pages of sources that are gone."""
    book, html = tmp_path / "book", tmp_path / "html"

    def build():
        return build_book.build_site(book, html, anew=build_book.stage(book))

    (small_book / "notebooks" / "01_short.ipynb").unlink()
    (small_book / "_toc.yml").write_text("format: jb-book\nroot: index\n")
    (small_book / "index.md").write_text("# Title\n\n```{nonsense}\n```\n")
    (small_book / "notebooks" / "old.md").write_text("---\norphan: true\n---\n# Old\n")
    assert [build(), build()] == [False, False]
    (small_book / "index.md").write_text("# Title\n")
    assert build()
    assert (html / "notebooks" / "old.html").exists()
    (small_book / "notebooks" / "old.md").unlink()
    assert build()
    assert not (html / "notebooks" / "old.html").exists()
    assert (html / "index.html").exists()


def test_zip_holds_the_whole_site_and_is_the_same_twice(tmp_path, capsys):
    html = tmp_path / "html"
    (html / "a").mkdir(parents=True)
    (html / "index.html").write_text("home")
    (html / "a" / "b.html").write_text("page")
    first = zip_site.zip_site(html, tmp_path / "1.zip").read_bytes()
    (html / "index.html").touch()
    assert zip_site.zip_site(html, tmp_path / "2.zip").read_bytes() == first
    with zipfile.ZipFile(tmp_path / "1.zip") as packed:
        inside = {name.removeprefix(f"{zip_site.NAME}/"): packed.read(name) for name in packed.namelist()}
    assert inside == {"index.html": b"home", "a/b.html": b"page"}
    assert zip_site.main([str(tmp_path), str(tmp_path / "3.zip")]) == 1
    assert "make book" in capsys.readouterr().err
    assert not (tmp_path / "3.zip").exists()


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def workflow(name):
    return yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8"))


@pytest.mark.skipif(shutil.which("sh") is None, reason="needs sh")
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_workflows_pin_their_actions_and_ask_for_little(path):
    text = path.read_text(encoding="utf-8")
    whole = yaml.safe_load(text)
    assert whole["permissions"] == {"contents": "read"}
    assert "group" in whole["concurrency"]
    for line in re.findall(r"uses: (.*)", text):
        assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line
    for job in whole["jobs"].values():
        assert job["name"]
        assert "timeout-minutes" in job
        for step in job["steps"]:
            if "checkout@" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False
            if "run" in step:
                assert "${{" not in step["run"], "pass it through env, where it cannot become code"
                subprocess.run(["sh", "-n"], input=step["run"], text=True, check=True)


def test_one_action_has_one_version():
    texts = [path.read_text(encoding="utf-8") for path in WORKFLOWS]
    pairs = {tuple(use.split("@")) for text in texts for use in re.findall(r"uses: (.*)", text)}
    assert len({action for action, version in pairs}) == len(pairs)


def test_every_supported_python_and_system_is_tested():
    assert PROJECT["requires-python"] == ">=3.11,<3.15"
    jobs = workflow("tests")["jobs"]
    pythons = ["3.11", "3.12", "3.13", "3.14"]
    assert jobs["everything"]["strategy"]["matrix"] == {"python": pythons}
    assert jobs["everything"]["runs-on"].startswith("ubuntu-")
    others = jobs["module"]["strategy"]["matrix"]
    assert others["python"] == pythons
    assert [system.split("-")[0] for system in others["system"]] == ["macos", "windows"]


def test_only_main_is_published():
    site = workflow("site")
    assert site[True]["push"] == {"branches": ["main"]}  # YAML reads the key "on" as true
    assert "github.ref == 'refs/heads/main'" in site["jobs"]["publish"]["if"]
    allowed = [
        job.get("permissions", {})
        for name in ("tests", "site", "weekly")
        for job in workflow(name)["jobs"].values()
    ]
    assert [p for p in allowed if p] == [{"pages": "write", "id-token": "write"}, {"issues": "write"}]


def test_weekly_run_tries_both_ends_and_tools_are_pinned():
    jobs = workflow("weekly")["jobs"]
    tried = {row["versions"]: row["resolution"] for row in jobs["versions"]["strategy"]["matrix"]["include"]}
    assert tried == {"newest": "highest", "oldest": "lowest-direct"}
    assert set(jobs["report"]["needs"]) == set(jobs) - {"report"}
    steps = [
        s for name in ("tests", "weekly") for job in workflow(name)["jobs"].values() for s in job["steps"]
    ]
    for tool in ("uv", "pip-audit", "zizmor", "check-jsonschema"):
        assert any(re.search(rf"\b{tool}==\d+\.\d+\.\d+", step.get("run", "")) for step in steps), tool


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(("already", "opened"), [("", 1), ("7", 0), ("7\n9", 0)])
def test_a_failing_week_opens_one_issue(tmp_path, already, opened):
    """The step itself, with a program that notes what it is asked in place of GitHub's."""
    gh = tmp_path / "gh"
    gh.write_text('#!/bin/sh\necho "$@" >> "$NOTES"\n[ "$2" = create ] || printf "%s" "$ALREADY"\n')
    gh.chmod(0o755)
    notes = tmp_path / "notes"
    environment = os.environ | {"NOTES": str(notes), "ALREADY": already, "RUN": "https://example.org/run/1"}
    environment["PATH"] = f"{tmp_path}{os.pathsep}{environment['PATH']}"
    (step,) = workflow("weekly")["jobs"]["report"]["steps"]
    subprocess.run(["bash", "-e", "-c", step["run"]], env=environment, check=True)
    asked = notes.read_text().splitlines()
    assert asked[0].startswith("issue list --state open")
    assert sum(line.startswith("issue create") for line in asked) == opened
    assert all("https://example.org/run/1" in line for line in asked[1:])
