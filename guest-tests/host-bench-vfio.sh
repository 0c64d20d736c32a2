# Outer machine whose clock counts instructions: give its educational device to vfio-pci, and to a guest
# of trapline's and then of QEMU's, once with its registers mapped and once with all of them trapped; the
# guest says what it has measured. MEMORY has the guests' MiB, KERNEL and INITRD what they boot; QEMU is
# an archive with it and all it needs.
for module in vfio vfio_iommu_type1 vfio_virqfd vfio-pci-core vfio-pci; do
    insmod "/modules/$module.ko"
done
for function in /sys/bus/pci/devices/*; do
    if [ "$(cat "$function/device")" = 0x11e8 ]; then edu=${function##*/}; fi
done
trapline setup vfio "$edu"
mkdir -p /tmp
tar -x -f "$QEMU" -C /
# Has the VMM $name start its guest, until one has measured all: see host-bench-disk.sh for why QEMU's
# emulated processor may end one.
measure() {
    name=$1
    shift
    status=1
    for turn in 1 2 3 4 5; do
        timeout 60 "$@" </dev/null >/tmp/said 2>&1
        sed "s/^/$name: /" /tmp/said
        if grep -q "TRAPLINE-GUEST: measured" /tmp/said; then
            status=0
            echo "TRAPLINE-PROGRESS: $name has measured"
            return
        fi
        echo "TRAPLINE-PROGRESS: $name: the guest has hung in turn $turn"
    done
}
# One command line for all, and not kvmtool's, by which a guest has its interrupts from the 8259s.
append="console=ttyS0 panic=1 quiet"
qemu() {
    way=$1
    shift
    measure "qemu-$way" /usr/bin/qemu-system-x86_64 -accel kvm -cpu host -M pc -m "$MEMORY" -nodefaults \
        -no-user-config -display none -serial stdio -no-reboot -kernel "$KERNEL" -initrd "$INITRD" \
        -append "$append" -device "vfio-pci,host=$edu$1"
}
final=0
measure trapline-mapped trapline "$@" --nodefaults -p "$append" --vfio-pci "$edu"
final=$((final | status))
measure trapline-trapped trapline "$@" --nodefaults -p "$append" --vfio-pci "$edu" --vfio-trap 0
final=$((final | status))
qemu mapped ""
final=$((final | status))
qemu trapped ,x-no-mmap=on
final=$((final | status))
trapline setup vfio --release "$edu"
echo "TRAPLINE-HOST: exit status $final"
