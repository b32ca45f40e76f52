"""In the reference of the module, types and errors lead to where they are explained.

Other projects' names are listed in `reference/inventories`, a text file for each project, because the
build asks no other host. A name that is in none of them is not a link.
"""

from __future__ import annotations

import inspect
from pathlib import Path

from numpydoc.xref import DEFAULT_LINKS
from sphinx.application import Sphinx
from sphinx.config import Config

from agn_helpers import errors


def name_types(app: Sphinx, config: Config) -> None:
    """Tell numpydoc which words of a type are names; it takes each for one otherwise."""
    files = sorted(Path(app.srcdir, "reference", "inventories").glob("*.txt"))
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    names = {line.split()[0]: "" for line in lines if not line.startswith("#")}
    names |= {name: "agn_helpers.errors." for name, _ in inspect.getmembers(errors, inspect.isclass)}
    names |= {"TrainingSet": "agn_helpers."}
    config.numpydoc_xref_aliases = {word: word for word in DEFAULT_LINKS} | {
        name: f":obj:`{name} <{module}{name}>`" for name, module in names.items()
    }
    config.numpydoc_xref_ignore = "all"  # other words; _config.yml cannot set a word for a set


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx about this extension."""
    app.connect("config-inited", name_types, priority=100)  # before numpydoc reads it
    return {"parallel_read_safe": True, "parallel_write_safe": True}
