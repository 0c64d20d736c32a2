#!/bin/busybox sh
# Guest init: say what is the same in every boot, then power off.
. /prepare.sh
echo "TRAPLINE-GUEST: uname $(uname -r)"
for file in /proc/cmdline /proc/ioports /proc/iomem; do
    echo "TRAPLINE-GUEST: file $file"
    cat "$file"
done
# Long enough to fill a coalescing ring many times over.
seq -s ' ' 1 2000
echo "TRAPLINE-GUEST: done"
poweroff -f
