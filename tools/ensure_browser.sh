#!/bin/sh
# Make Chromium available to the browser tests, which are skipped without it.
#   sh tools/ensure_browser.sh                 install it, or say how
#   sh tools/ensure_browser.sh --only-in-ci    the same where CI is set; elsewhere do nothing
set -eu

if [ "${1:-}" = "--only-in-ci" ] && [ -z "${CI:-}" ]; then
    exit 0
fi
for program in "${CHROMIUM:-}" chromium chromium-browser google-chrome; do
    if [ -n "$program" ] && command -v "$program" >/dev/null 2>&1; then
        exit 0
    fi
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium
else
    echo "No Chromium found: the browser tests will be skipped." >&2
    echo "On Debian: sudo apt-get install chromium" >&2
    echo "Elsewhere: .venv/bin/playwright install chromium, then set CHROMIUM to its path" >&2
fi
