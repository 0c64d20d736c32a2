#!/bin/busybox sh
# Guest init: drive each function of the host with Debian's driver: a file system on an NVMe disk, a
# TCP connection there and back over each network card; then power off, or do what somebody types.
. /prepare.sh
# No message of the kernel's gets into the middle of ours.
dmesg -n 1
sed -i /^edu$/d /modules/order
load
# What is 4 MiB long and the same everywhere.
bytes() { yes "$1" | head -c 4194304; }
# The address of the function behind a device in /sys.
driver_of() { readlink "$1/device/driver" | sed 's|.*/||'; }
disk() {
    for at in /sys/block/nvme*n1; do
        [ -e "$at" ] || return
        name=${at##*/}
        mkdir -p /disk
        if ! mount -t ext4 "/dev/$name" /disk 2>/dev/null; then
            mke2fs "/dev/$name" >/dev/null
            mount -t ext4 "/dev/$name" /disk
            bytes "$name" >/disk/file
            sync
            echo "TRAPLINE-GUEST: $name: written"
        fi
        umount /disk
        # Nothing of it is in this kernel's cache any more.
        echo 3 >/proc/sys/vm/drop_caches
        mount -t ext4 -o ro "/dev/$name" /disk
        if [ "$(md5sum </disk/file)" = "$(bytes "$name" | md5sum)" ]; then
            echo "TRAPLINE-GUEST: $name: the same bytes"
        fi
        grep nvme /proc/interrupts | tr -s " "
        umount /disk
    done
}
card() {
    for at in /sys/class/net/*; do
        name=${at##*/}
        [ -e "$at/device/driver" ] || continue
        driver=$(driver_of "$at")
        # Each card is on a network of its own.
        net=$(cat "$at/address" | cut -d: -f6)
        ip address flush dev "$name"
        ip address add "10.0.$((0x$net)).15/24" dev "$name"
        ip link set "$name" up
        for try in 1 2 3 4 5 6 7 8 9 10; do
            ping -c 1 -W 2 "10.0.$((0x$net)).2" >/dev/null && break
        done
        bytes "$driver" >/tmp/sent
        # What answers sends back what it gets.
        timeout 120 nc "10.0.$((0x$net)).100" 7 </tmp/sent | head -c 4194304 >/tmp/got
        if cmp -s /tmp/sent /tmp/got; then
            echo "TRAPLINE-GUEST: $driver: the same bytes there and back"
        else
            echo "TRAPLINE-GUEST: $driver: $(wc -c </tmp/got) bytes came back"
        fi
        grep -w "$name" /proc/interrupts | tr -s " "
        ip link set "$name" down
    done
}
# DMA of the educational device, by hand: from memory to the device, from there to memory, and to where
# no memory is. Linux leaves alone what its command line keeps from it.
memory=0x6000000
nowhere=0xc000000
transfer() { # from, to, command
    devmem $((base + 0x80)) 32 "$1"
    devmem $((base + 0x88)) 32 "$2"
    devmem $((base + 0x90)) 32 4
    devmem $((base + 0x98)) 32 "$3"
    for try in 1 2 3 4 5 6 7 8 9 10; do
        [ $(($(devmem $((base + 0x98)) 32) & 1)) = 0 ] && return
        sleep 1
    done
}
dma() {
    for at in /sys/bus/pci/devices/*; do
        [ "$(cat "$at/device")" = 0x11e8 ] || continue
        base=$(head -n 1 "$at/resource" | cut -d " " -f 1)
        # Memory, bus master.
        printf '\006' | dd of="$at/config" bs=1 seek=4 2>/dev/null
        devmem $memory 32 0x12345678
        transfer $memory 0x40000 1
        transfer 0x40000 $nowhere 3
        transfer 0x40000 $((memory + 0x100)) 3
        echo "TRAPLINE-GUEST: edu: $(devmem $((memory + 0x100)) 32) came back"
    done
}
all() {
    dma
    disk
    card
    if [ -e /modules/edu.ko ]; then
        insmod /modules/edu.ko
        dmesg | sed -n "s/^\[[^]]*\] \(edu .*\)/\1/p"
        grep -w edu /proc/interrupts | tr -s " "
        rmmod edu
    fi
    dmesg -c | grep -E "WARNING|BUG|nobody cared|NETDEV WATCHDOG|I/O error"
}
echo "TRAPLINE-GUEST: cpus $(nproc)"
for function in /sys/bus/pci/devices/*; do
    echo "TRAPLINE-GUEST: function ${function##*/} $(cat "$function/vendor") $(cat "$function/device")"
done
all
echo "TRAPLINE-GUEST: done"
case "$(cat /proc/cmdline)" in
*words*) obey all ;;
*waits*)
    # For the host to do something, after which we look who is still there.
    echo "TRAPLINE-GUEST: waiting for a word"
    read -r word
    for function in /sys/bus/pci/devices/*; do
        # Not from what the kernel remembers.
        echo "TRAPLINE-GUEST: now ${function##*/} $(od -A n -t x2 -N 2 "$function/config")"
    done
    # Drivers of what is gone may wait for it for long.
    disk
    echo "TRAPLINE-GUEST: still there"
    # Nor may the end of this guest wait for them.
    echo b >/proc/sysrq-trigger
    ;;
*) poweroff -f ;;
esac
