#!/bin/busybox sh
# Guest init: talk to whoever is at the virtio console. With a port, write to that, too.
. /prepare.sh
dmesg -n 1
load
# The kernel had no console to give us: its driver is a module. It hears of a port and of the terminal's
# size a little later.
until (: </dev/hvc0) 2>/dev/null; do
    usleep 100000
done
exec </dev/hvc0 >/dev/hvc0 2>&1
stty -echo
i=0
until [ -n "$(stty size 2>/dev/null)" ] || [ $i -eq 50 ]; do
    usleep 100000
    i=$((i + 1))
done
echo "TRAPLINE-GUEST: size $(stty size)"
echo "TRAPLINE-GUEST: what is your name?"
read -r name
echo "TRAPLINE-GUEST: hello $name"
for port in /sys/class/virtio-ports/*; do
    [ -s "$port/name" ] || continue
    echo "TRAPLINE-GUEST: port $(cat "$port/name")"
    echo "through the port" >"/dev/${port##*/}"
done
seq 20000 | sed 's/^/:/'
echo "TRAPLINE-GUEST: done"
poweroff -f
