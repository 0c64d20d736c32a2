#!/bin/busybox sh
# Guest init: make the file system that SYSTEM on the kernel's command line names on the first disk,
# fill it, have fsx make OPERATIONS operations on it that SEED chooses, and copy the disk to the second.
. /prepare.sh
# No message of the kernel's gets into the middle of ours.
dmesg -n 1
load
tar -x -f /bin/makers.tar -C /
PATH=$PATH:/usr/sbin:/sbin
word() { sed "s/.*$1=\([^ ]*\).*/\1/" /proc/cmdline; }
system=$(word SYSTEM)
case $system in
ext4) mkfs.ext4 -q /dev/vda ;;
# A disk as small as this has data and metadata in the same places.
btrfs) mkfs.btrfs -q --mixed /dev/vda ;;
esac
mkdir /disk
# What is freed is given back to the host.
mount -t "$system" -o discard /dev/vda /disk
mkdir /disk/files /disk/gone
for i in 1 2 3 4 5 6; do
    dd if=/dev/urandom of=/disk/files/$i bs=64k count=$((i * 2)) 2>/dev/null
    cp /disk/files/$i /disk/gone
done
(cd /disk/files && sha256sum [0-9]* >/tmp/SUMS && cp /tmp/SUMS SUMS)
sync
rm -r /disk/gone
fsx -f /bin/fsx.toml -N "$(word OPERATIONS)" -S "$(word SEED)" -P /tmp /disk/fsx &&
    echo "TRAPLINE-GUEST: fsx has made $(word OPERATIONS) operations"
umount /disk
# Nothing of it is in this kernel's cache any more.
echo 3 >/proc/sys/vm/drop_caches
mount -t "$system" -o ro /dev/vda /disk
(cd /disk/files && sha256sum -c -s SUMS) && echo "TRAPLINE-GUEST: what was written is there"
umount /disk
dd if=/dev/vda of=/dev/vdb bs=256k conv=fsync 2>/dev/null
echo 3 >/proc/sys/vm/drop_caches
cmp /dev/vda /dev/vdb && echo "TRAPLINE-GUEST: the other disk has the same"
dmesg | grep -E "WARNING|BUG:|I/O error|corrupt"
echo "TRAPLINE-GUEST: done"
poweroff -f
