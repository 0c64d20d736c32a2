#!/bin/busybox sh
# Guest init: make a file system on the first disk and fill it, or, when the kernel's arguments say
# so, check what an earlier guest left there.
. /prepare.sh
# No message of the kernel's gets into the middle of ours.
dmesg -n 1
load
cd /sys/block/vda
echo "TRAPLINE-GUEST: vda $(cat size) sectors, serial $(cat serial), $(cat queue/write_cache)," \
    "discards of $(cat queue/discard_granularity), $(ls mq | wc -l) queues"
mkdir /disk
same() { (cd /disk/files && sha256sum -c -s SUMS && echo "TRAPLINE-GUEST: $1"); }
if grep -q checking /proc/cmdline; then
    mount -t ext4 -o ro /dev/vda /disk && same "what was there is there"
else
    mke2fs /dev/vda >/dev/null && mount -t ext4 /dev/vda /disk && mkdir /disk/files /disk/gone
    for i in 1 2 3 4 5 6 7 8; do
        dd if=/dev/urandom of=/disk/files/$i bs=64k count=$((i * 2)) 2>/dev/null
        cp /disk/files/$i /disk/gone
    done
    # A record that a flush has promised, and a hole in a file.
    echo promised >/disk/files/9
    dd if=/disk/files/9 of=/disk/files/10 bs=1 seek=1000000 2>/dev/null
    (cd /disk/files && sha256sum [0-9]* >/tmp/SUMS && cp /tmp/SUMS SUMS)
    sync
    rm -r /disk/gone
    umount /disk
    # Nothing of it is in this kernel's cache any more.
    echo 3 >/proc/sys/vm/drop_caches
    mount -t ext4 -o ro /dev/vda /disk && same "what was written is there"
fi
umount /disk
echo "TRAPLINE-GUEST: disk $(sha256sum </dev/vda)"
echo "TRAPLINE-GUEST: done"
poweroff -f
