import mmap

from agent.host.inflight import join_neighbours

PAGE = 4096


def pages(count):
    return memoryview(mmap.mmap(-1, count * PAGE))


def joined(*writes):
    requests = join_neighbours(writes, 512)
    return None if requests is None else [(r.offset, r.length, len(r.pieces) // 2) for r in requests]


def test_neighbours_become_one_whatever_their_order():
    data = pages(8)
    cut = [data[at * PAGE : (at + 1) * PAGE] for at in range(8)]
    assert joined((8 * PAGE, cut[0]), (3 * PAGE, cut[1]), (7 * PAGE, cut[2]), (4 * PAGE, cut[3][:512])) == [
        (3 * PAGE, PAGE + 512, 2),
        (7 * PAGE, 2 * PAGE, 2),
    ]


def test_one_write_has_no_more_pieces_than_the_kernel_takes():
    data = pages(1)
    assert joined(*((at * 512, data[:512]) for at in range(1030))) == [
        (0, 1024 * 512, 1024),
        (1024 * 512, 6 * 512, 6),
    ]


def test_those_that_overlap_have_an_order_to_keep():
    data = pages(2)
    assert joined((0, data), (PAGE, data[:512])) is None
    assert joined((PAGE, data[:512]), (0, data)) is None
    assert joined((0, data[:512]), (0, data[:512])) is None


def test_what_does_not_suit_direct_writes_is_not_taken():
    data = pages(2)
    good = (8 * PAGE, data[:PAGE])
    assert joined(good) is not None
    for offset, view in ((1, data[:512]), (0, data[:511]), (0, data[1:513]), (0, memoryview(bytes(512)))):
        assert joined(good, (offset, view)) is None
