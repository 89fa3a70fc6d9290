"""Places of connections: whose they are, and who gives way."""

from dataclasses import dataclass, field

import pytest

from agent.service.api.crowd import Crowd
from agent.service.api.places import Kind, Places, Shares
from agent.service.jobs.peer import Peer

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


def far(number: int) -> Guest:
    return Guest(Peer(address=f"192.0.2.{number}", port=1))


def test_the_oldest_stranger_of_the_greediest_address_gives_way():
    crowd = Crowd(Shares(network=6, local=1, root=0), per_address=9)
    guests = [far(number) for number in (1, 2, 2, 3, 3, 3)]
    assert all(map(crowd.enter, guests))
    crowd.recognise(guests[3])
    crowd.recognise(guests[4])
    assert crowd.enter(far(4))
    assert [bool(guest.gave_way) for guest in guests] == [False, True, False, False, False, False]
    crowd.leave(guests[1])  # its connection has closed meanwhile: the place is another's
    assert not crowd.enter(far(2))
    assert crowd.enter(Guest(USER))
    assert not crowd.enter(Guest(USER))


def test_who_comes_back_as_fast_as_they_like_drives_out_none_but_their_own():
    crowd = Crowd(Shares(network=100, local=0, root=0), per_address=90)
    mine = far(1)
    assert crowd.enter(mine)
    for turn in range(1000):
        crowd.enter(far(2 + turn % 3))
    assert mine.gave_way == []
    assert crowd.enter(far(1))


def test_nobody_who_is_known_gives_way():
    crowd = Crowd(Shares(network=2, local=0, root=0), per_address=9)
    for guest in (far(1), far(1)):
        assert crowd.enter(guest)
        crowd.recognise(guest)
    assert not crowd.enter(far(2))


def test_an_address_has_its_bound_however_many_places_are_left():
    crowd = Crowd(Shares(network=9, local=0, root=0), per_address=2)
    first, second = far(1), far(1)
    assert all(map(crowd.enter, (first, second)))
    assert not crowd.enter(far(1))
    assert (first.gave_way, second.gave_way) == ([], [])
    crowd.leave(first)
    crowd.leave(first)
    assert crowd.enter(far(1))
    assert not crowd.enter(far(1))


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
