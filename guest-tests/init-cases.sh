#!/bin/busybox sh
# Guest init: report what the kernel found; then power off, or, when the kernel's command line says
# "words", do what somebody types.
. /prepare.sh
echo "TRAPLINE-GUEST: uname $(uname -r)"
echo "TRAPLINE-GUEST: cpus $(nproc)"
cat /proc/iomem /proc/interrupts
echo "TRAPLINE-GUEST: nodes" $(ls /proc/device-tree)
dmesg | grep -E "GIC|ITS|psci|PCI|pci|ttyS|stolen|WARNING|Unhandled"
echo "TRAPLINE-GUEST: done"
case "$(cat /proc/cmdline)" in
*words*)
    echo "TRAPLINE-GUEST: waiting for a word"
    read -r word
    "$word" -f
    ;;
*) poweroff -f ;;
esac
