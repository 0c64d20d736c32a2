# Outer machine: let guests write records to a raw disk and to a qcow2 disk in turn, kill the VMM (by
# SIGKILL) KILLS times at moments that SEED chooses, and have each next guest check what was durable.
# RAW and QCOW2 are empty images.
chosen=$SEED raw=0 qcow2=0 kills=0 status=0
console=/tmp/console
# Into the variable $1, a number below $2.
choose() {
    chosen=$(((chosen * 1103515245 + 12345) % 2147483648))
    eval "$1=$((chosen / 65536 % $2))"
}
# Starts a guest with the disk $1, of which the variable of that name says how many records are
# durable; $2 is for its kernel's command line.
start() {
    image=$RAW
    if [ "$1" = qcow2 ]; then image=$QCOW2; fi
    eval "words=\"quiet ACKED=\$$1 $2\""
    disk="$image,format=$1"
    shift 2
    # Before it is looked into: what starts in the background empties it at some time.
    : >"$console"
    trapline "$@" -d "$disk" -p "$words" </dev/null >"$console" 2>&1 &
    pid=$!
}
# How many records it has acknowledged, in whole lines.
durable() { grep -c '^RECORDS: durable [0-9]*\.' "$console"; }
while [ "$kills" -lt "$KILLS" ]; do
    name=raw
    if [ $((kills % 2)) = 1 ]; then name=qcow2; fi
    start "$name" "" "$@"
    choose more 60
    until [ "$(durable)" -gt "$more" ]; do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.05
    done
    choose hundredths 10
    sleep "0.0$hundredths"
    if ! kill -9 "$pid"; then
        tail -n 5 "$console"
        status=1
        break
    fi
    wait "$pid"
    grep '^RECORDS: all' "$console" || status=1
    last=$(grep '^RECORDS: durable [0-9]*\.' "$console" | tail -n 1 | tr -dc 0-9)
    eval "$name=$last"
    kills=$((kills + 1))
    echo "TRAPLINE-HOST: killed $kills, $name has $last durable records"
done
for name in raw qcow2; do
    start "$name" LAST "$@"
    wait "$pid" || status=$?
    if grep '^RECORDS: all' "$console"; then echo "TRAPLINE-HOST: $name is whole"; fi
done
echo "TRAPLINE-HOST: exit status $status"
