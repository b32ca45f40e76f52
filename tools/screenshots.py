"""Pictures of every page at two widths and in two themes, in _build/screenshots.

python tools/screenshots.py [--html FOLDER] [--out FOLDER] [PAGE ...]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import browser

ROOT = Path(__file__).resolve().parent.parent
WIDTHS = {"wide": 1280, "narrow": 400}
THEMES = ("light", "dark")


def main() -> int:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--html", type=Path, default=ROOT / "_build" / "html")
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / "screenshots")
    parser.add_argument("pages", nargs="*")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with browser.served(options.html) as address, browser.chromium() as program:
        for theme in THEMES:
            for width_name, width in WIDTHS.items():
                context = program.new_context(viewport={"width": width, "height": 900})
                context.add_init_script(
                    f"localStorage.setItem('mode', '{theme}');localStorage.setItem('theme', '{theme}')"
                )
                tab = context.new_page()
                for page in options.pages or browser.pages(options.html):
                    tab.goto(address + page, wait_until="networkidle")
                    name = page.removesuffix(".html").replace("/", "-")
                    target = options.out / f"{name}-{width_name}-{theme}.png"
                    tab.screenshot(path=target, full_page=True)
                context.close()
    print(f"Pictures in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
