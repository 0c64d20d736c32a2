# Run several VMMs, one after the other, each with a guest that says when it has come to user space,
# and say what each took until then. $MEASURES calls `measure NAME COMMAND...` for each. One
# that takes more than $PATIENCE seconds is given up. Runs in an outer machine whose clock counts
# instructions, a thousand to the microsecond; so nothing else may run there. $QEMU, if it is not empty, is an archive with QEMU and all that it needs.
trace=/sys/kernel/tracing
kvm=/sys/kernel/tracing/events/kvm
mount -t tracefs tracefs "$trace"
echo mono >"$trace/trace_clock"
mkfifo /console
exec 3<>/console
if [ -n "$QEMU" ]; then tar -x -f "$QEMU" -C /; fi
# For starts that have a disk.
truncate -s 16M /disk
# Microseconds from the start to what is in the trace.
since_start() {
    awk -v seen="$1" '
        { for (i = 1; i < NF; i++) if ($i ~ /^[0-9]+\.[0-9]+:$/) { split($i, time, /[.:]/); break } }
        /TRAPLINE-START/ { start = time[1] * 1000000 + time[2] }
        $0 ~ seen && start { print time[1] * 1000000 + time[2] - start; exit }
    ' "$trace/trace"
}
# How often what the process does has begun to wait, without its vCPUs.
waits() {
    for task in "/proc/$1/task/"*; do
        if ! grep -qi cpu "$task/comm"; then cat "$task/status"; fi
    done | awk '/^voluntary_ctxt_switches/ { sum += $2 } END { print sum + 0 }'
}
# Resident KiB by what is mapped, and how much of it is no file's. A page counts once, in however many
# places it is mapped (nobody else here maps any of them). Guest memory is any mapping of half of it
# or more.
resident() {
    awk -v ram="$RAM_KIB" -v program="$2" '
        /^[0-9a-f]+-[0-9a-f]+ / {
            what = "others"
            if ($6 == "") what = "anonymous"
            if ($6 == "[heap]") what = "heap"
            if ($6 == "[stack]") what = "anonymous"
            if ($6 ~ /\.so/) what = "libraries"
            if ($6 == program) what = $2 ~ /x/ ? "code" : ($2 ~ /w/ ? "data" : "constants")
        }
        /^Size:/ { own = $2 < ram / 2 }
        /^Pss:/ && own { all[what] += $2 }
        /^Anonymous:/ && own { private[what] += $2 }
        END { for (what in all) print what, all[what], private[what] + 0 }
    ' "/proc/$1/smaps"
}
# A start that does not come to user space is one row less, and says why.
give_up() {
    echo "not in user space after $PATIENCE s" | say failed
    tail -n 12 /log | say log
    kill -KILL "$1"
    wait "$1"
}
measure() {
    name=$1
    shift
    say() { sed "s/^/TRAPLINE-BENCH: $name $1 /"; }
    # To write to these files is to clear what they had before.
    echo 'hist:keys=reason' >"$kvm/kvm_userspace_exit/trigger"
    # Where KVM itself does not count them.
    if [ ! -f /sys/kernel/debug/kvm/pf_fixed ]; then echo 'hist:keys=common_pid' >"$kvm/kvm_guest_fault/trigger"; fi
    # The first entry of a vCPU is seen, until its first exit, and no later one costs much.
    echo '!disable_event:kvm:kvm_entry:1' >>"$kvm/kvm_exit/trigger" 2>/dev/null
    echo 'disable_event:kvm:kvm_entry:1' >>"$kvm/kvm_exit/trigger"
    echo 1 >"$kvm/kvm_entry/enable"
    { sleep "$PATIENCE" && echo TRAPLINE-LATE >/console; } &
    watchdog=$!
    echo >"$trace/trace"
    echo TRAPLINE-START >"$trace/trace_marker"
    "$@" </dev/null >/console 2>&1 &
    pid=$!
    awk '{ print >"/log" } /TRAPLINE-GUEST: first userspace line/ { exit } /^TRAPLINE-LATE/ { exit 1 }' <&3
    reached=$?
    echo TRAPLINE-USERSPACE >"$trace/trace_marker"
    # The VMM stands still meanwhile: KVM forgets a machine's counters when it ends.
    kill -STOP "$pid"
    pkill -P "$watchdog"
    kill "$watchdog"
    if [ "$reached" != 0 ]; then
        give_up "$pid"
        return
    fi
    echo "TRAPLINE-PROGRESS: in user space after $(since_start TRAPLINE-USERSPACE) thousand instructions"
    echo "before $(since_start 'kvm_entry:')" | say us
    echo "userspace $(since_start TRAPLINE-USERSPACE)" | say us
    for counter in /sys/kernel/debug/kvm/*; do
        if [ -f "$counter" ]; then echo "${counter##*/} $(cat "$counter")"; fi
    done | say kvm
    if [ -f "$kvm/kvm_guest_fault/hist" ]; then awk '/Hits:/ { print "pf_fixed", $2 }' "$kvm/kvm_guest_fault/hist" | say kvm; fi
    tr -d '{}' <"$kvm/kvm_userspace_exit/hist" | awk '/reason:.*hitcount:/ { print $2, $NF }' | say returns
    resident "$pid" "$(readlink "/proc/$pid/exe")" | say resident
    kill -CONT "$pid"
    cat <&3 >/log &
    reader=$!
    # The guest sleeps.
    sleep 11
    before=$(waits "$pid")
    sleep 10
    echo "idle $(($(waits "$pid") - before))" | say waits
    kill "$pid"
    wait "$pid"
    # The reader is behind.
    sleep 1
    kill "$reader"
    sed -n '/^exits: total/,$p' /log | say stat
}
eval "$MEASURES"
echo "TRAPLINE-HOST: exit status 0"
