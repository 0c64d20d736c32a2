# Outer machine whose clock counts instructions: run trapline, and then QEMU, with one guest that
# loads a disk in a file of this machine's memory (vda) and a disk that does nothing (vdb), and say
# how much each load had KVM count. LOADS has the loads, MEMORY the guests' MiB, KERNEL and INITRD
# what QEMU's guest boots; QEMU, if there is one, is an archive with it and all it needs.
insmod "$CONFIGFS"
# It completes requests in a softirq. By a timer each of them would be one more occasion for the guest to
# hang, as below.
insmod "$NULL_BLK" queue_mode=2 irqmode=1 gb=1 nr_devices=1
mount -t tracefs tracefs /sys/kernel/tracing
user=/sys/kernel/tracing/events/kvm/kvm_userspace_exit
echo 'hist:keys=reason' >"$user/trigger"
mount -t tmpfs -o size=256M tmpfs /tmp
dd if=/dev/zero of=/tmp/disk bs=1M count=64 2>/dev/null
# All exits, halts among them, exits for interrupts, and returns to user space.
counters() {
    kvm=/sys/kernel/debug/kvm
    user_exits=$(awk '/Hits:/ { print $2 }' "$user/hist")
    echo "$1 $(cat $kvm/exits) $(cat $kvm/halt_exits) $(cat $kvm/irq_exits) ${user_exits:-0}"
}
mkfifo /console
# Says how far we are, of a guest's last line: its load, how many requests, and how long they took.
progress() {
    # A terminal's lines end with a carriage return.
    ns=${5%%[!0-9]*} on=${disk%%[!a-z]*}
    if [ "$4" != 0 ]; then
        echo "TRAPLINE-PROGRESS: $name: $3 on $on: $((ns / $4)) instructions a request"
    fi
}
# What the threads of process $1 have had of the processor, in hundredths of a second.
ticks() {
    sed 's/.*) //' "/proc/$1/task/"*/stat | awk '{ sum += $12 + $13 } END { print sum + 0 }'
}
# Runs the VMM $name and says what its guest says; how it ended is in the variable "status". A guest
# that says nothing for ten seconds, each of a thousand million instructions, when it boots, or for three
# at a load, or that its kernel panics, has hung, and is killed.
attempt() {
    silence=10
    exec 3<>/console
    (
        "$@" </dev/null >/console 2>&1 &
        echo $! >/tmp/pid
        status=0
        wait $! || status=$?
        echo "TRAPLINE-BENCH: $name status $status" >/console
    ) &
    status=hung doing=
    while IFS= read -t "$silence" -r line <&3; do
        case "$line" in
        "DISKLOAD: begin"*)
            silence=3
            counters "TRAPLINE-BENCH: $name begin"
            ;;
        "DISKLOAD: end"*)
            counters "TRAPLINE-BENCH: $name end"
            progress $line
            ;;
        "TRAPLINE-GUEST: "*) disk=${line##* } ;;
        "TRAPLINE-BENCH: $name status "*) status=${line##* } && break ;;
        *"Kernel panic"*) doing=${line##*Kernel panic} && echo "$name: $line" && break ;;
        esac
        echo "$name: $line"
    done
    if [ "$status" = hung ]; then
        # A guest that is hung as described below does not stop; one that misses an interrupt waits.
        if [ -z "$doing" ]; then
            before=$(ticks "$(cat /tmp/pid)")
            sleep 1
            doing="it was busy for $(($(ticks "$(cat /tmp/pid)") - before)) % of a second"
        else
            doing="it panicked$doing"
        fi
        kill -9 "$(cat /tmp/pid)"
        while IFS= read -r line <&3; do
            case "$line" in *"TRAPLINE-BENCH: $name status "*) break ;; esac
        done
    fi
}
# QEMU 7.2 keeps the number of an interrupt that it has delivered to a guest of its emulated AMD-V, and
# delivers it once more if something else has it leave the guest's code before the guest's next exit,
# interrupts disabled or not. In the middle of the timer's handler that is the guest's end.
measure() {
    name=$1
    shift
    for turn in 1 2 3 4 5; do
        attempt "$@"
        if [ "$status" != hung ]; then return; fi
        echo "TRAPLINE-PROGRESS: $name: the guest has hung in turn $turn: $doing"
    done
    status=1
}
measure trapline trapline "$@" -p "quiet LOADS=$LOADS" -d /tmp/disk -d /dev/nullb0,direct
final=$status
if [ -n "$QEMU" ]; then
    tar -x -f "$QEMU" -C /
    measure qemu /usr/bin/qemu-system-x86_64 -accel kvm -cpu host -M pc -m "$MEMORY" -nodefaults \
        -no-user-config -display none -serial stdio -kernel "$KERNEL" -initrd "$INITRD" \
        -append "console=ttyS0 quiet LOADS=$LOADS" \
        -drive if=none,id=d0,file=/tmp/disk,format=raw,cache=writeback \
        -device virtio-blk-pci,drive=d0 \
        -drive if=none,id=d1,file=/dev/nullb0,format=raw,cache=none,aio=io_uring \
        -device virtio-blk-pci,drive=d1
    if [ "$status" != 0 ]; then final=$status; fi
fi
echo "TRAPLINE-HOST: exit status $final"
