"""What kinds of content there are, by the names that `agent.formats.detect.sniff` gives them."""

DISK_IMAGES = frozenset(
    {"raw", "qcow2", "ova", "vmdk", "vhd", "vhdx", "vdi", "qcow", "qed", "parallels", "dmg"}
)
ARCHIVES = frozenset({"tar", "zip"})
COMPRESSED = frozenset(
    {"gzip", "xz", "zstd", "bzip2", "lz4", "7z", "rar", "lzma", "lzip", "lzop", "compress"}
)
MAY_BE_IMAGE = DISK_IMAGES | COMPRESSED | ARCHIVES
"""What a member of an archive is taken for the image by."""
