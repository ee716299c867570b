#!/bin/sh
# Makes sure that there is a PostgreSQL server for the ledger's tests: installs Debian's when that needs no
# password, and otherwise says what to install. The tests start a throwaway server of their own from it.
set -eu

if command -v initdb >/dev/null; then exit 0; fi
for program in /usr/lib/postgresql/*/bin/initdb; do
    if [ -x "$program" ]; then exit 0; fi
done

give_up() {
    echo "The ledger's tests need PostgreSQL, and none was found ($1)." >&2
    echo "Please install 'postgresql' (the server, with its initdb), then run this again." >&2
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

# Without its own cluster and service: the tests need the programs only.
$as_root apt-get update -qq || give_up "apt-get update failed"
$as_root sh -c 'mkdir -p /etc/postgresql-common &&
    { [ -e /etc/postgresql-common/createcluster.conf ] ||
        echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf; }'
$as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends postgresql ||
    give_up "apt-get install failed"
