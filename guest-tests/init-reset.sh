#!/bin/busybox sh
# Guest init: reset the machine as soon as userspace is up.
. /prepare.sh
# No message of the kernel's gets into the middle of ours.
dmesg -n 1
echo "TRAPLINE-GUEST: resetting"
reboot -f
