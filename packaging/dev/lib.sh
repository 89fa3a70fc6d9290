# shellcheck shell=sh
# What the scripts beside this file share. It is sourced (`. "$(dirname -- "$0")/lib.sh"`), never run, in POSIX sh.
#
#   byoi_root      the checkout
#   byoi_cache     everything that is made once and used again; outside of the checkout
#   say, die       to stderr: stdout belongs to what a script prints for another one to read
#   as_root        runs a command as root, by sudo where need be
#   byoi_python    the interpreter that the virtual environment is made with
#   byoi_venv      the path of this checkout's virtual environment (made by setup); the tier is its argument

byoi_root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd -P)
byoi_cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/byoi-agent

# losetup, sgdisk, nginx and the mkfs family live where an ordinary user's PATH does not look.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH

say() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
}

die() {
    say "$@"
    exit 1
}

is_root() {
    [ "$(id -u)" -eq 0 ]
}

as_root() {
    if is_root; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -- "$@"
    else
        die "this needs root, and there is no sudo here: run as root: $*"
    fi
}

byoi_python() {
    for candidate in ${PYTHON:-/usr/bin/python3 python3}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    die "no Python 3.11 or newer found: set PYTHON to one"
}

# One environment for each checkout, tier, set of pins and interpreter, because the project is in it in editable mode.
byoi_venv() {
    python=$(byoi_python)
    key=$(
        {
            printf '%s\n' "${1:-full}"
            # Not those of Ironic: that has an environment of its own.
            (cd "$byoi_root/packaging" && cat requirements-build.txt requirements-dev.txt requirements.txt)
            "$python" -c 'import sys; print(sys.version, sys.executable)'
            printf '%s\n' "$byoi_root"
        } | sha256sum | cut -c 1-16
    )
    printf '%s/venv-%s\n' "$byoi_cache" "$key"
}
