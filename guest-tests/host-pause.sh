# Run trapline with the arguments given, and pause its guest $PAUSES times at random moments, by its
# keys, while the guest counts, listens, sleeps and watches its clocks: a word is typed before each
# pause, and one in it. Says what the time is here before and after the guest looks at its own. Runs
# in the outer machine and, with hardware virtualization, on the host itself.
open_typed
console=$scratch/console
now() {
    read -r seconds idle </proc/uptime
    echo "TRAPLINE-HOST: $1 at $seconds s"
}
word() { echo "word $1 $(($1 * 7919 % 10007))" >&4; }
# Waits until the guest has said $2 lines with $1 in them. One that has ended says nothing more.
said() {
    until [ "$(grep -c "$1" "$console")" -ge "$2" ]; do
        kill -0 "$pid" 2>/dev/null || return
        sleep 0.02
    done
}
# A pause begins up to 30 ms after the guest has counted on since the last one, and is 20 to 60 ms long;
# besides, it takes some time to start a program.
storm() {
    awk -v seed="$SEED" -v count="$PAUSES" 'BEGIN {
        srand(seed)
        for (i = 1; i <= count; i++) printf "%d %.4f %.4f\n", i, 0.03 * rand(), 0.02 + 0.04 * rand()
    }' >"$scratch/moments"
    while read -r number apart long; do
        said '^count' "$(($(grep -c '^count' "$console") + 1))"
        sleep "$apart"
        word $((2 * number - 1))
        printf '\001p' >&4
        sleep "$long"
        word $((2 * number))
        printf '\001p' >&4
    done <"$scratch/moments"
}
trapline "$@" <&4 >"$console" 2>"$scratch/log" &
pid=$!
said "METRONOME: ready" 1
now "go"
echo go >&4
said "METRONOME: begins" 1
now "first pause"
storm
now "all pauses over"
echo stop >&4
said "METRONOME: over" 1
now "over"
status=0
wait "$pid" || status=$?
cat "$console" "$scratch/log"
rm -r "$scratch"
echo "TRAPLINE-HOST: exit status $status"
