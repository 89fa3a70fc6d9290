# shellcheck shell=sh
# What the commands of the lab share: a run of pytest, and its results in docs/lab.md. Sourced, never run.

cd "$(dirname -- "$0")/../.."
venv=$(sh packaging/dev/setup)
results=$(mktemp)
trap 'rm -f "$results"' EXIT
trap 'exit 130' INT TERM HUP

# Random order would run two cases of one image far apart, and make the images of all of them first.
lab() {
    section=$1
    shift
    status=0
    BYOI_LAB_RESULTS=$results "$venv/bin/python" -m pytest -p no:randomly "$@" || status=$?
    "$venv/bin/python" -m tests.lab.results "$section" "$results"
    exit "$status"
}
