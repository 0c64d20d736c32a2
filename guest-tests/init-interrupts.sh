#!/bin/busybox sh
# Guest init: give every device something to interrupt for, report the counts and the kernel's
# warnings, then power off.
. /prepare.sh
# No message of the kernel's gets into the middle of ours.
dmesg -n 1
echo "TRAPLINE-GUEST: cpus $(nproc)"
# An update interrupt of the clock, and a second of ticks.
hwclock -u -r >/dev/null
sleep 1
echo "TRAPLINE-GUEST: file /proc/interrupts"
cat /proc/interrupts
echo "TRAPLINE-GUEST: warnings"
dmesg -r | grep '^<[0-4]>'
echo "TRAPLINE-GUEST: done"
poweroff -f
