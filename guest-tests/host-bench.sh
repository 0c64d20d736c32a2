# Run trapline with the arguments given, count KVM's exits when the guest's first userspace line
# comes out, and sample the memory trapline keeps beside guest RAM. Runs in the outer machine and,
# with hardware virtualization, on the host itself.
# The VMM stands still meanwhile: KVM forgets a machine's counters when it ends.
counters() {
    kill -STOP "$1"
    for counter in /sys/kernel/debug/kvm/*; do
        if [ -f "$counter" ]; then echo "TRAPLINE-KVM: ${counter##*/} $(cat "$counter")"; fi
    done
    kill -CONT "$1"
}
# Guest RAM, $RAM_KIB in one mapping or in several, is every mapping of half of it or more; the
# rest is the VMM's own.
own_kib() {
    awk -v ram="$RAM_KIB" '/^Size:/ { size = $2 } /^Rss:/ && size < ram / 2 { sum += $2 } END { print sum + 0 }' \
        "/proc/$1/smaps" 2>/dev/null
}
# Until trapline is gone, or a zombie whose memory is gone.
sample() {
    peak=0
    while now=$(own_kib "$1") && [ "${now:-0}" -gt 0 ]; do
        if [ "$now" -gt "$peak" ]; then
            peak=$now
            echo "$peak" >"$2"
        fi
        sleep 0.05
    done
}
scratch=$(mktemp -d)
mkfifo "$scratch/console"
trapline "$@" </dev/null >"$scratch/console" 2>&1 &
pid=$!
exec 3<"$scratch/console"
sample "$pid" "$scratch/peak" &
sampler=$!
while IFS= read -r line <&3; do
    echo "$line"
    case "$line" in
    *"TRAPLINE-GUEST: first userspace line"*) counters "$pid" ;;
    esac
done
status=0
wait "$pid" || status=$?
wait "$sampler"
echo "TRAPLINE-KVM: own_kib $(cat "$scratch/peak")"
rm -r "$scratch"
echo "TRAPLINE-HOST: exit status $status"
