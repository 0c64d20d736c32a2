#!/bin/busybox sh
# Guest init: have the driver of the educational device measure accesses and interrupts.
. /prepare.sh
dmesg -n 1
insmod /modules/edu.ko measure=1
dmesg | sed -n "s/^\[[^]]*\] edu [^ ]* \(measured .*\)/EDU: \1/p"
if dmesg | grep -q "measured INTA# return"; then echo "TRAPLINE-GUEST: measured"; fi
poweroff -f
