# shellcheck shell=sh
# A room: the root filesystem of a small Debian in a directory, and commands that run in it as if it were a machine. Sourced after
# lib.sh and debian.sh, never run.
#
# The room has process ids and mounts of its own, this machine's package archive and name resolution, its certificates, and
# pip's settings from the environment; nothing else of the machine. /dev holds the few nodes that mmdebstrap makes: no udevd and
# no loop devices, as in a container. Its mounts are seen by nobody else and go with its last process.

# Its /etc/byoi-room.crt is what pip is to trust, where this machine has something of the kind.
room_certificate=/etc/byoi-room.crt

# make_room WORK TARGET PACKAGES: a minimal Debian $suite with these packages (by commas), as a directory, or as a tar if its name says so.
make_room() {
    acquire_settings >"$1/apt.conf"
    sources >"$1/sources.list"
    mkdir -p -m 1777 "$1/tmp"
    TMPDIR=$1/tmp mmdebstrap --quiet --mode=root --variant=minbase --architectures=amd64 --include="$3" \
        --aptopt="$1/apt.conf" "$suite" "$2" "$1/sources.list" >&2
}

# What may be another one tomorrow, and is not kept with the room.
connect_room() {
    for file in /etc/resolv.conf /etc/hosts; do
        rm -f "$1$file"
        cat "$file" >"$1$file"
    done
    # An archive behind an authority of the machine's own is reached with that authority's certificate.
    for file in "${PIP_CERT:-}" "${SSL_CERT_FILE:-}" /etc/ssl/certs/ca-certificates.crt; do
        if [ -f "$file" ]; then
            cat "$file" >"$1$room_certificate"
            return
        fi
    done
}

# This checkout into a directory, with a history. Committed and not yet committed files alike, but nothing that git ignores: what a
# commit of all would hold.
clone_checkout() {
    git -c safe.directory='*' clone --quiet --no-hardlinks --no-checkout "file://$byoi_root" "$1" 2>/dev/null ||
        git init --quiet "$1"
    git -C "$byoi_root" -c safe.directory='*' ls-files -z --cached --others --exclude-standard |
        (cd "$byoi_root" && xargs -0 ls -d 2>/dev/null | tar --create --files-from=- 2>/dev/null) |
        tar --extract --no-same-owner --directory "$1"
    git -C "$1" add --all
}

# in_room ROOM DIRECTORY COMMAND...: replaces this process. What the machine's shell knows must not be what makes a command
# work: its environment is empty but for what leads to the archives (and "NAME=VALUE" words in front of the command). Killing
# its first process kills all of them. A directory $room_cache of this machine is the room's /var/cache/byoi-agent.
in_room() {
    room=$1
    directory=$2
    shift 2
    [ ! -e "$room$room_certificate" ] || set -- "PIP_CERT=$room_certificate" "$@"
    set -- env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM="${TERM:-dumb}" \
        ${CI:+"CI=$CI"} ${PIP_INDEX_URL:+"PIP_INDEX_URL=$PIP_INDEX_URL"} ${PIP_TIMEOUT:+"PIP_TIMEOUT=$PIP_TIMEOUT"} \
        ${http_proxy:+"http_proxy=$http_proxy"} ${https_proxy:+"https_proxy=$https_proxy"} \
        ${no_proxy:+"no_proxy=$no_proxy"} "$@"
    # shellcheck disable=SC2016 # for the inner shells
    exec unshare --mount --propagation private --pid --fork --kill-child sh -euc '
        room=$1
        directory=$2
        cache=$3
        shift 3
        mount --bind "$room" "$room"  # a root that is a mount of its own, like everywhere else
        mount -t proc proc "$room/proc"
        mount --rbind /sys "$room/sys"
        mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$room/dev/pts"
        mount -t tmpfs -o mode=1777 tmpfs "$room/dev/shm"
        if [ -n "$cache" ]; then
            mkdir -p "$room/var/cache/byoi-agent"
            mount --bind "$cache" "$room/var/cache/byoi-agent"
        fi
        exec chroot "$room" sh -c "cd \"\$0\" && \"\$@\"; exit \$?" "$directory" "$@"
    ' sh "$room" "$directory" "${room_cache:-}" "$@" </dev/null
}
