"""What nbval cannot see: pictures, outputs removed altogether, and the house format of a chapter.

The cells themselves are compared by nbval, which collects `notebooks/`.
"""

import base64
import io
import json
import re
import shutil
from pathlib import Path

import execute
import nbformat
import numpy as np
import pytest
from matplotlib import image
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

NOTEBOOKS = execute.notebooks()
CHAPTERS = [path for path in NOTEBOOKS if re.match(r"\d\d_", path.name)]
LONGEST_LINE = 78  # what fits the page at 1280 pixels without scrolling


def named(path):
    return path.stem


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_executing_again_changes_no_byte(path):
    assert execute.execute(path) == path.read_text(encoding="utf-8"), "type: make refresh"


@pytest.fixture(params=NOTEBOOKS, ids=named)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


@pytest.fixture(params=CHAPTERS, ids=named)
def chapter(request):
    return nbformat.read(request.param, as_version=4)


def test_code_fits_the_page(notebook):
    lines = [
        line
        for cell in notebook.cells
        if cell.cell_type == "code" and not execute.has_tag(cell, "remove-cell")
        for line in cell.source.splitlines()
    ]
    assert [line for line in lines if len(line) > LONGEST_LINE] == []


def test_pictures_have_words_and_a_caption(notebook):
    for number, cell in enumerate(notebook.cells):
        pictures = [o for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
        assert len(pictures) <= 1, f"cell {number}: one figure per cell"
        if pictures:
            words = cell.metadata.get("mystnb", {})
            assert len(words.get("image", {}).get("alt", "")) >= 20, f"cell {number}: no alt text"
            assert words.get("figure", {}).get("caption"), f"cell {number}: no caption"


def test_nothing_of_this_machine_is_stored(notebook):
    text = json.dumps([c.get("outputs", []) for c in notebook.cells])
    assert str(execute.ROOT) not in text
    # SciServer's own folder is the same for every reader; the notebooks name it.
    assert not re.search(r"/home/\w+/|/root/|/Users/\w+/", text.replace("/home/idies/", ""))


def test_chapter_keeps_the_house_format(chapter):
    prose = [c.source for c in chapter.cells if c.cell_type == "markdown"]
    titles = re.findall(r"^# ", "\n".join(prose), flags=re.MULTILINE)
    headings = [h for p in prose for h in re.findall(r"^## (.+)$", p, flags=re.MULTILINE)]
    assert len(titles) == 1
    assert headings[0] == "What you will be able to do"
    for expected in ("What you need first", "Summary", "What next"):
        assert expected in headings
    objectives = next(p for p in prose if "## What you will be able to do" in p)
    assert 3 <= len(re.findall(r"^(?:[-*]|\d+\.) ", objectives, flags=re.MULTILINE)) <= 5
    tags = [tag for c in chapter.cells for tag in c.metadata.get("tags", [])]
    assert tags.count("measured-time") == tags.count("install-on-colab") == 1


def test_each_exercise_is_followed_by_a_folded_solution(chapter):
    exercises = 0
    for cell, after in zip(chapter.cells, [*chapter.cells[1:], None], strict=True):
        if cell.cell_type == "markdown" and ":class: exercise" in cell.source:
            exercises += 1
            assert after is not None
            assert execute.has_tag(after, "hide-cell"), cell.source
            assert after.metadata.jupyter.source_hidden, "folded in JupyterLab too"
            assert "solution" in after.metadata.mystnb.code_prompt_show
            assert after.execution_count
    assert exercises >= 3


def picture(values):
    file = io.BytesIO()
    image.imsave(file, values, format="png", vmin=0, vmax=255, cmap="gray")
    return base64.b64encode(file.getvalue()).decode()


def test_a_picture_is_the_same_up_to_rounding_only():
    values = np.full((20, 20), 100.0)
    near, far = values.copy(), values.copy()
    near[3, 3] += execute.PICTURE_TOLERANCE - 2
    far[3, 3] += execute.PICTURE_TOLERANCE + 2
    assert execute.same_picture(picture(values), picture(near))
    assert not execute.same_picture(picture(values), picture(far))
    assert not execute.same_picture(picture(values), picture(values[:10]))


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A notebook of one cell of each kind, executed once."""
    cells = [
        new_markdown_cell("", metadata={"tags": ["measured-time"]}),
        new_code_cell("", metadata={"tags": ["install-on-colab"]}),
        new_code_cell("import matplotlib.pyplot as plt\nplt.subplots(figsize=(1, 1));"),
        new_code_cell("import time\ntime.time_ns()", metadata={"tags": ["nbval-ignore-output"]}),
        new_code_cell("object()"),
        new_code_cell("1 / 0", metadata={"tags": ["raises-exception"]}),
    ]
    path = tmp_path_factory.mktemp("executed") / "small.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    assert execute.main([str(path)]) == 0
    return path


@pytest.fixture
def small(executed, tmp_path):
    """A copy of that notebook to change."""
    return Path(shutil.copy(executed, tmp_path))


def test_a_name_that_is_no_notebook_is_answered_with_those_there_are(capsys):
    with pytest.raises(SystemExit):
        execute.main(["--check", "02_catalogue"])
    assert "there is no 02_catalogue; the chapters are notebooks/01_store" in capsys.readouterr().err


def test_executing_twice_gives_the_same_file(small):
    before = small.read_bytes()
    assert execute.main(["--check", str(small)]) == 0
    assert execute.main([str(small)]) == 0
    assert small.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    ["other picture", "no picture", "stripped", "counted wrongly", "traceback", "text"],
)
def test_check_notices_what_was_changed(small, change, capsys):
    notebook = nbformat.read(small, as_version=4)
    drawn, addressed, failing = notebook.cells[2], notebook.cells[4], notebook.cells[5]
    if change == "other picture":
        drawn.outputs[-1].data["image/png"] = picture(np.zeros((9, 9)))
    elif change == "no picture":
        del drawn.outputs[-1].data["image/png"]
    elif change == "stripped":
        for cell in notebook.cells[1:]:
            cell.outputs, cell.execution_count = [], None
    elif change == "counted wrongly":
        addressed.execution_count = 77
    elif change == "traceback":
        failing.outputs[0].traceback = ["Nothing happened."]
    else:
        addressed.outputs = [new_output("stream", text="hello")]
    nbformat.write(notebook, small)
    before = small.read_bytes()
    assert execute.main(["--check", str(small)]) == 1
    assert "make refresh" in capsys.readouterr().err
    assert small.read_bytes() == before


def test_time_is_measured_again_only_when_the_code_changed(small):
    notebook = nbformat.read(small, as_version=4)
    notebook.cells[0].metadata.measured.seconds = 42
    nbformat.write(notebook, small)
    execute.main([str(small)])
    assert "run in 42 seconds" in nbformat.read(small, as_version=4).cells[0].source
    notebook.cells[4].source = "object"
    nbformat.write(notebook, small)
    execute.main([str(small)])
    assert "run in 42 seconds" not in nbformat.read(small, as_version=4).cells[0].source


def test_a_failing_cell_is_named_and_nothing_is_written(small, capsys):
    notebook = nbformat.read(small, as_version=4)
    notebook.cells[4].source = "raise ValueError('the reason')"
    nbformat.write(notebook, small)
    before = small.read_bytes()
    assert execute.main([str(small)]) == 1
    assert re.search(r"small\.ipynb, cell 5 of 6, stopped.*the reason", capsys.readouterr().err, re.S)
    assert small.read_bytes() == before


def test_the_kernel_ignores_the_users_own_settings(monkeypatch):
    monkeypatch.setenv("AGN_STORE", "elsewhere")
    monkeypatch.setenv("MPLCONFIGDIR", "mine")
    with execute.kernel_environment() as environment:
        assert not {"AGN_STORE", "MPLCONFIGDIR"} & set(environment)
    with execute.kernel_environment("a.zarr.zip") as environment:
        assert environment["AGN_STORE"] == "a.zarr.zip"
