#!/bin/busybox sh
# Guest init: have the kernel's own driver exchange bytes with programs of the host, which are reached and
# which reach programs of the guest's, several at a time; also after the driver was unloaded in the middle
# of it and loaded again.
. /prepare.sh
dmesg -n 1
load
device=$(readlink -f /sys/bus/virtio/drivers/vmw_vsock_virtio_transport/virtio*)
echo "TRAPLINE-GUEST: version_1 $(cut -c 33 "$device/features")"
sockload drive 7000 2 1 && echo "TRAPLINE-GUEST: good alone"
sockload drive 7000 1 8 && echo "TRAPLINE-GUEST: good together"
# Nobody listens there.
sockload drive 7001 1 1
sockload serve 22 5 && echo "TRAPLINE-GUEST: good from the host"
sockload drive 7000 64 2 >/dev/null 2>&1 &
sleep 1
kill $!
wait
unload
load
sockload drive 7000 1 2 && echo "TRAPLINE-GUEST: good loaded again"
dmesg | grep -E "WARNING|BUG:|Oops|vsock.*(fail|error|unable)|hung"
echo "TRAPLINE-GUEST: done"
poweroff -f
