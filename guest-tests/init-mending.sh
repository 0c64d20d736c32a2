#!/bin/busybox sh
# Guest init: fill a part of the first disk and look whether it is there, however long that takes; then,
# if the kernel's arguments say LARGER=N, wait until the disk has N sectors, and use the last of them.
. /prepare.sh
# No message of the kernel's gets into the middle of ours.
dmesg -n 1
load
# A processor that runs says so.
while sleep 0.1; do echo "TRAPLINE-GUEST: alive"; done &
# Data goes to the disk from block $1 on, and comes back, not out of a cache.
there() {
    dd if=/tmp/data of=/dev/vda bs=64k seek="$1" conv=fsync 2>/dev/null || return
    echo 1 >/proc/sys/vm/drop_caches
    dd if=/dev/vda bs=64k skip="$1" count=128 2>/dev/null | cmp -s - /tmp/data
}
dd if=/dev/urandom of=/tmp/data bs=64k count=128 2>/dev/null
echo "TRAPLINE-GUEST: filling"
there 0 && echo "TRAPLINE-GUEST: what was written is there"
larger=$(sed -n 's/.*LARGER=\([0-9]*\).*/\1/p' /proc/cmdline)
if [ -n "$larger" ]; then
    until [ "$(cat /sys/block/vda/size)" = "$larger" ]; do sleep 0.1; done
    echo "TRAPLINE-GUEST: $(cat /sys/block/vda/size) sectors"
    there $((larger / 128 - 128)) && echo "TRAPLINE-GUEST: there is room for it"
fi
dmesg | grep -E "WARNING|BUG:|I/O error|hung task|new size|capacity change"
echo "TRAPLINE-GUEST: done"
poweroff -f
