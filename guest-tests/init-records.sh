#!/bin/busybox sh
# Guest init: check the records on the disk that ACKED on the kernel's command line says were durable,
# and go on writing from there, until this machine is killed; or, with LAST, power off after the check.
. /prepare.sh
dmesg -n 1
load
acked=$(sed 's/.*ACKED=\([0-9]*\).*/\1/' /proc/cmdline)
what=write
if grep -q LAST /proc/cmdline; then what=check; fi
diskload /dev/vda "records-$what" "$acked"
echo "TRAPLINE-GUEST: done"
poweroff -f
