"""A device of eight registers of 64 bits behind an ioregionfd, for tests of the VMM's end.

Written from the thread of the patches and nothing else. Commands come on standard input and responses
go to standard output (the same socket, or two pipes); argument 1 is the layout, "v1" or "v3", or "ids"
for v3 with ids, which the VMM asks for first (docs/ioregion.md), argument 2 the way commands arrive,
"stream" or "packets". A posted write to offset 0x38 ends the program. With ids a read of offset 0x30 is
answered only after the next command that wants an answer, and one of offset 0x28 fails.
"""

import os
import struct
import sys

CMD_READ, CMD_WRITE = 0, 1


def recv_exactly(fd, length, packets):
    if packets:
        return os.read(fd, length)
    data = b""
    while len(data) < length:
        more = os.read(fd, length - len(data))
        if not more:
            break
        data += more
    return data


def decode_v1(head):
    (info, padding) = struct.unpack("=II", head)
    assert padding == 0 and info >> 7 == 0, head.hex()
    return info & 0xF, info >> 4 & 3, info >> 6 & 1


def decode_v3(head):
    (cmd, bits, padding) = struct.unpack("=BB6s", head)
    assert padding == bytes(6) and bits >> 5 == 0, head.hex()
    return cmd, bits & 0xF, bits >> 4 & 1


def decode_ids(head):
    (cmd, bits, padding, number) = struct.unpack("=BBHI", head)
    assert padding == 0 and bits >> 5 == 0, head.hex()
    return cmd, bits & 0xF, bits >> 4 & 1, number


def answer_hello(packets):
    hello = recv_exactly(0, 32, packets)
    (cmd, bits, padding, user_data, offset, wanted) = struct.unpack("=BB6sQQQ", hello)
    assert (cmd, bits, padding, user_data, offset) == (0xF, 0x13, bytes(6), 0, 0), hello.hex()
    assert wanted & 1
    os.write(1, struct.pack("=Q24x", 1))


def main():
    decode = {"v1": decode_v1, "v3": decode_v3, "ids": decode_ids}[sys.argv[1]]
    packets = sys.argv[2] == "packets"
    regions = {}
    late = []
    ids = decode == decode_ids
    if ids:
        answer_hello(packets)
    while True:
        command = recv_exactly(0, 32, packets)
        if not command:
            return
        assert len(command) == 32, len(command)
        cmd, exponent, wants_response, *number = decode(command[:8])
        user_data, offset, data = struct.unpack("=QQQ", command[8:])
        size = 1 << exponent
        memory = regions.setdefault(user_data, bytearray(64))
        if cmd == CMD_READ:
            assert wants_response and data == 0
            value = int.from_bytes(memory[offset : offset + size], sys.byteorder)
        else:
            assert cmd == CMD_WRITE and data < 1 << 8 * size
            memory[offset : offset + size] = data.to_bytes(size, sys.byteorder)
            value = 0
        if wants_response:
            if not ids:
                answers = [struct.pack("=Q24x", value)]
            else:
                failed = cmd == CMD_READ and offset == 0x28
                answer = struct.pack("=QIB19x", value, number[0], failed)
                if cmd == CMD_READ and offset == 0x30 and not late:
                    late.append(answer)
                    continue
                answers = [answer] + late
                late = []
            for response in answers:
                assert os.write(1, response) == 32
        elif cmd == CMD_WRITE and offset == 0x38:
            return


main()
