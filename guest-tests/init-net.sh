#!/bin/busybox sh
# Guest init: have the kernel's own driver exchange bytes and datagrams with the host, as many as the
# kernel's arguments say, also after the driver was taken off the card in the middle of it and put
# back, and after loading the modules again.
. /prepare.sh
# No message of the kernel's gets into the middle of ours.
dmesg -n 1
argument() { sed "s/.*$1=\([0-9]*\).*/\1/" /proc/cmdline; }
mebibytes=$(argument mebibytes) echoes=$(argument echoes)
up() {
    ip link set eth0 up
    ip address add 192.168.33.15/24 dev eth0
}
exchange() {
    if netload drive 192.168.33.1:7000 "$1" "$2"; then echo "TRAPLINE-GUEST: good $3"; fi
}
load
device=$(readlink -f /sys/class/net/eth0/device)
card=${device##*/}
echo "TRAPLINE-GUEST: card $(cat /sys/class/net/eth0/address), version_1 $(cut -c 33 "$device/features")," \
    "queues $(ls /sys/class/net/eth0/queues | grep -c rx)"
up
exchange "$mebibytes" "$echoes" "at first"
# Everything of the card is switched once.
ip link set eth0 promisc on
ip link set eth0 promisc off
ip link set eth0 down
ip link set eth0 address 02:00:00:00:00:99
up
exchange 1 20 "with another address"
exchange 64 0 "never" >/dev/null &
sleep 1
echo "$card" >/sys/bus/virtio/drivers/virtio_net/unbind
kill $! 2>/dev/null
wait
echo "$card" >/sys/bus/virtio/drivers/virtio_net/bind
up
exchange 1 20 "rebound"
unload
load
up
exchange 1 20 "loaded again"
dmesg | grep -E "WARNING|BUG:|virtio.*(fail|error|unable)|irq.*nobody|hung"
echo "TRAPLINE-GUEST: done"
poweroff -f
