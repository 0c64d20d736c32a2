#!/bin/busybox sh
# Guest init: talk to whoever is at the virtio console, and put memory into the balloon. With a port,
# write to that, too.
. /prepare.sh
dmesg -n 1
total() { awk '/^MemTotal/ { print $2 }' /proc/meminfo; }
before=$(total)
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci \
    virtio_console virtio_balloon; do
    insmod "/modules/$module.ko"
done
# The kernel had no console to give us: its driver is a module.
exec </dev/hvc0 >/dev/hvc0 2>&1
echo "TRAPLINE-GUEST: size $(stty size)"
echo "TRAPLINE-GUEST: what is your name?"
read -r name
echo "TRAPLINE-GUEST: hello $name"
i=0
while [ $((before - $(total))) -lt 32768 ] && [ $i -lt 100 ]; do
    usleep 100000
    i=$((i + 1))
done
echo "TRAPLINE-GUEST: $((before - $(total))) KiB are in the balloon"
for port in /sys/class/virtio-ports/*; do
    [ -e "$port/name" ] || continue
    echo "TRAPLINE-GUEST: port $(cat "$port/name")"
    echo "through the port" >"/dev/${port##*/}"
done
seq 20000 | sed 's/^/:/'
echo "TRAPLINE-GUEST: done"
poweroff -f
