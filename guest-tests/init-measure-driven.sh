#!/bin/busybox sh
# Guest init: drives what devices there are; then the first line of userspace, and nothing.
/bin/busybox mount -t sysfs sysfs /sys
while read -r module; do /bin/busybox insmod "/modules/$module.ko"; done </modules/order
for device in block/vda net/eth0; do
    [ -e "/sys/class/$device" ] || echo "TRAPLINE-GUEST: no $device"
done
echo "TRAPLINE-GUEST: first userspace line"
/bin/busybox sleep 1000
