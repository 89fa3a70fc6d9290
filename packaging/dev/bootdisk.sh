# shellcheck shell=sh
# A disk that boots, made in a file from a root tree, without mounts and without loop devices (but for XFS, whose tools fill
# no filesystem by themselves). Sourced after lib.sh and debian.sh by what builds images, which sets:
#
#   work          a directory to work in; the tree is in $work/tree
#   table         gpt, mbr, or logical: MBR with three primaries, and the root as a logical partition
#   sector_size   512, or 4096 for 4Kn disks (GPT, for UEFI only)
#   esp           yes or no
#   tail          bytes left free behind the root
#   virtual_size, bios_offset, esp_offset, root_offset   in bytes, multiples of one MiB
#   disk_uuid, root_uuid, esp_volume_id                  fixed, so that the same packages make the same image
#   root_filesystem                                      ext4, unless it says xfs
#
# The root filesystem lies last. Its grub.cfg and kernel are in the tree (see lay_out_grub).

mib=1048576
root_filesystem=ext4

# Changes when one of the scripts does.
files_hash() {
    cat "$@" | sha256sum | cut -c 1-16
}

# The options that say which of an image's relatives is asked for; sets suite, table, sector_size, esp, tail and a name
# for all but the first: choose_variant 'PATTERN ...' OPTIONS...
choose_variant() {
    known=$1
    shift
    table=gpt
    sector_size=512
    esp=yes
    tail=$mib
    while [ $# -gt 0 ]; do
        case $1 in
        --table)
            table=${2:?--table needs a value}
            shift
            ;;
        --sector-size)
            sector_size=${2:?--sector-size needs a value}
            shift
            ;;
        --suite)
            choose_suite "${2:?--suite needs a value}"
            shift
            ;;
        --no-esp) esp=no ;;
        --full) tail=$((32 * 1024)) ;;
        *) die "unknown argument $1" ;;
        esac
        shift
    done
    set -f
    for pattern in $known; do
        # shellcheck disable=SC2254 # a pattern
        case $table-$sector_size-$esp-$tail in
        $pattern) known=yes ;;
        esac
    done
    set +f
    [ "$known" = yes ] || die "no such image: --table $table --sector-size $sector_size, ESP: $esp, $tail bytes left"
    variant=$table-$sector_size
    [ "$esp" = yes ] || variant=$variant-no-esp
    [ "$tail" = "$mib" ] || variant=$variant-full
}

# The numbers of the root and of the ESP, as in Debian's own cloud images.
choose_numbers() {
    case $table in
    gpt) root_number=1 esp_number=15 ;;
    mbr) root_number=1 esp_number=2 ;;
    logical) root_number=5 esp_number=none ;;
    esac
}

sectors() {
    echo $(($1 / sector_size))
}

partition() {
    printf '%s : start=%s, size=%s, type=%s\n' "$1" "$(sectors "$2")" "$(sectors "$3")" "$4"
}

# An sfdisk script. fdisk runs it, as it takes a sector size where sfdisk takes the one of the device.
partition_table() {
    if [ "$table" = gpt ]; then
        printf 'label: gpt\nlabel-id: %s\nunit: sectors\nfirst-lba: %s\n' "$disk_uuid" $((2 + 16384 / sector_size))
        root_type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709
        esp_type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B
        [ "$sector_size" -ne 512 ] ||
            partition 14 "$bios_offset" $((esp_offset - bios_offset)) 21686148-6449-6E6F-744E-656564454649
    else
        printf 'label: dos\nlabel-id: 0x%.8s\nunit: sectors\n' "$disk_uuid"
        root_type='83, bootable'
        esp_type=ef
    fi
    if [ "$table" = logical ]; then
        for number in 1 2 3; do
            partition "$number" $((esp_offset + (number - 1) * mib)) "$mib" 83
        done
        partition 4 $((root_offset - mib)) $((root_size + mib)) 5
        root_type=83
    fi
    [ "$esp" = no ] || partition "$esp_number" "$esp_offset" $((root_offset - esp_offset)) "$esp_type"
    partition "$root_number" "$root_offset" "$root_size" "$root_type"
}

# Modules and core of grub for BIOS into the tree, and a configuration with one entry: lay_out_grub TREE TIMEOUT
# TITLE KERNEL INITRD ARGUMENTS...
# no_timer_check: where the processor is emulated on a busy host, ticks come too late for the kernel's try of its timer.
lay_out_grub() {
    tree=$1
    grub=$tree/boot/grub
    mkdir -p "$grub/i386-pc" "$tree/boot/efi"
    cp "$tree"/usr/lib/grub/i386-pc/*.mod "$tree"/usr/lib/grub/i386-pc/*.lst "$tree/usr/lib/grub/i386-pc/boot.img" \
        "$grub/i386-pc/"
    # shellcheck disable=SC2016 # grub's own variables
    printf 'search.fs_uuid %s root\nset prefix=($root)/boot/grub\n' "$root_uuid" >"$grub/early.cfg"
    chroot "$tree" grub-mkimage --format=i386-pc --prefix=/boot/grub --config=/boot/grub/early.cfg \
        --output=/boot/grub/i386-pc/core.img biosdisk part_gpt part_msdos ext2 xfs search search_fs_uuid normal configfile \
        linux
    cat >"$grub/grub.cfg" <<CFG
set timeout=$2
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
search --no-floppy --fs-uuid --set=root $root_uuid
menuentry '$3' {
    linux $4 root=UUID=$root_uuid $6 no_timer_check console=tty0 console=ttyS0,115200
    initrd $5
}
CFG
}

make_esp() {
    truncate --size "$((root_offset - esp_offset))" "$work/esp"
    # FAT32 needs 65525 clusters, FAT16 needs 4085: with sectors of 4096 bytes there are just enough for the latter.
    if [ "$sector_size" -eq 4096 ]; then
        fat='-F 16 -s 1'
    elif [ $((root_offset - esp_offset)) -gt $((64 * mib)) ]; then
        fat='-F 32'
    else
        fat='-F 16'
    fi
    # shellcheck disable=SC2086 # words
    mkfs.vfat $fat -S "$sector_size" -i "$esp_volume_id" -n ESP "$work/esp" >/dev/null
    # The shim is found by its default name; the signed grub beside it looks for its settings in /EFI/debian.
    # shellcheck disable=SC2016 # grub's own variables
    printf 'search.fs_uuid %s root\nset prefix=($root)/boot/grub\nconfigfile $prefix/grub.cfg\n' "$root_uuid" \
        >"$work/esp.cfg"
    mmd -i "$work/esp" ::EFI ::EFI/BOOT ::EFI/debian
    mcopy -i "$work/esp" "$work/tree/usr/lib/shim/shimx64.efi.signed" ::EFI/BOOT/BOOTX64.EFI
    mcopy -i "$work/esp" "$work/tree/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed" ::EFI/BOOT/grubx64.efi
    mcopy -i "$work/esp" "$work/esp.cfg" ::EFI/debian/grub.cfg
    dd if="$work/esp" of="$disk" bs=$mib seek=$((esp_offset / mib)) conv=notrunc,sparse status=none
}

# A number as 8 bytes, little-endian.
le64() {
    number=$1
    for _ in 1 2 3 4 5 6 7 8; do
        # shellcheck disable=SC2059 # the format is the byte
        printf "\\$(printf %03o $((number & 255)))"
        number=$((number >> 8))
    done
}

put() {
    dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

# grub's first stage into the code area of the MBR, its core into the BIOS boot partition or the gap behind the MBR.
# Each holds the LBA of what comes next, since neither can read a partition table.
install_bios_boot() {
    core_lba=1
    [ "$table" != gpt ] || core_lba=$((bios_offset / 512))
    cp "$work/tree/boot/grub/i386-pc/boot.img" "$work/boot.img"
    cp "$work/tree/boot/grub/i386-pc/core.img" "$work/core.img"
    room=$((bios_offset - 512))
    [ "$(stat --format=%s "$work/core.img")" -le "$room" ] || die "grub's core does not fit in $room bytes"
    le64 "$core_lba" | put "$work/boot.img" $((0x5c))
    # No jump around the code that corrects the drive number: firmware gets it wrong on hard disks.
    printf '\220\220' | put "$work/boot.img" $((0x66))
    le64 $((core_lba + 1)) | put "$work/core.img" $((0x1f4))
    head -c 440 "$work/boot.img" | put "$disk" 0
    dd if="$work/core.img" of="$disk" bs=512 seek="$core_lba" conv=notrunc status=none
}

make_ext4() {
    # Features that the grub of Debian 12 cannot read are left out, whatever this machine's e2fsprogs would choose.
    mke2fs -q -F -t ext4 -b 4096 -L root -U "$root_uuid" -O ^metadata_csum_seed,^orphan_file -d "$work/tree" \
        -E "offset=$root_offset,hash_seed=$root_uuid" "$disk" "$((root_size / 1024))k" 2>"$work/mke2fs.log" ||
        { cat "$work/mke2fs.log" >&2 && die "mke2fs failed"; }
}

make_xfs() {
    truncate --size "$root_size" "$work/xfs"
    mkfs.xfs -q -L root -m "uuid=$root_uuid" "$work/xfs"
    mkdir "$work/mounted"
    mount -t xfs -o loop "$work/xfs" "$work/mounted"
    copied=yes
    cp -a "$work/tree/." "$work/mounted/" || copied=no
    umount "$work/mounted"
    [ "$copied" = yes ] || die "the tree does not fit into its filesystem"
    dd if="$work/xfs" of="$disk" bs=$mib seek=$((root_offset / mib)) conv=notrunc,sparse status=none
}

# Makes $work/disk of $work/tree.
make_disk() {
    disk=$work/disk
    choose_numbers
    root_size=$((virtual_size - root_offset - tail))
    truncate --size "$virtual_size" "$disk"
    partition_table >"$work/table"
    printf 'I\n%s\nw\n' "$work/table" | LC_ALL=C fdisk --sector-size "$sector_size" --noauto-pt "$disk" >"$work/fdisk.log" 2>&1 ||
        { cat "$work/fdisk.log" >&2 && die "fdisk refused the partition table"; }
    "make_$root_filesystem"
    [ "$esp" = no ] || make_esp
    [ "$sector_size" -ne 512 ] || install_bios_boot
    chmod 444 "$disk"
}
