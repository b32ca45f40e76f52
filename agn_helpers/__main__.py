"""``python -m agn_helpers``: what one does to a store in a terminal."""

import argparse
import sys
from collections.abc import Sequence

from agn_helpers.arrays import MAX_BYTES
from agn_helpers.environment import check
from agn_helpers.errors import StoreNotFoundError, TrainingSetError
from agn_helpers.files import Place
from agn_helpers.validate import validate_store, write_manifest


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 fine, 1 something is wrong, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m agn_helpers", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("validate", help="read every byte of a store and say what is wrong")
    command.add_argument("path", help="a .zarr.zip or a folder")
    command.add_argument("--max-bytes", type=int, default=MAX_BYTES, help="largest array")
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    command = commands.add_parser("manifest", help="write PATH.sha256, which validate then compares")
    command.add_argument("path", help="a .zarr.zip or a folder that nobody writes to any more")
    command = commands.add_parser("fetch-stripe82", help="make a store of real quasars from a public archive")
    command.add_argument("path", nargs="?", default="stripe82.zarr.zip", help="the store to write")
    command.add_argument("--folder", help="where to keep the archive's files; by default your cache folder")
    command.add_argument(
        "--from", dest="addresses", action="append", metavar="URL", help="a mirror; may be given again"
    )
    command.add_argument(
        "--manifest", action="store_true", help="write PATH.sha256 too, as the command manifest"
    )
    command.add_argument("--quiet", action="store_true", help="no progress bars")
    command = commands.add_parser("check", help="look whether this Python has all that the book needs")
    command.add_argument("--module-only", action="store_true", help="leave out what only the chapters need")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "check":
            return _check(chapters=not chosen.module_only)
        if chosen.command == "fetch-stripe82":
            return _fetch_stripe82(chosen)
        if chosen.command == "manifest":
            sys.stdout.write(f"{write_manifest(chosen.path)}\n")
            return 0
        progress = False if chosen.quiet else None
        report = validate_store(chosen.path, max_bytes=chosen.max_bytes, progress=progress)
    except StoreNotFoundError as e:
        parser.error(str(e))
    except TrainingSetError as e:
        sys.stderr.write(f"{e}\n")
        return 1
    sys.stdout.write(f"{report}\n{chosen.path}: {'ok' if report.ok else 'NOT ok'}\n")
    return 0 if report.ok else 1


def _check(chapters: bool) -> int:
    found = check(chapters)
    for finding in found:
        sys.stdout.write(f"{finding}\n")
    wrong = sum(not finding.ok for finding in found)
    sys.stdout.write(f"{wrong} to mend, from the top; then type this again\n" if wrong else "complete\n")
    return 1 if wrong else 0


def _fetch_stripe82(chosen: argparse.Namespace) -> int:
    from agn_helpers.stripe82 import ARCHIVE, build_stripe82_store, fetch_stripe82

    progress = False if chosen.quiet else None
    addresses = chosen.addresses or [ARCHIVE]
    Place(chosen.path).remove()  # a target that cannot be written is told before the long download
    paths = fetch_stripe82(chosen.folder, addresses=addresses, progress=progress)
    folder = next(iter(paths.values())).parent
    store = build_stripe82_store(chosen.path, folder, manifest=chosen.manifest, progress=progress)
    sys.stdout.write(f"{store}\nOpen it: agn.open_training_set({str(store)!r})\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
