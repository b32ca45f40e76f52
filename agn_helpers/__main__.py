"""``python -m agn_helpers``: what one does to a store in a terminal."""

import argparse
import sys
from collections.abc import Sequence

from agn_helpers.arrays import MAX_BYTES
from agn_helpers.errors import StoreNotFoundError, TrainingSetError
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
    chosen = parser.parse_args(arguments)
    try:
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


if __name__ == "__main__":
    sys.exit(main())
