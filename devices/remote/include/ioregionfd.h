/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Devices behind a file descriptor: what goes over it.
 *
 * The layout is that of version 3 of the ioregionfd patches for KVM (2021-02-21). For every access
 * of the guest to a region the VMM writes one struct ioregionfd_cmd; the device answers one that has
 * IOREGIONFD_RESP set with one struct ioregionfd_resp, in order. On a stream a command may arrive in
 * pieces, and several at once. Numbers are in the host's byte order. Unused bytes are zero.
 */
#ifndef IOREGIONFD_H
#define IOREGIONFD_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* struct ioregionfd_cmd.cmd */
#define IOREGIONFD_CMD_READ 0
#define IOREGIONFD_CMD_WRITE 1

/* struct ioregionfd_cmd.info: the power of two that the access has bytes, and a flag. */
#define IOREGIONFD_SIZE_8BIT 0
#define IOREGIONFD_SIZE_16BIT 1
#define IOREGIONFD_SIZE_32BIT 2
#define IOREGIONFD_SIZE_64BIT 3
#define IOREGIONFD_SIZE_MASK 0x0f
#define IOREGIONFD_RESP 0x10 /* the device is to answer; always so for a read */

struct ioregionfd_cmd {
    uint8_t cmd;        /*  0: IOREGIONFD_CMD_* */
    uint8_t info;       /*  1: IOREGIONFD_SIZE_*, IOREGIONFD_RESP */
    uint8_t padding[6]; /*  2 */
    uint64_t user_data; /*  8: what the region was registered with */
    uint64_t offset;    /* 16: in the region, in bytes */
    uint64_t data;      /* 24: what is written; of a region without data always 0, of size 0 */
};

struct ioregionfd_resp {
    uint64_t data;   /* 0: what was read; ignored for a write */
    uint8_t pad[24]; /* 8 */
};

/*
 * Beyond the patches, and only where a VMM asks for it first: it sends a command IOREGIONFD_CMD_HELLO
 * with what it wants in data, and the device answers with what of that it does. With
 * IOREGIONFD_FEATURE_IDS each command has an id in its padding, and a response says which it answers and
 * whether the device could; they may come in any order.
 */
#define IOREGIONFD_CMD_HELLO 0xf
#define IOREGIONFD_FEATURE_IDS 1
#define IOREGIONFD_FEATURE_RING 2 /* by memory: not described here, so not to be granted */

struct ioregionfd_reply {
    uint64_t data;   /*  0 */
    uint32_t id;     /*  8: that of the command */
    uint8_t status;  /* 12: 0, or anything else where the device could not: a read gives all ones */
    uint8_t pad[19]; /* 13 */
};

/* The id of a command, where commands have one. */
static inline uint32_t ioregionfd_id(const struct ioregionfd_cmd *cmd)
{
    return (uint32_t)cmd->padding[2] | (uint32_t)cmd->padding[3] << 8 |
           (uint32_t)cmd->padding[4] << 16 | (uint32_t)cmd->padding[5] << 24;
}

/* Bytes of the access. */
static inline unsigned int ioregionfd_size(const struct ioregionfd_cmd *cmd)
{
    return 1u << (cmd->info & IOREGIONFD_SIZE_MASK);
}

/*
 * Versions 1 and 2 of the patches had a 32-bit word in the place of cmd, info and two bytes of
 * padding: the command in bits 3..0, the size in bits 5..4, IOREGIONFD_RESP_V1 for the response.
 * A device that wants to serve both calls this on every command it has read: byte 1 of such a
 * command is zero, and where that of version 3 is zero, both mean the same.
 */
#define IOREGIONFD_RESP_V1 0x40

static inline void ioregionfd_to_v3(struct ioregionfd_cmd *cmd)
{
    if (cmd->info == 0) {
        uint8_t word = cmd->cmd;

        cmd->cmd = word & 0x0f;
        cmd->info = (uint8_t)(word >> 4 & 3) | (word & IOREGIONFD_RESP_V1 ? IOREGIONFD_RESP : 0);
    }
}

#ifdef __cplusplus
}
#endif

#endif
