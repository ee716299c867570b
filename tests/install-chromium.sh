#!/bin/sh
# Makes sure that there is a Chromium for the browser tests: installs Debian's when that needs no password,
# and otherwise says what to install. Playwright's own download is not used: it is a second, private browser.
set -eu

for name in chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null; then exit 0; fi
done

give_up() {
    echo "The browser tests need Chromium, and none was found ($1)." >&2
    echo "Please install 'chromium' (or 'google-chrome') so that it is on your PATH, then run this again." >&2
    exit 1
}

command -v apt-get >/dev/null || give_up "there is no apt-get to install it with"
if [ "$(id -u)" -eq 0 ]; then
    as_root=""
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    give_up "installing it needs root"
fi

# The fonts keep screenshots from showing boxes where letters and emoji should be.
$as_root apt-get update -qq || give_up "apt-get update failed"
$as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core fonts-noto-color-emoji ||
    give_up "apt-get install failed"
