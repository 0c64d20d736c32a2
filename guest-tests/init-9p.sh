#!/bin/busybox sh
# Guest init: mount folders of the host in every way Linux has of keeping what it has read, look whether
# they are file systems, and see what comes of a full one, one that must not be changed, and one that the
# host takes away.
. /prepare.sh
dmesg -n 1
load
mkdir -p /mnt
on() {
    mount -t 9p -o "trans=virtio,version=9p2000.L,$2" "$1" /mnt || echo "TRAPLINE-GUEST: $1 is not mounted"
}
# Folders are listed in the same way whatever is kept: a large one once is enough.
names=1000
for cache in none mmap loose; do
    on share "cache=$cache,msize=131072"
    echo "TRAPLINE-GUEST: cache=$cache"
    fileload /mnt posix "$names"
    names=200
    fileload /mnt random 500 "$(cat /proc/uptime | tr -d '. ')"
    umount /mnt
done
# Pages of the guest's, and several processes at a time.
on share cache=mmap,msize=524288
dd if=/dev/urandom of=/mnt/data bs=64k count=32 2>/dev/null
for n in 1 2 3 4; do (cp /mnt/data "/mnt/copy$n") & done
wait
for n in 1 2 3 4; do cmp /mnt/data "/mnt/copy$n" && echo "TRAPLINE-GUEST: copy $n is the same"; done
echo "TRAPLINE-GUEST: data $(md5sum </mnt/data)"
tar -cf /mnt/all.tar -C / bin && mkdir /mnt/out && tar -xf /mnt/all.tar -C /mnt/out &&
    cmp /bin/busybox /mnt/out/bin/busybox && echo "TRAPLINE-GUEST: packed and unpacked"
echo "TRAPLINE-GUEST: the host says: $(cat /mnt/from-host)"
umount /mnt
on full cache=none
dd if=/dev/zero of=/mnt/big bs=64k count=64 2>&1 | grep -i "space"
rm /mnt/big && echo small >/mnt/small && echo "TRAPLINE-GUEST: there is room again: $(cat /mnt/small)"
umount /mnt
on ro cache=none
echo changed 2>&1 >/mnt/file
rm /mnt/file 2>&1
echo "TRAPLINE-GUEST: unchanged: $(cat /mnt/file)"
umount /mnt
on gone cache=none
echo "TRAPLINE-GUEST: before: $(cat /mnt/file)"
echo "TRAPLINE-GUEST: take it away"
while cat /mnt/file >/dev/null 2>&1; do usleep 100000; done
cat /mnt/file 2>&1
mkdir /mnt/new 2>&1
umount /mnt && echo "TRAPLINE-GUEST: unmounted what is gone"
dmesg | grep -E "WARNING|BUG:|Oops|9p.*(corrupt|bogus|bad)"
echo "TRAPLINE-GUEST: done"
poweroff -f
