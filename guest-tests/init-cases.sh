#!/bin/busybox sh
# Guest init: report what the kernel found; then power off, or, when the kernel's command line says
# "words", do what somebody types: suspend (until a key is pressed), reboot or poweroff.
. /prepare.sh
# From here on the console is ours: a message of the kernel's would get into the middle of what we
# have written and the port has not sent yet, and who waits for our words would not know them.
dmesg -n 1
# The educational devices raise interrupts, and their driver says how many came.
interrupts() {
    insmod /modules/edu.ko
    dmesg -c | sed -n "/edu\|WARNING\|Unhandled/s/^\[[^]]*\] //p"
    grep -w edu /proc/interrupts | tr -s " "
    rmmod edu
}
# Devices that Debian's kernel has no driver for, with accesses made by hand.
clock() {
    devmem 0x01010000 8 0x0d
    echo "TRAPLINE-GUEST: clock $(devmem 0x01010001 8)"
}
flash() {
    [ -e /proc/device-tree/flash@2000000 ] || return
    see() { echo "TRAPLINE-GUEST: flash $1 $(devmem "$2" 32)"; }
    see holds 0x02000000
    devmem 0x02000000 32 0x00980098
    see answers 0x02000040
    for word in 0x00600060 0x00d000d0 0x00200020 0x00d000d0 0x00700070; do
        devmem 0x02000000 32 "$word"
    done
    see says 0x02000000
    devmem 0x02000000 32 0x00ff00ff
    see holds 0x02000004
    devmem 0x02000004 32 0x00400040
    devmem 0x02000004 32 0x12345678
    devmem 0x02000000 32 0x00ff00ff
    see holds 0x02000004
    see holds 0x02010000
}
echo "TRAPLINE-GUEST: uname $(uname -r)"
echo "TRAPLINE-GUEST: cpus $(nproc)"
cat /proc/iomem /proc/interrupts
echo "TRAPLINE-GUEST: nodes" $(ls /proc/device-tree)
dmesg -c | grep -E "GIC|ITS|psci|PCI|pci|ttyS|stolen|WARNING|Unhandled"
interrupts
clock
flash
echo "TRAPLINE-GUEST: done"
case "$(cat /proc/cmdline)" in
*words*)
    obey interrupts
    ;;
*) poweroff -f ;;
esac
