"""Whether this Python has what the book needs, and what to type if not.

It is read before anything else of the module, thus needs none of what it looks for.
"""

import contextlib
import importlib.util
import os
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from packaging.requirements import Requirement

__all__ = ["Finding", "check"]

_NAME = "agn-helpers"
_CHAPTERS = {  # what each imports besides the module's own needs; a test compares it with the notebooks
    "1": {"moto", "obstore"},
    "2": {"astropy"},
    "3": {"astropy", "light-curve", "scipy"},
    "4": {"cloudpickle", "distributed", "icechunk", "moto"},
    "5": {"pooch", "requests", "scipy"},
    "6": {"dask", "moto", "obstore", "pyarrow"},
}


class Finding(NamedTuple):
    """One thing that was looked at."""

    ok: bool
    what: str
    """What was found, or what is wrong."""
    command: str = ""
    """What to type if it is wrong."""

    def __str__(self) -> str:
        command = f". Type: {self.command}" if self.command else ""
        return f"{'ok' if self.ok else 'missing':9}{self.what}{command}"


def check(chapters: bool = True) -> list[Finding]:
    """Look whether Python, the packages, the Jupyter kernel and the sample store's folder are as needed.

    Nothing is installed, built or kept. To see whether the cache folder takes a file, an unnamed one is
    made there and removed. Only direct needs are looked at; ``python -m pip check`` looks at all others.

    Parameters
    ----------
    chapters : bool
        Also look for what only the book's chapters need, Jupyter included.

    Returns
    -------
    list of Finding
        The environment is complete if each is ``ok``.

    Examples
    --------
    >>> str(check()[0]).split()[:2]
    ['ok', 'Python']
    """
    book = f'{_python()} -m pip install -e "{Path(__file__).resolve().parents[1]}[chapters]"'
    # A folder may keep what an older installation wrote about it; what pip wrote last has METADATA.
    known = sorted(metadata.distributions(name=_NAME), key=lambda d: d.read_text("METADATA") is None)
    if not known or not importlib.util.find_spec("packaging"):
        return [Finding(False, f"{_NAME}, or packages that it needs, are not installed", book)]
    about = known[0].metadata
    if chapters and "chapters" not in (about.get_all("Provides-Extra") or ()):
        return [Finding(False, f"{_NAME} is installed as of an older version of its folder", book)]
    found = [_interpreter(about["Requires-Python"])]
    found += [_package(need) for need in _needed(known[0].requires or [], chapters)]
    if chapters:
        found.append(_kernel())
    with contextlib.suppress(ImportError):  # of what is missing, as found above
        found.append(_sample())
    return found


def _python() -> str:
    """Return what to type for this Python: ``python`` if that is the one."""
    known = shutil.which("python")
    same = known is not None and os.path.dirname(known) == os.path.dirname(sys.executable)
    return "python" if same else f'"{sys.executable}"'


def _interpreter(asked: str) -> Finding:
    from packaging.specifiers import SpecifierSet

    version = ".".join(map(str, sys.version_info[:3]))
    if SpecifierSet(asked).contains(version):
        return Finding(True, f"Python {version}")
    return Finding(
        False, f"Python {version} is not {asked}", "python3.12 -m venv .venv, or of another Python"
    )


def _needed(texts: list[str], chapters: bool) -> "list[Requirement]":
    """Return each direct need once: name, extras and bounds, as the installed metadata states them."""
    from packaging.requirements import Requirement

    asked = [Requirement(text) for text in texts]
    extras = ["", *(["chapters"] if chapters else [])]
    found: dict[str, Requirement] = {}
    for extra in extras:  # grows meanwhile: an extra may name others
        for need in asked:
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                if need.name == _NAME:
                    extras += sorted(need.extras - set(extras))
                else:
                    found.setdefault(need.name, need).specifier &= need.specifier
    return list(found.values())


def _package(need: "Requirement") -> Finding:
    users = ", ".join(chapter for chapter, names in _CHAPTERS.items() if need.name in names)
    who = f" (for chapter {users})" if users else ""
    command = f'{_python()} -m pip install "{str(need).partition(";")[0].strip()}"'
    try:
        version = metadata.version(need.name)
    except metadata.PackageNotFoundError:
        return Finding(False, f"{need.name}{who} is not installed", command)
    if need.specifier.contains(version, prereleases=True):
        return Finding(True, f"{need.name} {version}")
    return Finding(False, f"{need.name} {version}{who} is not {need.specifier}", command)


def _kernel() -> Finding:
    """Say whether the kernel that the notebooks ask for starts this Python."""
    try:
        import ipykernel  # noqa: F401  # whether it can be imported is the question
        from jupyter_client.kernelspec import KernelSpecManager
    except ImportError:
        return Finding(False, "Jupyter kernel is not installed", f"{_python()} -m pip install ipykernel")
    own = "--sys-prefix" if sys.prefix != sys.base_prefix else "--user"
    command = f"{_python()} -m ipykernel install {own}"
    program = KernelSpecManager().get_kernel_spec("python3").argv[0]
    if os.path.isabs(program) and os.path.dirname(program) != os.path.dirname(sys.executable):
        return Finding(False, f"Jupyter kernel 'python3' starts {program}, not {sys.executable}", command)
    return Finding(True, "Jupyter kernel 'python3'")


def _sample() -> Finding:
    """Say whether the sample store stands or can be built; build nothing."""
    from agn_helpers.sample import sample_path

    path = sample_path()
    if path.exists():
        return Finding(True, f"sample store {path}")
    folder = next(f for f in path.parents if f.exists())
    command = 'mkdir -p "$HOME/agn-cache"; export XDG_CACHE_HOME="$HOME/agn-cache"'
    if sys.platform != "linux":  # where no variable moves the cache folder
        command = "os.environ['AGN_STORE'] = 'PATH_OF_A_STORE', in Python"
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as e:
        return Finding(False, f"sample store {path} cannot be built: {e.strerror} in {folder}", command)
    return Finding(True, f"sample store {path} will be built at its first use, in seconds")
