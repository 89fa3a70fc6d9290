# shellcheck shell=sh
# The Debian archive that this machine's apt is set up for, as mmdebstrap wants to be told of it, and how what is made
# from it is kept. Sourced after lib.sh by what builds images.
#
#   debian_suite        the release that images are made of
#   need_debian_lists   makes sure that apt knows the release's package lists
#   sources             one-line sources for mmdebstrap, on stdout
#   acquire_settings    apt's settings for --aptopt, on stdout
#   package_lists_hash  changes when the archive does
#   files_hash FILE...  changes when a script does
#   keep FILE PATH      puts a finished file into the cache

debian_suite=bookworm

# ORIGIN|CODENAME|SITE|RELEASE|COMPONENT|FILENAME of Debian's own package lists; a machine may know other vendors too.
debian_lists() {
    # shellcheck disable=SC2016 # apt's own placeholders
    apt-get indextargets 'Created-By: Packages' 'Architecture: amd64' \
        --format '$(ORIGIN)|$(CODENAME)|$(SITE)|$(RELEASE)|$(COMPONENT)|$(FILENAME)' |
        grep -E "^Debian\|$debian_suite(-updates|-security)?\|[^|]+\|[^|]+\|main\|"
}

need_debian_lists() {
    [ -n "$(debian_lists)" ] || { is_root && apt-get -qq update >&2; }
    [ -n "$(debian_lists)" ] ||
        die "apt knows no package lists of Debian's $debian_suite here (set them up, then apt-get update)"
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

files_hash() {
    cat "$@" | sha256sum | cut -c 1-16
}

# Into the cache in one step, as that may be another filesystem: what bears the name there is whole.
keep() {
    mv "$1" "$2.part"
    mv "$2.part" "$2"
}
