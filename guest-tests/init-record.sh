#!/bin/busybox sh
# Guest init: say what the kernel found; with "devices" in the kernel's arguments, load the drivers of
# virtio devices and use each device that there is; then power off, or, with "words", do what somebody
# types.
. /prepare.sh
# No message of the kernel's gets into the middle of ours.
dmesg -n 1
echo "TRAPLINE-GUEST: uname $(uname -r)"
echo "TRAPLINE-GUEST: cpus $(nproc)"
# Uses what there is, and says what that was.
use() {
    used=
    for disk in /sys/block/vd*; do
        [ -e "$disk" ] || continue
        node=/dev/${disk##*/}
        dd if=/dev/zero of="$node" bs=4k count=16 conv=fsync 2>/dev/null
        echo 1 >/proc/sys/vm/drop_caches
        dd if="$node" of=/dev/null bs=4k count=32 2>/dev/null && used="$used ${disk##*/}"
    done
    case "$(cat /sys/class/misc/hw_random/rng_current 2>/dev/null)" in
    virtio_rng.*) dd if=/dev/hwrng of=/dev/null bs=64 count=4 2>/dev/null && used="$used rng" ;;
    esac
    for port in /dev/vport*; do
        [ -c "$port" ] && echo "through the port" >"$port" && used="$used port"
    done
    if [ -e /sys/class/net/eth0 ]; then
        ip addr add 192.168.33.15/24 dev eth0
        ip link set eth0 up
        ping -c 2 -W 5 192.168.33.1 >/dev/null 2>&1 && used="$used net"
    fi
    if mount -t 9p -o trans=virtio,version=9p2000.L share /mnt 2>/dev/null; then
        ls /mnt >/dev/null
        echo "from the guest" >/mnt/from-guest
        cat /mnt/from-host >/dev/null && used="$used 9p"
        umount /mnt
    fi
    echo "TRAPLINE-GUEST: used$used"
}
case "$(cat /proc/cmdline)" in
*devices*)
    mkdir -p /mnt
    load
    use
    ;;
esac
echo "TRAPLINE-GUEST: done"
case "$(cat /proc/cmdline)" in
*words*) obey true ;;
*) poweroff -f ;;
esac
