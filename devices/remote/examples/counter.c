/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A device in C: a counter of 64 bits that a guest can set, and that goes up by one whenever it is read.
 *
 *   cc -I devices/remote/include -o counter devices/remote/examples/counter.c
 *   ./counter /tmp/counter.sock &
 *   trapline run --ioregion mmio=0xe0000000,len=8,socket=/tmp/counter.sock ...
 *
 * It serves one VMM after the other; without an argument it serves the one at standard input.
 */
#include "ioregionfd.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static uint64_t counter;

static uint64_t low_bytes(uint64_t value, unsigned int size)
{
    return size == 8 ? value : value & ((UINT64_C(1) << 8 * size) - 1);
}

/* What a read of the register is answered with; 0 for a write. */
static uint64_t access_register(const struct ioregionfd_cmd *cmd)
{
    unsigned int size = ioregionfd_size(cmd), shift = 8 * (cmd->offset & 7);

    if (cmd->offset > 7)
        return cmd->cmd == IOREGIONFD_CMD_READ ? low_bytes(UINT64_MAX, size) : 0;
    if (cmd->cmd == IOREGIONFD_CMD_READ)
        return low_bytes(counter++ >> shift, size);
    counter &= ~(low_bytes(UINT64_MAX, size) << shift);
    counter |= cmd->data << shift;
    return 0;
}

/* A stream may have a command in pieces: 1 for a whole one, 0 at the end, -1 for anything else. */
static int receive(int fd, struct ioregionfd_cmd *cmd)
{
    size_t have = 0;

    while (have < sizeof(*cmd)) {
        ssize_t n = read(fd, (char *)cmd + have, sizeof(*cmd) - have);

        if (n <= 0)
            return n == 0 && have == 0 ? 0 : -1;
        have += (size_t)n;
    }
    return 1;
}

static int serve(int in, int out)
{
    struct ioregionfd_cmd cmd;
    int got;

    while ((got = receive(in, &cmd)) == 1) {
        struct ioregionfd_resp resp;

        ioregionfd_to_v3(&cmd);
        memset(&resp, 0, sizeof(resp));
        resp.data = access_register(&cmd);
        if ((cmd.info & IOREGIONFD_RESP) && write(out, &resp, sizeof(resp)) != sizeof(resp))
            return -1;
    }
    return got;
}

int main(int argc, char **argv)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int listener, vmm;

    if (argc < 2)
        return serve(0, 1) == 0 ? 0 : 1;
    if (strlen(argv[1]) >= sizeof(addr.sun_path)) {
        fprintf(stderr, "%s: the path is too long for a socket\n", argv[1]);
        return 1;
    }
    strcpy(addr.sun_path, argv[1]);
    listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&addr, sizeof(addr)) != 0 ||
        listen(listener, 1) != 0) {
        perror(argv[1]);
        return 1;
    }
    while ((vmm = accept(listener, NULL, NULL)) >= 0) {
        serve(vmm, vmm);
        close(vmm);
    }
    perror("accept");
    return 1;
}
