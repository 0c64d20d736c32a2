#!/bin/busybox sh
# Guest init: say what display the kernel found, write on it, power off.
. /prepare.sh
# No message of the kernel's gets into the middle of ours.
dmesg -n 1
echo "TRAPLINE-GUEST: fb $(cat /proc/fb)"
for name in name virtual_size bits_per_pixel stride; do
    echo "TRAPLINE-GUEST: $name $(cat /sys/class/graphics/fb0/$name)"
done
echo "TRAPLINE-GUEST: file /proc/iomem"
cat /proc/iomem
echo "TRAPLINE-GUEST: display works" >/dev/tty1
echo "TRAPLINE-GUEST: done"
poweroff -f
