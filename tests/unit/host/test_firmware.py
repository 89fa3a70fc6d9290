from agent.host.firmware import detect


def test_the_kernels_directory_of_efi_tells(tmp_path):
    assert detect(str(tmp_path)) == "uefi"
    assert detect(str(tmp_path / "efi")) == "bios"
    (tmp_path / "efi").touch()
    assert detect(str(tmp_path / "efi")) == "bios"
