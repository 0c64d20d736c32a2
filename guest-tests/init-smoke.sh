#!/bin/busybox sh
# Guest init: report what the kernel found, then power off.
. /prepare.sh
echo "TRAPLINE-GUEST: uname $(uname -r)"
echo "TRAPLINE-GUEST: cpus $(nproc)"
for file in /proc/cmdline /proc/interrupts /proc/ioports /proc/iomem; do
    echo "TRAPLINE-GUEST: file $file"
    cat "$file"
done
echo "TRAPLINE-GUEST: done"
poweroff -f
