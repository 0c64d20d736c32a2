# Outer machine: have the kernel trace what a guest of trapline does, which is recorded, too, and, if there
# is $QEMU, an archive of QEMU and what it needs, a guest of each of its machines $QEMUS; import the
# traces, and say what can be learned from them. $BOARD is whose registers their addresses are.
scratch=$(mktemp -d)
tracing=/sys/kernel/tracing
mount -t tracefs tracefs "$tracing" || exit 1
# A whole boot, of each processor.
echo 40960 >"$tracing/buffer_size_kb"
status=0
# Runs the rest as the guest $1, with its accesses traced, and imports them.
traced() {
    name=$1
    shift
    echo >"$tracing/trace"
    for event in pio mmio; do
        enable="$tracing/events/kvm/kvm_$event/enable"
        if [ -f "$enable" ]; then echo 1 >"$enable"; fi
    done
    "$@" </dev/null >"$scratch/console" 2>&1
    ended=$?
    for enable in "$tracing"/events/kvm/kvm_*io/enable; do echo 0 >"$enable"; done
    cat "$scratch/console"
    echo "TRAPLINE-HOST: $name ended with $ended"
    cat "$tracing/trace" >"$scratch/$name.txt"
    trapline trace import "$scratch/$name.txt" -o "$scratch/$name.trp" --machine "$BOARD" || status=1
    echo "TRAPLINE-HOST: stat of $name"
    trapline trace stat "$scratch/$name.trp" || status=1
    echo "TRAPLINE-HOST: show of $name"
    trapline trace show "$scratch/$name.trp" --device serial0 -n 12 || status=1
    trapline diff "$scratch/$name.trp" "$scratch/$name.trp" || status=1
    echo "TRAPLINE-HOST: trace of $name"
    gzip -c "$scratch/$name.txt" | base64
    echo "TRAPLINE-HOST: end of trace"
}
traced own trapline "$@" --record "$scratch/recording" --record-exact
[ "$ended" = 0 ] || status=$ended
echo "TRAPLINE-HOST: stat of the recording"
trapline trace stat "$scratch/recording" || status=1
if [ -n "$QEMU" ]; then
    tar -x -f "$QEMU" -C /
    for machine in $QEMUS; do
        traced "${machine%%,*}" timeout 300 /usr/bin/qemu-system-x86_64 -M "$machine" \
            -accel kvm -cpu host -m 128 -nodefaults -nographic -serial stdio -no-reboot \
            -kernel /guest/kernel -initrd /guest/initrd \
            -append "console=ttyS0 panic=-1 quiet"
        echo "TRAPLINE-HOST: how $name differs"
        # The status says that they do.
        trapline diff "$scratch/own.trp" "$scratch/$name.trp" --costs 5
        [ $? = 1 ] || status=1
        echo "TRAPLINE-HOST: end of differences"
    done
fi
rm -r "$scratch"
echo "TRAPLINE-HOST: exit status $status"
