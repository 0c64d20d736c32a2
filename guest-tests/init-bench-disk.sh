#!/bin/busybox sh
# Guest init: load the disks vda and, if it is there, vdb (guest-tests/diskload). LOADS on the
# kernel's command line has the loads as DISK:LOAD:COUNT, with commas between them.
. /prepare.sh
dmesg -n 1
load
# Nobody else's work is in the figures.
echo none >/sys/block/vda/queue/scheduler
loads=$(sed 's/.*LOADS=\([^ ]*\).*/\1/' /proc/cmdline)
for load in $(echo "$loads" | tr , ' '); do
    disk=${load%%:*} rest=${load#*:}
    echo "TRAPLINE-GUEST: $disk"
    diskload "/dev/$disk" "${rest%%:*}" "${rest##*:}"
done
echo "TRAPLINE-GUEST: done"
poweroff -f
