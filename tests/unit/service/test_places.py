"""Places of connections: whose they are, and who gives way."""

from dataclasses import dataclass, field

import pytest

from agent.service.crowd import Crowd
from agent.service.peer import Peer
from agent.service.places import Kind, Places, Shares

ROOT, USER, FAR = Peer(uid=0, pid=1), Peer(uid=1000, pid=2), Peer(address="192.0.2.7", port=1)


@dataclass(eq=False)
class Guest:
    peer: Peer
    gave_way: list[bool] = field(default_factory=list)

    def give_way(self) -> None:
        self.gave_way.append(True)


def test_each_kind_of_caller_has_places_of_its_own_and_root_some_beside_them():
    places = Places(Shares(network=1, local=1, root=1))
    assert [places.take(peer) for peer in (USER, USER, FAR, FAR)] == [Kind.LOCAL, None, Kind.NETWORK, None]
    assert [places.take(ROOT), places.take(ROOT)] == [Kind.ROOT, None]
    places.give_back(Kind.LOCAL)
    assert [places.take(ROOT), places.take(USER)] == [Kind.LOCAL, None]


def test_the_oldest_stranger_gives_way_and_only_a_stranger_of_the_network():
    crowd = Crowd(Shares(network=3, local=1, root=0), per_address=9)
    guests = [Guest(FAR) for _ in range(3)]
    assert all(map(crowd.enter, guests))
    crowd.recognise(guests[0])
    assert crowd.enter(Guest(FAR))
    assert [guest.gave_way for guest in guests] == [[], [True], []]
    crowd.leave(guests[1])  # its connection has closed meanwhile: the place is another's
    assert crowd.enter(Guest(USER))
    assert not crowd.enter(Guest(USER))
    assert guests[2].gave_way == []


def test_nobody_who_is_known_gives_way():
    crowd = Crowd(Shares(network=2, local=0, root=0), per_address=9)
    for guest in (Guest(FAR), Guest(FAR)):
        assert crowd.enter(guest)
        crowd.recognise(guest)
    assert not crowd.enter(Guest(FAR))


def test_a_crowded_address_takes_places_of_its_own_only():
    crowd = Crowd(Shares(network=9, local=0, root=0), per_address=2)
    first, second, other = Guest(FAR), Guest(FAR), Guest(Peer(address="192.0.2.8", port=1))
    assert all(map(crowd.enter, (other, first, second)))
    assert crowd.enter(Guest(FAR))
    assert [guest.gave_way for guest in (other, first, second)] == [[], [True], []]
    crowd.leave(other)
    crowd.leave(second)
    assert crowd.enter(Guest(FAR))


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
