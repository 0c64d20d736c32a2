#!/bin/busybox sh
# Guest init: reset the machine as soon as userspace is up.
. /prepare.sh
echo "TRAPLINE-GUEST: resetting"
reboot -f
