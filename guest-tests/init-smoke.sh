#!/bin/busybox sh
# Guest init: report what the kernel found, then power off.
. /prepare.sh
# No message of the kernel's gets into the middle of ours.
dmesg -n 1
echo "TRAPLINE-GUEST: uname $(uname -r)"
echo "TRAPLINE-GUEST: cpus $(nproc)"
for file in /proc/cmdline /proc/interrupts /proc/ioports /proc/iomem; do
    echo "TRAPLINE-GUEST: file $file"
    cat "$file"
done
echo "TRAPLINE-GUEST: done"
poweroff -f
