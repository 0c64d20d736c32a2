#!/bin/busybox sh
# Guest init, started by UEFI firmware: say what a variable of ours is that firmware keeps, make it if
# it is not there, and power off.
. /prepare.sh
# No message of the kernel's gets into the middle of ours.
dmesg -n 1
echo "TRAPLINE-GUEST: uname $(uname -r)"
insmod /modules/efivarfs.ko
variables=/sys/firmware/efi/efivars
mount -t efivarfs efivarfs "$variables"
variable=$variables/TraplineTest-0d2f4c1e-5a7b-4c39-8e6d-b1a2c3d4e5f6
if [ -e "$variable" ]; then
    # Four bytes of attributes come first.
    echo "TRAPLINE-GUEST: variable: $(tail -c +5 "$variable")"
else
    echo "TRAPLINE-GUEST: no variable"
    # Non-volatile, with access at boot time and at run time.
    printf '\007\000\000\000written in an earlier life' >"$variable" &&
        echo "TRAPLINE-GUEST: variable made"
fi
echo "TRAPLINE-GUEST: done"
poweroff -f
