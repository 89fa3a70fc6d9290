from agent.service.http.quotas import CallerKind, QuotaCounter, Quotas
from agent.service.jobs.peer import Peer

ROOT, USER, FAR = Peer(uid=0, pid=1), Peer(uid=1000, pid=2), Peer(address="192.0.2.7", port=1)


def test_each_kind_of_caller_has_a_quota_of_its_own_and_root_one_beside_the_socket_s():
    counter = QuotaCounter(Quotas(network=1, local=1, root=1))
    charged = [counter.acquire(peer) for peer in (USER, USER, FAR, FAR)]
    assert charged == [CallerKind.LOCAL, None, CallerKind.NETWORK, None]
    assert [counter.acquire(ROOT), counter.acquire(ROOT)] == [CallerKind.ROOT, None]
    counter.release(CallerKind.LOCAL)
    assert [counter.acquire(ROOT), counter.acquire(USER)] == [CallerKind.LOCAL, None]
