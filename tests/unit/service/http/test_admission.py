"""Which connections are admitted, and which are evicted for them."""

from dataclasses import dataclass

from agent.service.http.admission import Admission
from agent.service.http.quotas import Quotas
from agent.service.jobs.peer import Peer

USER = Peer(uid=1000, pid=2)


@dataclass(eq=False)
class Client:
    peer: Peer
    evicted: int = 0

    def evict(self) -> None:
        self.evicted += 1


def far(number: int) -> Client:
    return Client(Peer(address=f"192.0.2.{number}", port=1))


def test_the_oldest_unauthenticated_client_of_the_greediest_address_is_evicted():
    admission = Admission(Quotas(network=6, local=1, root=0), per_address=9)
    clients = [far(number) for number in (1, 2, 2, 3, 3, 3)]
    assert all(map(admission.admit, clients))
    admission.authenticated(clients[3])
    admission.authenticated(clients[4])
    assert admission.admit(far(4))
    assert [client.evicted for client in clients] == [0, 1, 0, 0, 0, 0]
    admission.release(clients[1])  # its connection has closed meanwhile: its quota is another's
    assert not admission.admit(far(2))
    assert admission.admit(Client(USER))
    assert not admission.admit(Client(USER))


def test_who_comes_back_as_fast_as_they_like_drives_out_none_but_their_own():
    admission = Admission(Quotas(network=100, local=0, root=0), per_address=90)
    mine = far(1)
    assert admission.admit(mine)
    for turn in range(1000):
        admission.admit(far(2 + turn % 3))
    assert mine.evicted == 0
    assert admission.admit(far(1))


def test_no_authenticated_client_is_evicted():
    admission = Admission(Quotas(network=2, local=0, root=0), per_address=9)
    for client in (far(1), far(1)):
        assert admission.admit(client)
        admission.authenticated(client)
    assert not admission.admit(far(2))


def test_an_address_has_its_bound_however_many_connections_are_left():
    admission = Admission(Quotas(network=9, local=0, root=0), per_address=2)
    first, second = far(1), far(1)
    assert all(map(admission.admit, (first, second)))
    assert not admission.admit(far(1))
    assert (first.evicted, second.evicted) == (0, 0)
    admission.release(first)
    admission.release(first)
    assert admission.admit(far(1))
    assert not admission.admit(far(1))
