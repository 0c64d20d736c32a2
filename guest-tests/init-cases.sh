#!/bin/busybox sh
# Guest init: report what the kernel found; then power off, or, when the kernel's command line says
# "words", do what somebody types: suspend (until a key is pressed), reboot or poweroff.
. /prepare.sh
# The educational devices raise interrupts, and their driver says how many came. Not on the console,
# where that would get into the middle of what we have written and the port has not sent yet.
interrupts() {
    level=$(cut -f1 /proc/sys/kernel/printk)
    dmesg -n 1
    dmesg -c >/dev/null
    insmod /modules/edu.ko
    dmesg | sed -n "/edu\|WARNING/s/^\[[^]]*\] //p"
    dmesg -n "$level"
    grep -w edu /proc/interrupts | tr -s " "
    rmmod edu
}
echo "TRAPLINE-GUEST: uname $(uname -r)"
echo "TRAPLINE-GUEST: cpus $(nproc)"
cat /proc/iomem /proc/interrupts
echo "TRAPLINE-GUEST: nodes" $(ls /proc/device-tree)
dmesg | grep -E "GIC|ITS|psci|PCI|pci|ttyS|stolen|WARNING|Unhandled"
interrupts
echo "TRAPLINE-GUEST: done"
case "$(cat /proc/cmdline)" in
*words*)
    echo enabled >/sys/class/tty/ttyS0/power/wakeup
    while :; do
        echo "TRAPLINE-GUEST: waiting for a word"
        # Empty lines are keys that were to wake us.
        word=
        while [ -z "$word" ]; do read -r word; done
        case "$word" in
        suspend)
            echo "TRAPLINE-GUEST: suspending"
            # A key that comes too early is a reason not to.
            until echo mem >/sys/power/state; do sleep 1; done
            echo "TRAPLINE-GUEST: resumed with $(nproc) CPUs"
            interrupts
            ;;
        *) "$word" -f ;;
        esac
    done
    ;;
*) poweroff -f ;;
esac
