import pytest

from agent.service.jobs.peer import Peer


@pytest.mark.parametrize(
    ("peer", "who", "text"),
    [
        (Peer(address="192.0.2.7", port=5), "192.0.2.7", "192.0.2.7:5"),
        (Peer(address="::ffff:192.0.2.7", port=5), "192.0.2.7", "[::ffff:192.0.2.7]:5"),
        (Peer(address="2001:db8:0:1::7", port=5), "2001:db8:0:1::/64", "[2001:db8:0:1::7]:5"),
        (Peer(address="fe80::1%eth0", port=5), "fe80::/64", "[fe80::1%eth0]:5"),
        (Peer(uid=0, pid=9), "uid 0", "uid 0, pid 9"),
    ],
)
def test_whose_a_connection_is(peer, who, text):
    assert (peer.who, str(peer), peer.is_remote) == (who, text, "uid" not in who)
