#!/bin/sh
# Makes sure of the programs that tests drive, named as arguments: chromium, postgres, strace, axe, zsh, fish, office. What is
# missing is installed from Debian's packages when that needs no password; otherwise this says what to install. axe-core, which
# looks for barriers on pages, comes from npm: in the version of package.json, into node_modules beside it.
set -eu
tests=$(dirname "$0")

there() {
    case $1 in
        # Playwright's own download is not used: it is a second, private browser.
        chromium) for name in chromium chromium-browser google-chrome; do found "$name" && return; done; false ;;
        postgres) found initdb || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 ;;
        # With it a process is ended at any system call; on other systems there is none, and the tests say so.
        strace) found strace || [ "$(uname -s)" != Linux ] ;;
        zsh | fish) found "$1" ;;
        office) found soffice || found libreoffice ;;
        axe) axe_is_there || found npm ;;
        *) echo "There is no $1 to install." >&2; exit 2 ;;
    esac
}

axe_is_there() {
    wanted=$(sed -n 's/.*"axe-core": "\(.*\)".*/\1/p' "$tests/package.json")
    grep -q "\"version\": \"$wanted\"" "$tests/node_modules/axe-core/package.json" 2>/dev/null &&
        [ -s "$tests/node_modules/axe-core/axe.min.js" ]
}

found() { command -v "$1" >/dev/null; }

packages() {
    case $1 in
        # The fonts keep screenshots from showing boxes where letters and emoji should be.
        chromium) echo chromium fonts-dejavu-core fonts-noto-color-emoji ;;
        postgres) echo postgresql ;;
        office) echo libreoffice-calc ;;
        axe) echo npm ;;
        *) echo "$1" ;;
    esac
}

give_up() {
    echo "The tests need programs that were not found, and cannot install them ($1)." >&2
    echo "Please install:$missing. Then run this again." >&2
    exit 1
}

install_missing() {
    found apt-get || give_up "there is no apt-get"
    if [ "$(id -u)" -eq 0 ]; then
        as_root=""
    elif found sudo && sudo -n true 2>/dev/null; then
        as_root="sudo -n"
    else
        give_up "that needs root"
    fi

    # PostgreSQL without its own cluster and service: the tests need the programs only.
    $as_root sh -c 'mkdir -p /etc/postgresql-common &&
        { [ -e /etc/postgresql-common/createcluster.conf ] ||
            echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf; }'
    $as_root apt-get update -qq || give_up "apt-get update failed"
    # shellcheck disable=SC2086 # several words on purpose
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing ||
        give_up "apt-get install failed"
}

missing=""
for program in "$@"; do
    there "$program" || missing="$missing $(packages "$program")"
done
[ -z "$missing" ] || install_missing

case " $* " in
    *" axe "*)
        axe_is_there || (cd "$tests" && npm ci --silent --no-audit --no-fund) || {
            echo "axe-core could not be installed; \`npm ci\` in $tests says why." >&2
            exit 1
        }
        ;;
esac
