#!/bin/busybox sh
# Guest init: say what is the same in every boot, and what the kernel logged, then power off. With
# `typed=` in the kernel's arguments, which are our environment, somebody is to be heard typing before.
. /prepare.sh
# Nothing but the log's own words gets in between from here on.
dmesg -n 1
echo "TRAPLINE-GUEST: uname $(uname -r)"
for file in /proc/cmdline /proc/ioports /proc/iomem; do
    echo "TRAPLINE-GUEST: file $file"
    cat "$file"
done
# Long enough to fill a coalescing ring many times over.
seq -s ' ' 1 2000
echo "TRAPLINE-GUEST: kernel log"
dmesg
echo "TRAPLINE-GUEST: end of log"
if [ -n "$typed" ]; then
    stty -icanon -echo
    heard=$(dd bs=1 count=20 2>/dev/null)
    echo "TRAPLINE-GUEST: keys heard: ${#heard}"
fi
echo "TRAPLINE-GUEST: done"
poweroff -f
