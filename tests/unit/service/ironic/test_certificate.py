"""The certificate that a conductor knows the agent by, and what the listener that shows it speaks."""

import ssl

import pytest

from agent.service.ironic.certificate import OwnCertificate, make_certificate


@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::7"])
def test_it_is_for_the_address_and_speaks_what_the_other_listener_speaks(address):
    context = OwnCertificate(*make_certificate(address)).context
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    for cipher in context.get_ciphers():
        assert cipher["protocol"] == "TLSv1.3" or (cipher["aead"] and "ECDHE" in cipher["name"])
