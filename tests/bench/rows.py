"""The table of what is compared: data, and the commands as an expert would type them.

A command is a script of bash (`set -euo pipefail`) that is handed its image and its disk by the environment:

    URL, SHA256     the image as it is served, and its digest
    KIND            raw or qcow2
    DISK            the target, a block device
    OTHER           another one of the same size
    STAGE           an empty directory in memory, for what a command has to store
    HERE, PYTHON    this directory, and the interpreter with the agent
    IPA             an interpreter with ironic-python-agent
    CERTIFICATE     whom to trust over https; curl and Python's requests know by themselves
    TRUST           the same as an option of ours, and empty over http

Each ends with everything on the disk, flushed, or with an exit status. `step NAME` begins a step, whose seconds are
told in the plot.
"""

from dataclasses import dataclass, replace

SHA256 = "sha256 of the download"
NOTHING = ""


@dataclass(frozen=True)
class Command:
    """Something that is run: ours, a peer, or a limit."""

    name: str
    script: str
    verifies: str = NOTHING
    """What of the image is compared with what somebody has vouched for."""
    stages: bool = False
    """It stores the whole download in memory first, which is to be counted beside its own."""
    x: int | None = None
    """Where it stands in the row's plot, if that has other places than its rows."""
    patience: int = 200
    """Seconds after which it has hung. Whoever is known for that has little, and is run again (`hangs`)."""
    hangs: bool = False


@dataclass(frozen=True)
class Row:
    """One image, over one link, onto the disk."""

    name: str
    title: str
    image: str
    """A recipe of images.py."""
    peers: tuple[str, ...]
    """Of PEERS."""
    unpack: str = ""
    """The tool that gives the image's bytes: `... -dc`."""
    rate: int | None = None
    """MB/s that the server gives each connection."""
    tls: bool = False
    cores: int | None = None
    """So many are left to each command. The server has all."""
    limits: tuple[str, ...] = ("receive", "hash", "write")
    """Of LIMITS."""
    series: str = ""
    """The plot that this row is a point of."""
    x: int | None = None
    """Where in the plot; without it the row's commands say where."""


OURS = Command(
    "byoi write",
    '"$PYTHON" -m agent.cli write --url "$URL" --checksum "sha256:$SHA256" $TRUST --hostname bench '
    '--disk "$DISK" --yes --quiet --json',
    verifies=f"{SHA256}; both ends and the config drive read back",
)

# Beside OURS, for what the reading back costs.
OURS_READ_BACK = Command(
    "byoi write --verify readback",
    f"{OURS.script} --verify readback",
    verifies=f"{SHA256}; everything that was written read back",
)
# Beside OURS, for what a second disk costs.
OURS_TWICE = Command(
    "byoi write, two disks",
    '"$PYTHON" -m agent.cli write --url "$URL" --checksum "sha256:$SHA256" --hostname bench '
    '--disk "$DISK" --disk "$OTHER" --yes --quiet --json',
    verifies=OURS.verifies,
)

# -- peers -----------------------------------------------------------------------------------------------------------

_DOWNLOADED = """\
step download
curl -sf "$URL" -o "$STAGE/image"
step hash
openssl dgst -sha256 -r "$STAGE/image" | grep -q "^$SHA256 "
step convert
"""
# What a running agent has behind it is no part of it: `start` does not count.
_IPA = """\
step start
"$IPA" "$HERE/ipa_writer.py" "$URL" "$SHA256" "$DISK"
sync "$DISK"
"""


def pipe(name: str, unpack: str = "", hasher: str = "openssl dgst -sha256 -r") -> Command:
    """Download, hash and write side by side, as far as processes and pipes do."""
    return Command(
        name,
        f"""\
mkfifo "$STAGE/copy"
{hasher} <"$STAGE/copy" >"$STAGE/digest" &
curl -sf "$URL" | tee "$STAGE/copy" {f"| {unpack} " if unpack else ""}| \\
    dd of="$DISK" oflag=direct bs=4M iflag=fullblock conv=fsync status=none
wait $!
grep -q "^$SHA256 " "$STAGE/digest"
""",
        verifies=SHA256,
    )


def aria2(connections: int) -> Command:
    """Several connections, to a file, that is then written."""
    return Command(
        f"aria2c -x{connections}; dd oflag=direct",
        f"""\
step download
aria2c --quiet --no-conf -x{connections} -s{connections} -k1M --file-allocation=none --checksum="sha-256=$SHA256" \
    --dir="$STAGE" --out=image "$URL"
step write
dd if="$STAGE/image" of="$DISK" oflag=direct bs=4M conv=fsync status=none
""",
        verifies=SHA256,
        stages=True,
        x=connections,
    )


_READ_BACK = """\
step read-back
dd if="$DISK" iflag=direct,count_bytes bs=4M count="$GUEST_SIZE" status=none |
    openssl dgst -sha256 -r | grep -q "^$SHA256 "
"""

_TO_TWO = """\
mkfifo "$STAGE/copy" "$STAGE/other"
openssl dgst -sha256 -r <"$STAGE/copy" >"$STAGE/digest" &
dd if="$STAGE/other" of="$OTHER" oflag=direct bs=4M iflag=fullblock conv=fsync status=none &
curl -sf "$URL" | tee "$STAGE/copy" "$STAGE/other" | \\
    dd of="$DISK" oflag=direct bs=4M iflag=fullblock conv=fsync status=none
wait
grep -q "^$SHA256 " "$STAGE/digest"
"""

PEERS = {
    "readback": OURS_READ_BACK,
    "openssl, read back": replace(
        pipe("curl | tee >(openssl dgst) | dd; dd iflag=direct | openssl dgst"),
        script=pipe("").script + _READ_BACK,
        verifies=f"{SHA256}; the disk's sha256 after it",
    ),
    "two disks": OURS_TWICE,
    "pipe to two": Command("curl | tee >(openssl dgst) >(dd) | dd, two disks", _TO_TWO, verifies=SHA256),
    "openssl": pipe("curl | tee >(openssl dgst) | dd oflag=direct bs=4M"),
    "sha256sum": pipe("curl | tee >(sha256sum) | dd oflag=direct bs=4M", hasher="sha256sum"),
    "bmap": Command(
        "bmaptool copy --bmap",
        'bmaptool --quiet copy --bmap "$URL.bmap" "$URL" "$DISK"',
        verifies="sha256 of each mapped range; leaves what was in the holes",
    ),
    "nobmap": Command("bmaptool copy --nobmap", 'bmaptool --quiet copy --nobmap "$URL" "$DISK"'),
    "ipa": Command("ironic-python-agent's writer", _IPA, verifies=SHA256),
    "nbdcopy": Command(
        "nbdcopy from nbdkit curl",
        'nbdcopy --flush -- [ nbdkit curl ${TRUST:+cainfo="$CERTIFICATE"} "$URL" ] "$DISK"',
    ),
    "qemu-img": Command(
        "qemu-img convert -n -t none -W from http",
        'qemu-img convert -n -t none -W -f "$KIND" -O raw "$URL" "$DISK"\nsync "$DISK"',
        # Seen with QEMU 7.2: it waits for ever for one of its own requests.
        patience=15,
        hangs=True,
    ),
    "downloaded": Command(
        "curl; openssl dgst; qemu-img convert -n -t none -W",
        f'{_DOWNLOADED}qemu-img convert -n -t none -W -f "$KIND" -O raw "$STAGE/image" "$DISK"\nsync "$DISK"',
        verifies=SHA256,
        stages=True,
    ),
    "downloaded ova": Command(
        "curl; openssl dgst; tar; qemu-img convert -n -t none -W",
        f'{_DOWNLOADED}tar -xOf "$STAGE/image" disk.vmdk >"$STAGE/disk.vmdk"\n'
        'qemu-img convert -n -t none -W -f vmdk -O raw "$STAGE/disk.vmdk" "$DISK"\nsync "$DISK"',
        verifies=SHA256,
        stages=True,
    ),
    **{
        f"pipe {tool}": pipe(
            f"curl | tee >(openssl dgst) | {tool} -dc | dd oflag=direct bs=4M", f"{tool} -dc"
        )
        for tool in ("gzip", "pigz", "zstd", "pzstd", "xz -T0", "lbzip2")
    },
    **{f"aria2 {n}": aria2(n) for n in (1, 2, 4, 8)},
}

# -- what one part takes alone, in the same run ----------------------------------------------------------------------

LIMITS = {
    "receive": Command("receive alone: recv_into", '"$PYTHON" "$HERE/alone.py" receive "$URL"'),
    "hash": Command("hash alone: SHA-256, one core", '"$PYTHON" "$HERE/alone.py" hash "$SIZE"'),
    "write": Command(
        "write alone: O_DIRECT, 4 MiB", '"$PYTHON" "$HERE/alone.py" write "$GUEST_SIZE" "$DISK"'
    ),
    "copy": Command("receive and hash, ours without a disk", '"$PYTHON" "$HERE/no_disk.py" "$URL"'),
    "threads": Command(
        "receive and hash, a thread each and no event loop", '"$PYTHON" "$HERE/alone.py" copy "$URL"'
    ),
    "unpack": Command("unpack alone: curl | {unpack} >/dev/null", 'curl -sf "$URL" | $UNPACK >/dev/null'),
}

# -- rows ------------------------------------------------------------------------------------------------------------

_PACKED = ("receive", "hash", "unpack")
_SPARSE = ("receive", "hash", "copy")
CORES = (1, 2, 4, 8, 16)
FRAGMENT_BITS = (21, 16, 14, 12)
"""Of a cluster, which is a run of its own."""

ROWS = (
    Row(
        "raw", "raw", "random",
        ("openssl", "sha256sum", "bmap", "nobmap", "ipa", "nbdcopy", "qemu-img", "downloaded"),
        limits=("receive", "hash", "write", "copy", "threads"),
    ),
    Row("readback", "raw, and all of it read back", "random", ("readback", "openssl, read back"), limits=("write",)),
    Row("two-disks", "raw, onto two disks", "random", ("two disks", "pipe to two")),
    Row(
        "https", "raw over https", "random", ("openssl", "ipa", "nbdcopy"),
        tls=True, limits=("receive", "hash", "write", "copy", "threads"),
    ),
    Row("gz", "raw in gzip", "gz", ("pipe gzip", "pipe pigz"), "gzip -dc", limits=_PACKED),
    Row("zst", "raw in zstd", "zst", ("pipe zstd",), "zstd -dc", limits=_PACKED),
    Row("pzst", "raw in zstd of many frames (pzstd)", "pzst", ("pipe pzstd", "pipe zstd"), "pzstd -dc", limits=_PACKED),
    Row("xz", "raw in xz of many blocks (xz -T0)", "xz", ("pipe xz -T0",), "xz -T0 -dc", limits=_PACKED),
    Row("bz2", "raw in bzip2", "bz2", ("pipe lbzip2",), "lbzip2 -dc", limits=_PACKED),
    Row("qcow2", "qcow2", "qcow2", ("downloaded", "qemu-img"), limits=_SPARSE),
    Row("qcow2-zlib", "qcow2, zlib clusters", "qcow2-zlib", ("downloaded", "qemu-img"), limits=_SPARSE),
    Row("qcow2-zstd", "qcow2, zstd clusters", "qcow2-zstd", ("downloaded", "qemu-img"), limits=_SPARSE),
    Row("ova", "OVA (streamOptimized VMDK)", "ova", ("downloaded ova",), limits=_SPARSE),
    Row(
        "connections", "raw, 50 MB/s a connection", "short",
        ("aria2 1", "aria2 2", "aria2 4", "aria2 8"),
        rate=50, limits=("hash", "write"), series="connections",
    ),
    *(
        Row(
            f"xz-cores-{cores}", f"raw in xz, {cores} core{'s' * (cores > 1)}", "xz", ("pipe xz -T0",),
            cores=cores, limits=(), series="cores: xz", x=cores,
        )
        for cores in CORES
    ),
    *(
        Row(
            f"fragments-{1 << bits >> 10}k",
            f"qcow2, clusters of {1 << bits >> 10} KiB in random order",
            f"fragments-{bits}",
            ("downloaded",),
            limits=(),
            series="fragments",
            x=1 << bits >> 10,
        )
        for bits in FRAGMENT_BITS
    ),
)  # fmt: skip
