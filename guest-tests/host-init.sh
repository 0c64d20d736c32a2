#!/bin/busybox sh
# Init of the outer machine that has KVM: load it, run /run.sh with the arguments /args.sh sets.
. /prepare.sh
# No message of this kernel's gets into the middle of the guest's.
dmesg -n 1
mount -t debugfs debugfs /sys/kernel/debug
# ccp is there only where kvm-amd was built to need it.
for module in ccp irqbypass kvm kvm-amd; do
    if [ -f "/modules/$module.ko" ]; then insmod "/modules/$module.ko"; fi
done
if [ ! -c /dev/kvm ]; then echo "TRAPLINE-HOST: this kernel made no /dev/kvm"; fi
. /args.sh
. /run.sh
poweroff -f
