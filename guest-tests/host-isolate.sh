# Outer machine: run trapline with devices in processes of their own, and kill that of the clock (by
# SIGKILL) twice while the guest's kernel boots.
mkfifo /console
trapline "$@" </dev/null >/console 2>&1 &
pid=$!
exec 3</console
# The processes of devices by name.
named() {
    for process in /proc/[0-9]*; do
        if [ "$(cat "$process/comm" 2>/dev/null)" = "$1" ]; then echo "${process#/proc/}"; fi
    done
}
killed=0
kill_clock() {
    clock=$(named rtc)
    if [ -n "$clock" ] && kill -9 "$clock"; then
        killed=$((killed + 1))
        echo "TRAPLINE-HOST: killed the clock's process, $killed"
    fi
}
while IFS= read -r line <&3; do
    echo "$line"
    case "$line" in
    *"Linux version"*)
        for name in serial0 rtc i8042; do
            echo "TRAPLINE-HOST: $name has $(named "$name" | wc -l) process"
        done
        kill_clock
        ;;
    *"Serial: 8250/16550 driver"*) kill_clock ;;
    esac
done
status=0
wait "$pid" || status=$?
for name in serial0 rtc i8042; do
    echo "TRAPLINE-HOST: afterwards $name has $(named "$name" | wc -l)"
done
echo "TRAPLINE-HOST: exit status $status"
