# Run trapline with the arguments given and say how long it took, in microseconds of the kernel's
# clock, to the guest's first instruction and to its first userspace line. Runs in an outer machine
# whose clock counts instructions, a thousand to the microsecond; so nothing else may run there.
trace=/sys/kernel/tracing
mount -t tracefs tracefs "$trace"
echo mono >"$trace/trace_clock"
# The first entry of a vCPU is seen, until its first exit, and no later one costs much.
echo 'disable_event:kvm:kvm_entry:1' >"$trace/events/kvm/kvm_exit/trigger"
echo 1 >"$trace/events/kvm/kvm_entry/enable"
since_start() {
    awk -v seen="$1" '
        { for (i = 1; i < NF; i++) if ($i ~ /^[0-9]+\.[0-9]+:$/) { split($i, time, /[.:]/); break } }
        /TRAPLINE-START/ { start = time[1] * 1000000 + time[2] }
        $0 ~ seen && start { print time[1] * 1000000 + time[2] - start; exit }
    ' "$trace/trace"
}
mkfifo /console
exec 3<>/console
echo TRAPLINE-START >"$trace/trace_marker"
trapline "$@" </dev/null >/console 2>&1 &
pid=$!
while IFS= read -r line <&3; do
    case "$line" in
    *"TRAPLINE-GUEST: first userspace line"*)
        echo TRAPLINE-USERSPACE >"$trace/trace_marker"
        break
        ;;
    esac
    echo "$line"
done
cat <&3 &
status=0
wait "$pid" || status=$?
echo "TRAPLINE-KVM: before_us $(since_start 'kvm_entry:')"
echo "TRAPLINE-KVM: userspace_us $(since_start TRAPLINE-USERSPACE)"
echo "TRAPLINE-HOST: exit status $status"
