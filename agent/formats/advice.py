"""The hints for a file whose content is not what the job says or not what can be deployed.

Called where such a file is refused: in preflight, and by the decoders for content within content. The names of the
contents are those of `agent.formats.detect`.
"""

_ACCEPTED = ("raw", "qcow2", "ova", "vmdk", "vhd", "vhdx", "vdi")
_CONVERTIBLE = ("qcow", "qed", "dmg", "parallels")
_PACKED = ("7z", "rar", "lzma", "lzip", "lzop", "compress", "cpio")
_ARCHIVES = ("tar", "zip")
_COMPRESSED = ("gzip", "xz", "zstd", "bzip2", "lz4")
_PAGES = ("html", "xml", "json", "text")


def hint_for(content: str) -> str:
    """The hint for a file with this content, as `agent.formats.detect.sniff` names it."""
    if content in _ACCEPTED:
        return f"Set type to {content}, or leave it out, or check that the URL names the image that is meant."
    if content in _CONVERTIBLE:
        return "Convert it (qemu-img convert -O qcow2 IMAGE image.qcow2), and deploy that with type qcow2."
    if content in _PACKED:
        return "Unpack it and serve the disk image that is in it; gzip, xz, zstd, bzip2 or lz4 may be around that."
    if content in _COMPRESSED:
        return "Decompress it until a disk image is left; one layer of gzip, xz, zstd, bzip2 or lz4 may stay around it."
    if content in _ARCHIVES:
        return "Unpack it until a disk image is left; one tar or zip may stay around it."
    if content in _PAGES:
        return "A page came and no image: check the URL, and whether it needs credentials (httpHeader)."
    if content in ("zeros", "nothing"):
        return "The file is empty: upload the image again."
    return (
        "Check that the URL names an image of a whole disk with its partition table, not of one filesystem."
    )
