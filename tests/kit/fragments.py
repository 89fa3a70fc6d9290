"""A qcow2 whose clusters lie in the file in random order, each a run of its own: an image that grew by random writes.

PYTHONPATH=. python tests/kit/fragments.py IMAGE.raw OUT.qcow2 [--bits 12]
"""

import argparse
import mmap
import random
import struct
from array import array
from pathlib import Path

_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_COPIED = 1 << 63


def fragment(raw: Path, path: Path, bits: int) -> int:
    """Make the qcow2 with clusters of 1 << bits bytes, its tables first; gives the number of its clusters."""
    size, cluster = raw.stat().st_size, 1 << bits
    clusters, per_table = -(-size // cluster), cluster // 8
    tables = -(-clusters // per_table)
    order = array("I", range(clusters))
    random.Random(1).shuffle(order)
    # Header, refcount table (empty: who only reads does not need it), L1, L2, data.
    l1_at, l1_clusters = 2 * cluster, -(-tables * 8 // cluster)
    l2_at = l1_at + l1_clusters * cluster
    data_at = l2_at + tables * cluster
    l1 = array("Q", (_COPIED | l2_at + number * cluster for number in range(tables)))
    l2 = array("Q", bytes(8 * clusters))
    for place, guest in enumerate(order):
        l2[guest] = _COPIED | data_at + place * cluster
    for table in (l1, l2):
        table.byteswap()
    head = _HEADER.pack(b"QFI\xfb", 2, 0, 0, bits, size, 0, tables, l1_at, cluster, 1, 0, 0)
    with (
        raw.open("rb") as source,
        mmap.mmap(source.fileno(), 0, prot=mmap.PROT_READ) as content,
        path.open("wb", buffering=1 << 20) as file,
    ):
        file.write(head.ljust(l1_at, b"\0"))
        file.write(l1.tobytes().ljust(l1_clusters * cluster, b"\0"))
        file.write(l2.tobytes().ljust(tables * cluster, b"\0"))
        for guest in order:
            file.write(content[guest * cluster : (guest + 1) * cluster].ljust(cluster, b"\0"))
    return clusters


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("raw", type=Path)
    parser.add_argument("path", type=Path)
    parser.add_argument("--bits", type=int, default=12)
    options = parser.parse_args()
    print(fragment(options.raw, options.path, options.bits))
