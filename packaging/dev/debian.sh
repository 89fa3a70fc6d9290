# shellcheck shell=sh
# Which Debian it is, and where its packages come from: the archive that this machine's apt is set up for, with apt's own acquire
# settings (proxies and the like). Sourced after lib.sh, never run. `suite` is the release by its codename: this machine's
# own where that is one of those that the package is made for, until choose_suite says another one.

# This machine's, by its codename; what is no Debian has a name too.
machine_suite() {
    sed -n 's/^VERSION_CODENAME="*\([a-z]*\)"*$/\1/p' /etc/os-release
}

# In the order of their age. forky is for trying what comes next: no package is made for it.
known_suites='bookworm trixie forky'
case $(machine_suite) in
trixie) suite=trixie ;;
*) suite=bookworm ;;
esac

choose_suite() {
    case " $known_suites " in
    *" $1 "*) suite=$1 ;;
    *) die "no such release of Debian here: $1 (one of: $known_suites)" ;;
    esac
}

# --- the package lists ---

# Debian's own, as CODENAME|SITE|COMPONENT|FILENAME; a machine may know other vendors' too. (Its answer takes apt a second.)
known_lists() {
    # shellcheck disable=SC2016 # apt's own placeholders
    apt-get indextargets 'Created-By: Packages' 'Architecture: amd64' 'Origin: Debian' 'Component: main' \
        --format '$(CODENAME)|$(SITE)|$(COMPONENT)|$(FILENAME)'
}

# Those of a release among $package_lists.
lists_of() {
    printf '%s\n' "$package_lists" | grep -E "^$1(-updates|-security)?\|"
}

# To be called before what follows. Of a release that this machine's apt does not know, the lists are kept in the cache, from the
# sites that it has another release from; they are fetched once a day.
need_package_lists() {
    package_lists=$(known_lists)
    [ -n "$package_lists" ] || ! is_root || { apt-get -qq update >&2 && package_lists=$(known_lists); }
    [ -n "$(lists_of "$suite")" ] || fetch_lists
    [ -n "$(lists_of "$suite")" ] || die "apt knows no package lists of Debian's $suite here (set them up, then apt-get update)"
}

fetch_lists() {
    lists=$byoi_cache/apt-$suite
    mkdir -p "$lists/lists/partial" "$lists/cache"
    exec 7>"$lists/lock"
    flock 7
    for other in $known_suites; do
        sources "$other"
        [ -z "$(lists_of "$other")" ] || break
    done >"$lists/sources.list"
    cat >"$lists/apt.conf" <<CONF
Dir::Etc::SourceList "$lists/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "$lists/lists";
Dir::Cache "$lists/cache";
APT::Sandbox::User "root";
CONF
    if [ -s "$lists/sources.list" ] && [ -z "$(find "$lists/fetched" -mtime -1 2>/dev/null)" ]; then
        say "fetching the package lists of Debian's $suite"
        if APT_CONFIG=$lists/apt.conf apt-get -qq update >&2; then
            : >"$lists/fetched"
        elif [ ! -e "$lists/fetched" ]; then
            die "there are no package lists of Debian's $suite (is a key missing? upgrade debian-archive-keyring)"
        fi
    fi
    package_lists=$(APT_CONFIG=$lists/apt.conf known_lists)
    touch "$lists"
    find "$byoi_cache" -maxdepth 1 -type d -name 'apt-*' -mtime +14 -exec rm -rf {} +
    exec 7>&-
}

# For a sources.list. Of another release: the same sites with this one's name in their place.
sources() {
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    [ ! -e "$keyring" ] || signed_by=" signed-by=$keyring"
    lists_of "${1:-$suite}" | while IFS='|' read -r codename site component _; do
        printf 'deb [arch=amd64%s] %s %s %s\n' "${signed_by:-}" "$site" "$suite${codename#"${1:-$suite}"}" "$component"
    done
}

package_lists_hash() {
    lists_of "$suite" | cut -d '|' -f 4 | while read -r list; do
        sha256sum <"$list"
    done | sort | sha256sum | cut -c 1-16
}

# Of apt's settings those that say how to reach the archive and how old it may be.
acquire_settings() {
    apt-config dump | grep -E '^Acquire::(https?::|Check-Valid-Until|Check-Date|Retries|ForceIPv[46])' || true
}

# --- making trees ---

# For hooks of mmdebstrap: its apt, to look packages up and to download them. That apt takes what is installed from the tree,
# but the dpkg that it would call is this machine's own: it must never install or remove anything, so it is given none. What
# changes the tree is run by chroot.
tree_apt() {
    program=$1
    shift
    [ -n "${MMDEBSTRAP_APT_CONFIG:-}" ] || die "tree_apt is for hooks of mmdebstrap"
    APT_CONFIG=$MMDEBSTRAP_APT_CONFIG "$program" -o Dir::Bin::dpkg=/bin/false -o APT::Sandbox::User=root "$@"
}

# Into the cache in one step, as that may be another filesystem: what bears the name there is whole.
keep() {
    mv "$1" "$2.part"
    mv "$2.part" "$2"
}
