#!/bin/busybox sh
# Guest init: have the kernel's own modules drive every virtio device there is, take drivers off and
# put them back, load modules as often as the kernel's arguments say (reloads=N), and then do what
# somebody types, if they say "words".
. /prepare.sh
# No message of the kernel's gets into the middle of ours.
dmesg -n 1
# What is there: its type, its driver, whether that is one of version 1.0, and the device behind.
devices() {
    for device in /sys/bus/virtio/devices/virtio*; do
        place=$(readlink -f "$device")
        parent=${place%/*}
        driver=$(readlink "$device/driver")
        echo "TRAPLINE-GUEST: type $(($(cat "$device/device"))), ${driver##*/}," \
            "version_1 $(cut -c 33 "$device/features"), behind ${parent##*/}"
    done
}
# New data goes to each disk and comes back, not out of a cache; entropy comes; the host hears what the
# port is told; the balloon holds 16 MiB. Says which are good.
good() {
    list=
    for disk in /sys/block/vd*; do
        node=/dev/${disk##*/}
        dd if=/dev/urandom of=/tmp/data bs=64k count=4 2>/dev/null
        dd if=/tmp/data of="$node" bs=64k conv=fsync 2>/dev/null
        echo 1 >/proc/sys/vm/drop_caches
        if dd if="$node" bs=64k count=4 2>/dev/null | cmp -s - /tmp/data; then
            list="$list$(cat "$disk/serial")
"
        fi
    done
    case "$(cat /sys/class/misc/hw_random/rng_current)" in
    virtio_rng.*)
        if [ "$(dd if=/dev/hwrng bs=64 count=1 2>/dev/null | wc -c)" = 64 ]; then
            list="${list}rng
"
        fi
        ;;
    esac
    for port in /dev/vport*; do
        if [ -c "$port" ] && echo "good $1" >"$port"; then
            list="${list}port
"
        fi
    done
    for wait in 0 1 1 2 3 5 8; do
        if [ "$(held)" = 4096 ]; then
            list="${list}balloon
"
            break
        fi
        sleep "$wait"
    done
    echo "TRAPLINE-GUEST: good $1:" $(echo "$list" | sort)
}
# Pages of the balloon.
held() {
    awk '$1 == "balloon_inflate" { held += $2 } $1 == "balloon_deflate" { held -= $2 }
        END { print held }' /proc/vmstat
}
# Takes every driver of a bus off its devices, one device at a time, and puts it back.
rebind() {
    for driver in /sys/bus/"$1"/drivers/$2; do
        for link in "$driver"/*; do
            if [ -e "$link/uevent" ] && [ "${link##*/}" != module ]; then
                echo "${link##*/}" >"$driver/unbind"
                echo "${link##*/}" >"$driver/bind"
            fi
        done
    done
}
load
echo "TRAPLINE-GUEST: cpus $(nproc)"
devices
good "at first"
grep virtio /proc/interrupts | tr -s " "
rebind virtio "virtio_*"
good "rebound"
rebind pci virtio-pci
rebind platform virtio-mmio
good "with transports rebound"
reloads=$(sed "s/.*reloads=\([0-9]*\).*/\1/" /proc/cmdline)
count=0
while [ "$count" -lt "$reloads" ]; do
    unload
    load
    good "loaded again"
    count=$((count + 1))
done
dmesg | grep -E "WARNING|BUG:|I/O error|virtio.*(fail|error|unable)|irq.*nobody"
echo "TRAPLINE-GUEST: done"
case "$(cat /proc/cmdline)" in
*words*) obey good "after suspend" ;;
*) poweroff -f ;;
esac
