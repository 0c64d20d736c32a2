#!/bin/busybox sh
# Guest init: give every device something to interrupt for, report the counts and the kernel's
# warnings, then power off.
. /prepare.sh
# No message of the kernel's gets into the middle of ours.
dmesg -n 1
echo "TRAPLINE-GUEST: cpus $(nproc)"
# The educational devices raise interrupts, and their driver says how many came.
if [ -e /modules/edu.ko ]; then
    insmod /modules/edu.ko
    dmesg | sed -n "s/^\[[^]]*\] \(edu .*\)/\1/p"
    grep -w edu /proc/interrupts | tr -s " "
fi
# An update interrupt of the clock, and a second of ticks.
hwclock -u -r >/dev/null
sleep 1
echo "TRAPLINE-GUEST: file /proc/interrupts"
cat /proc/interrupts
echo "TRAPLINE-GUEST: warnings"
dmesg -r | grep '^<[0-4]>'
echo "TRAPLINE-GUEST: done"
poweroff -f
