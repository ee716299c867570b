#!/bin/sh
# Makes sure that there is strace, with which the kill tests end a process at any system call they like:
# installs Debian's when that needs no password, and otherwise says what to install.
set -eu

if command -v strace >/dev/null; then exit 0; fi

# Elsewhere there is none to install; the tests say what they leave out.
if [ "$(uname -s)" != Linux ]; then exit 0; fi

give_up() {
    echo "The kill tests need strace, and none was found ($1)." >&2
    echo "Please install 'strace', then run this again." >&2
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

$as_root apt-get update -qq || give_up "apt-get update failed"
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends strace ||
    give_up "apt-get install failed"
