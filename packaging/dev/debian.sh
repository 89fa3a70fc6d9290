# shellcheck shell=sh
# Where Debian's packages come from: the archive that this machine's apt is set up for, with apt's own acquire settings
# (proxies and the like). Sourced after lib.sh, never run.

suite=bookworm

# ORIGIN|CODENAME|SITE|RELEASE|COMPONENT|FILENAME of Debian's own package lists; a machine may know other vendors too.
debian_lists() {
    # shellcheck disable=SC2016 # apt's own placeholders
    apt-get indextargets 'Created-By: Packages' 'Architecture: amd64' \
        --format '$(ORIGIN)|$(CODENAME)|$(SITE)|$(RELEASE)|$(COMPONENT)|$(FILENAME)' |
        grep -E "^Debian\|$suite(-updates|-security)?\|[^|]+\|[^|]+\|main\|"
}

sources() {
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    [ ! -e "$keyring" ] || signed_by=" signed-by=$keyring"
    debian_lists | while IFS='|' read -r _ _ site release component _; do
        printf 'deb [arch=amd64%s] %s %s %s\n' "${signed_by:-}" "$site" "$release" "$component"
    done
}

# Of apt's settings those that say how to reach the archive and how old it may be.
acquire_settings() {
    apt-config dump | grep -E '^Acquire::(https?::|Check-Valid-Until|Check-Date|Retries|ForceIPv[46])' || true
}

package_lists_hash() {
    debian_lists | cut -d '|' -f 6 | while read -r list; do
        sha256sum <"$list"
    done | sort | sha256sum | cut -c 1-16
}

need_package_lists() {
    [ -n "$(debian_lists)" ] || { is_root && apt-get -qq update >&2; }
    [ -n "$(debian_lists)" ] || die "apt knows no package lists of Debian's $suite here (set them up, then apt-get update)"
}

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
