"""qcow2 images that contradict themselves, and the memory that the worst of them can take."""

import subprocess

from agent.formats.qcow2.decoder import Qcow2Decoder
from agent.units import MiB, TiB
from tests.unit.formats.qcow2.test_hostile import peak_of

# -- memory


def test_an_empty_disk_of_8_tib_takes_little_memory(tmp_path):
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "image", "8T"], check=True)
    file = (tmp_path / "image").read_bytes()

    def work():
        decoder = Qcow2Decoder(len(file), 8 * TiB, can_fetch=False)
        for start in range(0, len(file), 65536):
            assert sum(extent.length for extent in decoder.feed(memoryview(file)[start : start + 65536])) in {
                0,
                8 * TiB,
            }

    assert peak_of(work) < MiB
