"""The protocol through libnbd, an independent client: strict mode off, so that it sends what it is told to.

usage: battery.py SOCKET
The server exports "disk" (read-write, over a base of 1 MiB with a hole) and "fixed" (the same, read-only).
"""

import errno
import os
import sys

import nbd

SOCKET = sys.argv[1]
MIB = 1 << 20


def attach(export="disk", contexts=(), structured=True, go=True):
    handle = nbd.NBD()
    handle.set_strict_mode(0)
    handle.set_export_name(export)
    handle.set_request_structured_replies(structured)
    handle.set_full_info(True)
    for context in contexts:
        handle.add_meta_context(context)
    handle.set_opt_mode(True)
    handle.connect_unix(SOCKET)
    if go:
        handle.opt_go()
    return handle


def fails(expected, call, *arguments, **keywords):
    try:
        call(*arguments, **keywords)
    except nbd.Error as error:
        assert error.errnum == expected, (error.string, expected)
    else:
        raise AssertionError(f"{call} did not fail")


def options():
    handle = attach(go=False)
    listed = []
    handle.opt_list(lambda name, description: listed.append((name, description)))
    assert listed == [("disk", "the disk disk"), ("fixed", "the disk fixed")], listed
    contexts = []
    handle.opt_list_meta_context(contexts.append)
    assert contexts == ["base:allocation", "qemu:allocation-depth", "sealdisk:encryption"], contexts
    handle.add_meta_context("sealdisk:")
    contexts = []
    handle.opt_list_meta_context(contexts.append)
    assert contexts == ["sealdisk:encryption"], contexts
    handle.set_export_name("nothing")
    fails(errno.ENOENT, handle.opt_info)
    fails(errno.ENOENT, handle.opt_go)
    handle.set_export_name("fixed")
    handle.opt_info()
    assert handle.is_read_only()
    handle.opt_abort()


def information():
    handle = attach()
    assert handle.get_size() == 16 * MIB
    assert handle.get_canonical_export_name() == "disk"
    assert handle.get_export_description() == "the disk disk"
    assert handle.get_protocol() == "newstyle-fixed"
    assert handle.get_structured_replies_negotiated()
    sizes = [nbd.SIZE_MINIMUM, nbd.SIZE_PREFERRED, nbd.SIZE_MAXIMUM]
    assert [handle.get_block_size(size) for size in sizes] == [512, 4096, 32 * MIB]
    for able in ("cache", "df", "fast_zero", "flush", "fua", "multi_conn", "trim", "zero"):
        assert getattr(handle, "can_" + able)(), able
    handle.shutdown()
    plain = attach(structured=False)
    assert not plain.can_df()
    plain.shutdown()


def reading_and_writing():
    for structured in (True, False):
        handle = attach(structured=structured)
        for offset, length in ((0, 512), (1, 1), (4095, 8194), (2 * MIB + 7, 3 * MIB)):
            data = os.urandom(length)
            handle.pwrite(data, offset)
            assert handle.pread(length, offset) == data
            handle.pwrite(data, offset, nbd.CMD_FLAG_FUA)
        handle.flush()
        fails(errno.EINVAL, handle.pread, 512, 16 * MIB)
        fails(errno.ENOSPC, handle.pwrite, bytes(512), 16 * MIB - 511)
        fails(errno.EINVAL, handle.trim, 512, 16 * MIB)
        fails(errno.ENOSPC, handle.zero, 512, 16 * MIB)
        fails(errno.EINVAL, handle.cache, 2, 16 * MIB - 1)
        fails(errno.EINVAL, handle.trim, 512, 0, nbd.CMD_FLAG_NO_HOLE)
        fails(errno.EINVAL, handle.pwrite, bytes(512), 0, nbd.CMD_FLAG_DF)
        fails(errno.EINVAL, handle.cache, 512, 0, nbd.CMD_FLAG_REQ_ONE)
        if not structured:
            fails(errno.EINVAL, handle.pread, 512, 0, nbd.CMD_FLAG_DF)
        # After all of that the connection is as good as before.
        assert handle.pread(1, 0)
        handle.shutdown()


def zeroing():
    handle = attach()
    for flags in (0, nbd.CMD_FLAG_FUA, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FAST_ZERO):
        handle.pwrite(b"x" * 65536, 4 * MIB)
        handle.zero(60000, 4 * MIB + 100, flags)
        data = handle.pread(65536, 4 * MIB)
        assert data == b"x" * 100 + bytes(60000) + b"x" * (65536 - 60100), flags
    fails(errno.ENOTSUP, handle.zero, 512, 0, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE)
    handle.trim(65536, 4 * MIB, nbd.CMD_FLAG_FUA)
    assert handle.pread(65536, 4 * MIB) == bytes(65536)
    handle.cache(16 * MIB, 0)
    handle.shutdown()


def structured_reads():
    handle = attach()
    handle.trim(16 * MIB, 0)
    handle.pwrite(b"d" * 65536, 5 * MIB)
    chunks = []
    # One run of data in the middle of a hole, larger than one piece.
    def chunk(data, offset, status, _error):
        chunks.append((offset, len(data), status))
    handle.pread_structured(2 * MIB, 4 * MIB, chunk)
    hole, data = nbd.READ_HOLE, nbd.READ_DATA
    assert [(at, status) for at, _, status in chunks] == [(4 * MIB, hole), (5 * MIB, data), (5 * MIB + 65536, hole)]
    chunks = []
    handle.pread_structured(2 * MIB, 4 * MIB, chunk, nbd.CMD_FLAG_DF)
    assert chunks == [(4 * MIB, 2 * MIB, data)], chunks
    handle.shutdown()


def block_status():
    names = ["base:allocation", "qemu:allocation-depth", "sealdisk:encryption"]
    handle = attach(contexts=names)
    assert all(handle.can_meta_context(name) for name in names)
    handle.zero(MIB, 8 * MIB)
    handle.pwrite(b"e" * 4096, 8 * MIB + 8192)
    found = {}
    def extents(context, _offset, entries, _error):
        found[context] = [(entries[i], entries[i + 1]) for i in range(0, len(entries), 2)]
    handle.block_status(65536, 8 * MIB, extents)
    rest = 65536 - 12288
    assert found["base:allocation"] == [(8192, 3), (4096, 0), (rest, 3)], found
    assert found["sealdisk:encryption"] == [(8192, 0), (4096, 1), (rest, 0)], found
    # Zeros that a layer holds are the layer's; what nothing holds has no depth.
    assert found["qemu:allocation-depth"][0][1] in (0, 1), found
    found.clear()
    handle.block_status(65536, 8 * MIB, extents, nbd.CMD_FLAG_REQ_ONE)
    assert all(len(entries) == 1 for entries in found.values()) and len(found) == 3, found
    fails(errno.EINVAL, handle.block_status, 1024, 16 * MIB - 512, extents)
    handle.shutdown()
    fails(errno.EINVAL, attach().block_status, 512, 0, extents)


def read_only():
    handle = attach("fixed")
    for call in (lambda: handle.pwrite(bytes(512), 0), lambda: handle.trim(512, 0), lambda: handle.zero(512, 0)):
        fails(errno.EPERM, call)
    handle.flush()
    handle.shutdown()


def many_in_flight():
    handles = [attach() for _ in range(4)]
    blocks = {}
    def done(error):
        assert error.value == 0, error.value
        return 1
    for number in range(512):
        handle = handles[number % 4]
        data = nbd.Buffer.from_bytearray(bytearray(os.urandom(8192)))
        blocks[number] = data
        flags = nbd.CMD_FLAG_FUA if number % 7 == 0 else 0
        handle.aio_pwrite(data, number * 8192, done, flags)
        if number % 16 == 0:
            handle.aio_flush(done)
    def settle():
        for handle in handles:
            while handle.aio_in_flight() > 0:
                handle.poll(-1)
    settle()
    # What one connection flushed, every other reads.
    handles[0].flush()
    read = {}
    for number in range(512):
        buffer = nbd.Buffer(8192)
        read[number] = buffer
        handles[(number + 1) % 4].aio_pread(buffer, number * 8192, done)
    settle()
    for number in range(512):
        assert read[number].to_bytearray() == blocks[number].to_bytearray(), number
    for handle in handles:
        handle.shutdown()


for test in (
    options,
    information,
    reading_and_writing,
    zeroing,
    structured_reads,
    block_status,
    read_only,
    many_in_flight,
):
    test()
    print("ok", test.__name__)
