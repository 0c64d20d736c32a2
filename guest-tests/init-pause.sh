#!/bin/busybox sh
# Guest init: count, listen, sleep and watch the clocks until somebody types that it is enough (see
# metronome); report the kernel's warnings, then power off.
. /prepare.sh
# No message of the kernel's gets into the middle of ours.
dmesg -n 1
echo "TRAPLINE-GUEST: cpus $(nproc)"
# What is typed is said again by the program, and by nobody else.
stty -echo
metronome
echo "TRAPLINE-GUEST: warnings"
dmesg -r | grep '^<[0-4]>'
echo "TRAPLINE-GUEST: done"
poweroff -f
