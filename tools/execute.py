"""Execute the book's notebooks and store their outputs, byte for byte the same each time.

    python tools/execute.py                     every notebook, in place
    python tools/execute.py --check             change nothing; exit 1 where a byte would change
    python tools/execute.py --times             also measure again what varies from run to run
    python tools/execute.py notebooks/a.ipynb   this one only

What makes the outputs reproducible: a kernel that ignores the user's own configuration, no time
stamps, fixed metadata, and the rules of `sanitize.cfg`. A cell tagged `nbval-ignore-output` keeps
its stored output while its source is unchanged. A picture keeps its stored bytes while the newly
drawn one differs by no more than rounding does between two processors.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib.image
import nbformat
import numpy as np
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / "tools"

METADATA = {
    "kernelspec": {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    },
    "language_info": {"name": "python"},
}
CELL_TIMEOUT = 600  # seconds; a cell that needs longer does not belong in a chapter

# Adults read English non-fiction at 238 words per minute: Brysbaert (2019), Journal of Memory and
# Language 109, 104047. The other two are our own allowance for trying things out.
WORDS_PER_MINUTE = 238
MINUTES_PER_CODE_CELL = 0.5
MINUTES_PER_EXERCISE = 4

# Two processors round differently; an edge in a picture then moves by some levels of 255.
PICTURE_TOLERANCE = 32


class ExecutionError(RuntimeError):
    """A notebook could not be executed to its end; says which cell and why."""


def notebooks() -> list[Path]:
    """The book's notebooks, in the order of their names."""
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def repository_url() -> str:
    """Address of the project, from the one place where it stands."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    return str(config["repository"]["url"])


@contextmanager
def kernel_environment(store: str | None = None) -> Iterator[dict[str, str]]:
    """Environment variables of a kernel that nothing on this machine can colour.

    Parameters
    ----------
    store : str, optional
        What `AGN_STORE` shall name; without it the book's sample store is used.
    """
    private = ("PYTHON", "IPYTHON", "MPL", "MATPLOTLIB", "AGN_STORE", "DASK_", "ZARR_", "TQDM_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(private)}
    with tempfile.TemporaryDirectory(prefix="agn-book-") as folder:
        profile = Path(folder, "profile_default")
        profile.mkdir()
        shutil.copy(TOOLS / "kernel_profile.py", profile / "ipython_kernel_config.py")
        Path(folder, "matplotlibrc").touch()  # an empty one: Matplotlib's own defaults
        environment |= {
            "IPYTHONDIR": folder,
            "MATPLOTLIBRC": folder,
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "TZ": "UTC",
            "PYTHONUTF8": "1",
        }
        if store is not None:
            environment["AGN_STORE"] = store
        yield environment


def sanitise_rules() -> list[tuple[str, str]]:
    """Pairs of pattern and replacement, as nbval reads them."""
    text = (TOOLS / "sanitize.cfg").read_text(encoding="utf-8")
    return re.findall(r"^regex: (.*)$\n^replace: (.*)$", text, flags=re.MULTILINE)


def sanitise(text: object) -> object:
    """Replace what differs from run to run; anything but text passes unchanged."""
    if isinstance(text, str):
        for pattern, replacement in sanitise_rules():
            text = re.sub(pattern, replacement, text)
    return text


def same_picture(old: str, new: str) -> bool:
    """Whether two base64 PNG files show the same, up to rounding."""
    if old == new:
        return True
    a, b = (matplotlib.image.imread(io.BytesIO(base64.b64decode(x)), "png") for x in (old, new))
    return a.shape == b.shape and bool(np.max(np.abs(a - b)) * 255 <= PICTURE_TOLERANCE)


def has_tag(cell: NotebookNode, tag: str) -> bool:
    """Whether the cell carries this tag."""
    return tag in cell.metadata.get("tags", [])


def digest(text: str) -> str:
    """Short fingerprint of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def keep_what_is_the_same(old: NotebookNode, new: NotebookNode, times: bool) -> None:
    """Put stored outputs of one cell back where the new ones say nothing new."""
    if has_tag(new, "nbval-ignore-output"):
        fingerprint = digest(new.source)
        if old.outputs and old.metadata.get("output_of") == fingerprint and not times:
            new.outputs = old.outputs
        new.metadata["output_of"] = fingerprint
        return
    if len(old.outputs) != len(new.outputs):
        return
    for before, after in zip(old.outputs, new.outputs, strict=True):
        a = before.get("data", {}).get("image/png")
        b = after.get("data", {}).get("image/png")
        if a and b and same_picture(a, b):
            after.data["image/png"] = a


def minutes_to_read(notebook: NotebookNode) -> int:
    """Minutes for reading and trying a chapter, in steps of five."""
    prose = " ".join(
        cell.source
        for cell in notebook.cells
        if cell.cell_type == "markdown" and not has_tag(cell, "measured-time")
    )
    code = sum(cell.cell_type == "code" for cell in notebook.cells)
    minutes = (
        len(prose.split()) / WORDS_PER_MINUTE
        + code * MINUTES_PER_CODE_CELL
        + len(re.findall(r":class: exercise", prose)) * MINUTES_PER_EXERCISE
    )
    return max(5, 5 * round(minutes / 5))


def write_time(notebook: NotebookNode, seconds: float, times: bool) -> None:
    """Fill in the cell that tells how long the chapter takes."""
    code = digest("\n".join(c.source for c in notebook.cells if c.cell_type == "code"))
    for cell in notebook.cells:
        if not has_tag(cell, "measured-time"):
            continue
        measured = cell.metadata.get("measured", {})
        if measured.get("code") != code or times:
            measured = {"code": code, "seconds": max(1, round(seconds))}
            cell.metadata["measured"] = measured
        run = measured["seconds"]
        shown = f"{run} second{'s' * (run != 1)}" if run < 100 else f"{round(run / 60)} minutes"
        cell.source = (
            f"**Time:** about {minutes_to_read(notebook)} minutes to read and try. "
            f"All cells together run in {shown} (measured)."
        )


def write_colab_cell(notebook: NotebookNode) -> None:
    """Fill in the cell that installs the book's needs on Google Colab, and does nothing elsewhere."""
    for cell in notebook.cells:
        if has_tag(cell, "install-on-colab"):
            cell.source = (
                "# On Google Colab only: install what this chapter needs.\n"
                "import sys\n\n"
                'if "google.colab" in sys.modules:\n'
                f'    url = "{repository_url()}"\n'
                '    %pip install -q "agn-helpers[chapters] @ git+{url}"'
            )


def show_failure(path: Path, notebook: NotebookNode, reason: str) -> str:
    """Name the notebook and the cell at which execution stopped."""
    ran = [i for i, c in enumerate(notebook.cells) if c.cell_type == "code" and c.execution_count]
    failed = [
        i
        for i, c in enumerate(notebook.cells)
        if c.cell_type == "code" and any(o.output_type == "error" for o in c.outputs)
    ]
    index = failed[-1] if failed else (ran[-1] if ran else 0)
    return f"{path.name}, cell {index + 1} of {len(notebook.cells)}, stopped.\n{reason}"


def execute(path: Path, store: str | None = None, times: bool = False) -> str:
    """Execute one notebook and return the text of the file as it should be.

    Parameters
    ----------
    path : Path
        The notebook; it is not changed.
    store : str, optional
        Location of the store that the notebook shall read instead of the sample.
    times : bool
        Measure again what varies from run to run.

    Raises
    ------
    ExecutionError
        If a cell fails, takes longer than `CELL_TIMEOUT` or ends its kernel.
    """
    old = nbformat.read(path, as_version=4)
    new = nbformat.from_dict(old)
    write_colab_cell(new)
    for cell in new.cells:
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = []
    client = NotebookClient(
        new,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    start = time.perf_counter()
    with kernel_environment(store) as environment:
        try:
            client.execute(env=environment)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            raise ExecutionError(show_failure(path, new, str(error))) from None
    seconds = time.perf_counter() - start

    for before, after in zip(old.cells, new.cells, strict=True):
        if after.cell_type != "code":
            continue
        for key in ("execution", "collapsed", "scrolled", "ExecuteTime"):
            after.metadata.pop(key, None)
        for output in after.outputs:
            if output.output_type == "stream":
                output.text = sanitise(output.text)
            elif output.output_type == "error":
                output.evalue = sanitise(output.evalue)
                output.traceback = [sanitise(line) for line in output.traceback]
            else:
                for kind in output.data:
                    if not kind.startswith("image/"):
                        output.data[kind] = sanitise(output.data[kind])
        if before.cell_type == "code":
            keep_what_is_the_same(before, after, times)
    write_time(new, seconds, times)
    new.metadata = nbformat.from_dict(METADATA)
    new.nbformat, new.nbformat_minor = 4, 5
    nbformat.validate(new)
    return nbformat.writes(new, indent=1, ensure_ascii=False) + "\n"


def write(path: Path, text: str) -> None:
    """Write a file completely or not at all."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    os.replace(temporary, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Execute what the command line asks for; 0 when all is well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit 1 where a byte would change")
    parser.add_argument("--times", action="store_true", help="measure again what varies")
    parser.add_argument("paths", nargs="*", type=Path, metavar="NOTEBOOK")
    options = parser.parse_args(arguments)
    if lost := [str(path) for path in options.paths if not path.is_file()]:
        known = ", ".join(f"notebooks/{path.name}" for path in notebooks())
        parser.error(f"there is no {lost[0]}; the chapters are {known}")
    changed = []
    for path in options.paths or notebooks():
        start = time.perf_counter()
        try:
            text = execute(path, times=options.times)
        except ExecutionError as error:
            print(error, file=sys.stderr)
            return 1
        same = text == path.read_text(encoding="utf-8")
        if not same:
            changed.append(path.name)
            if not options.check:
                write(path, text)
        word = "unchanged" if same else ("would change" if options.check else "written")
        print(f"{path.name}: {word}, {time.perf_counter() - start:.1f} s", flush=True)
    if options.check and changed:
        print(f"Not up to date: {', '.join(changed)}. Type: make refresh", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
