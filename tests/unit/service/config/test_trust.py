"""The operator's keys, as `byoi-agent --check` and the start of the daemon look at them."""

import pytest

from agent.host.trusted_keys import MAX_TOTAL_BYTES, read_trusted
from agent.model.signature import MAX_PUBLIC_KEY_BYTES
from agent.service.config.check import file_faults
from agent.service.config.model import Config, StateConfig, TrustConfig
from agent.service.config.trust import trust_faults

KEY = b"untrusted comment: minisign public key\nRWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\n"
"""The one of minisign's documentation."""


@pytest.fixture
def keys(tmp_path):
    path = tmp_path / "keys"
    path.mkdir()
    return path


def faults(directory, *, required=False):
    return list(trust_faults(TrustConfig(str(directory), required)))


def test_keys_of_every_type_are_found_by_their_names(keys):
    for name in ("a.minisign", "b.minisign", "a.asc", "README", ".minisign", "-x.minisign", "c.cosign.pub"):
        (keys / name).write_bytes(KEY)
    assert list(read_trusted(str(keys), "minisign")) == ["a", "b"]
    assert list(read_trusted(str(keys), "openpgp")) == ["a"]
    assert list(read_trusted(str(keys), "cosign")) == ["c"]
    assert read_trusted(str(keys), "ssh") == read_trusted(str(keys / "none"), "minisign") == {}


def test_what_is_no_file_of_keys_is_not_read(keys):
    (keys / "a.minisign").mkdir()
    with pytest.raises(ValueError, match=r"a\.minisign is no regular file"):
        read_trusted(str(keys), "minisign")
    (keys / "a.minisign").rmdir()
    (keys / "a.minisign").write_bytes(bytes(MAX_PUBLIC_KEY_BYTES + 1))
    with pytest.raises(ValueError, match=r"a\.minisign is longer than"):
        read_trusted(str(keys), "minisign")
    (keys / "a.minisign").write_bytes(b"")
    for number in range(MAX_TOTAL_BYTES // MAX_PUBLIC_KEY_BYTES + 1):
        (keys / f"{number}.ssh").write_bytes(bytes(MAX_PUBLIC_KEY_BYTES))
    with pytest.raises(ValueError, match="are longer than 8388608 bytes together"):
        read_trusted(str(keys), "ssh")


def test_good_keys_have_no_fault(keys):
    (keys / "a.minisign").write_bytes(KEY)
    assert faults(keys, required=True) == []
    assert faults(keys / "none") == []


def test_what_is_wrong_with_a_key_is_told(keys):
    (keys / "a.asc").write_bytes(KEY)
    (keys / "b.minisign").write_bytes(KEY)
    (keys / "b.minisign").chmod(0o666)
    found = faults(keys)
    assert any(
        "the trusted key a cannot be used: it holds no PGP public key block" in fault for fault in found
    )
    assert any("b.minisign" in fault and "chmod" in fault for fault in found)
    assert len(found) == 2


def test_a_check_of_the_configuration_tells_it(keys, tmp_path):
    (keys / "a.asc").write_bytes(KEY)
    config = Config("ns1", trust=TrustConfig(str(keys)), state=StateConfig(str(tmp_path)))
    assert [fault.path for fault in file_faults(config) if fault.path != "api.socket"] == ["trust.keys"]


def test_a_signature_cannot_be_required_without_a_key(keys):
    assert "no job could be taken" in faults(keys, required=True)[0]
    assert "is not there" in faults(keys / "none", required=True)[0]


def test_a_directory_that_others_can_change_is_not_trusted(keys):
    keys.chmod(0o777)
    (fault,) = faults(keys)
    assert str(keys) in fault
