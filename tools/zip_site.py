"""Pack the built site into one file, to be read without a network: unzip it, open index.html.

python tools/zip_site.py [HTML_FOLDER [ZIP]]
"""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAME = "agn-training-set-book"


def zip_site(html: Path, target: Path) -> Path:
    """Pack a folder; the same files give the same bytes.

    Parameters
    ----------
    html : Path
        Folder of the built site.
    target : Path
        The zip; it is complete or absent.

    Raises
    ------
    FileNotFoundError
        If no site was built there.
    """
    if not (html / "index.html").exists():
        msg = f"No site in {html}. Type: make book"
        raise FileNotFoundError(msg)
    temporary = target.with_name(target.name + ".part")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(html.rglob("*")):
            if file.is_file():
                name = Path(NAME, file.relative_to(html)).as_posix()
                member = zipfile.ZipInfo(name)  # its time stamp is always 1980
                member.external_attr = 0o644 << 16
                packed.writestr(member, file.read_bytes(), zipfile.ZIP_DEFLATED)
    os.replace(temporary, target)
    return target


def main(arguments: Sequence[str]) -> int:
    """Pack what the command line names."""
    html = Path(arguments[0]) if arguments else ROOT / "_build" / "html"
    target = Path(arguments[1]) if len(arguments) > 1 else ROOT / "_build" / f"{NAME}.zip"
    try:
        target = zip_site(html, target)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
