"""Build the site, warnings being errors.

    python tools/build_book.py                     stored outputs   -> _build/html
    python tools/build_book.py --store STORE       every notebook executed on that store
                                                   -> _build/stores/NAME/html
    python tools/build_book.py --output FOLDER     somewhere else

Sources are copied to a folder of their own first, so that nothing is ever written beside them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import execute
import explorer
import home_figure

ROOT = execute.ROOT
# What the site is made of, seen from the root of the project.
SOURCES = (
    "_config.yml", "_toc.yml", "_ext", "_static", "notebooks", "reference", "benchmarks/results.json",
    "index.md", "setup.md", "explorer.md", "CHANGELOG.md", "CONTRIBUTING.md",
)  # fmt: skip
DRAWN = Path("_static", "drawn")  # pictures made at build, in the copy only
EXPLORED = Path("explorer_data")  # the same, for the page "Explorer"
SKIP = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "*.part")


def stage(folder: Path) -> bool:
    """Bring a copy of the sources up to date; files that are the same keep their time stamps.

    Returns
    -------
    bool
        Whether every page must be built anew: a file of the extensions or of the style changed, of
        which Sphinx does not know that pages depend on it, or a source is gone.
    """
    wanted: set[Path] = set()
    anew = False
    for pattern in SOURCES:
        for source in sorted(ROOT.glob(pattern)):
            files = [source] if source.is_file() else sorted(source.rglob("*"))
            ignored = SKIP(str(ROOT), [f.name for f in files])
            for file in files:
                relative = file.relative_to(ROOT)
                if not file.is_file() or ignored.intersection([file.name, *relative.parts]):
                    continue
                wanted.add(relative)
                target = folder / relative
                if not target.exists() or target.read_bytes() != file.read_bytes():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, target)
                    anew |= relative.parts[0] in ("_ext", "_static")
    for target in sorted(folder.rglob("*")):
        made = target.parent in (folder / DRAWN, folder / EXPLORED)
        unwanted = target.relative_to(folder) not in wanted and not made
        if target.is_file() and unwanted:
            target.unlink()
            anew = True
    return anew


def resolve(store: str) -> str:
    """Absolute location of a store, checked by opening it.

    Parameters
    ----------
    store : str
        A path as the user typed it, seen from the folder where the command was given,
        or one of the names that `agn_helpers` knows, such as `sciserver`.
    """
    import zarr

    from agn_helpers import TrainingSet, open_training_set

    location = str(Path(store).resolve()) if Path(store).exists() else store
    with open_training_set(location) as training_set:
        if type(training_set) is not TrainingSet or isinstance(training_set.root["catalog"], zarr.Group):
            raise ValueError(
                f"{store} can be read, but it has not the layout that the book explains, one array for each "
                "light curve. Take the store that a packed copy was made from, or one of the 2020 edition."
            )
    return location


def store_name(location: str) -> str:
    """Name of a folder for what is built from this store."""
    name = re.sub(r"(\.zarr)?(\.zip)?$", "", Path(location).name)
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "store"


def fingerprint(path: Path, location: str) -> str:
    """What the outputs of a notebook depend on: its text, the helper's code, the store."""
    files = [path, *sorted((ROOT / "agn_helpers").glob("*.*")), ROOT / "requirements.txt"]
    total = hashlib.sha256(b"".join(f.read_bytes() for f in files))
    at = Path(location)
    members = sorted(at.rglob("*")) if at.is_dir() else [at]
    for member in members:
        if member.exists():
            status = member.stat()
            total.update(f"{member} {status.st_size} {status.st_mtime_ns}\n".encode())
    return total.hexdigest()


def execute_on(location: str, folder: Path) -> None:
    """Execute the notebooks of a staged book on another store, those that are not up to date.

    Parameters
    ----------
    location : str
        Absolute location of the store.
    folder : Path
        The folder of this store; the staged book is its child `book`, results are kept in its
        child `executed`.
    """
    kept = folder / "executed"
    kept.mkdir(parents=True, exist_ok=True)
    staged = sorted((folder / "book" / "notebooks").glob("*.ipynb"))
    for number, path in enumerate(staged, start=1):
        mark, result = kept / f"{path.stem}.json", kept / path.name
        now = {"inputs": fingerprint(ROOT / "notebooks" / path.name, location)}
        start = time.perf_counter()
        if result.exists() and mark.exists() and json.loads(mark.read_text()) == now:
            word = "stands"
        else:
            mark.unlink(missing_ok=True)
            execute.write(result, execute.execute(path, store=location, times=True))
            mark.write_text(json.dumps(now))
            word = f"executed in {time.perf_counter() - start:.1f} s"
        shutil.copyfile(result, path)
        print(f"  [{number}/{len(staged)}] {path.name}: {word}", flush=True)


def build_site(book: Path, html: Path, anew: bool = False) -> bool:
    """Let Jupyter Book build the staged sources, or those that changed; True when there was no warning."""
    from jupyter_book.sphinx import build_sphinx

    doctrees = html.with_name(f".{html.name}-doctrees")
    if anew and (html / ".buildinfo").exists():  # Sphinx made these pages, some of sources now gone
        shutil.rmtree(html, ignore_errors=True)
    # Jupyter Book's own command knows only one place for its results, a folder `_build`.
    result = build_sphinx(
        book,
        html,
        noconfig=True,
        path_config=book / "_config.yml",
        confoverrides={
            "external_toc_path": (book / "_toc.yml").as_posix(),
            "latex_individualpages": False,
        },
        doctreedir=doctrees,
        freshenv=anew,
        force_all=anew,
        warningiserror=True,
        keep_going=True,
        quiet=True,
    )
    if result:  # a page is read again only when it changed, and its warnings told only then
        shutil.rmtree(doctrees, ignore_errors=True)
    return result == 0


def size(folder: Path) -> str:
    """Number of pages and size of a site, for people."""
    files = [f for f in folder.rglob("*") if f.is_file()]
    pages = sum(f.suffix == ".html" for f in files)
    return f"{pages} pages, {sum(f.stat().st_size for f in files) / 1e6:.1f} MB"


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what the command line asks for; 0 when all is well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", help="location of another store to read")
    parser.add_argument("--output", type=Path, help="folder for the result instead of _build")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    folder = (options.output or ROOT / "_build").resolve()
    try:
        if options.store:
            location = resolve(options.store)
            if not options.output:
                folder = folder / "stores" / store_name(location)
            print(f"The book about {location}:", flush=True)
            anew = stage(folder / "book")
            execute_on(location, folder)
            home_figure.make(folder / "book" / DRAWN, location)
            explorer.make(folder / "book" / EXPLORED, location)
        else:
            os.environ.pop("AGN_STORE", None)
            anew = stage(folder / "book")
            home_figure.make(folder / "book" / DRAWN)  # builds the sample store on first use
            explorer.make(folder / "book" / EXPLORED)
    except (execute.ExecutionError, OSError, ValueError, LookupError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    html = folder / "html"
    if not build_site(folder / "book", html, anew=anew):
        print("\nThe site has warnings, and warnings are errors. See above.", file=sys.stderr)
        return 1
    seconds = time.perf_counter() - start
    print(f"\nThe site is ready: {size(html)}, {seconds:.0f} s.")
    print(f"Open it:   {(html / 'index.html').as_uri()}")
    if not options.store and not options.output:
        print("Serve it:  make serve")
    return 0


if __name__ == "__main__":
    sys.exit(main())
