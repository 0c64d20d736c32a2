# Run trapline twice with the arguments given, first as it is and then with --no-coalesce, or with the
# options in $WITHOUT if there are any, and say how many exits each took and whether their consoles are what they have to be, byte by byte. From
# the first word of the guest's init on, both are the same, but for what the guest then says its
# kernel's log is, and the kernel's last words: they have times in them, which are of its own boot.
# Up to that first word, a console has to be the beginning of that log, line by line. (Only lines
# with a time are logged; and the kernel says twice that it changes consoles, once on each.) With
# $TYPING, somebody types a character meanwhile that nothing else prints, a second after the start and
# from then on: its echo comes whenever it does, so it is no part of what is compared. Runs in the
# outer machine and, with hardware virtualization, on the host itself.
first='TRAPLINE-GUEST: uname'
log='TRAPLINE-GUEST: kernel log'
end='TRAPLINE-GUEST: end of log'
last='TRAPLINE-GUEST: done'
logs() { grep '^\[' | grep -v 'console \['; }
printed() { sed "/$first/,\$ d" "$1" | logs; }
logged() { sed "1,/$log/ d; /$end/,\$ d" "$1" | logs; }
said() { sed -n "/$first/,/$last/ p" "$1" | sed "/$log/,/$end/ d"; }
same() {
    # Nothing twice is no comparison.
    test -s "$2" && cmp "$2" "$3" && return
    echo "TRAPLINE-HOST: $1"
    diff "$2" "$3" | head -n 40 | cut -c -160
    different=1
}
key='~'
scratch=$(mktemp -d)
mkfifo "$scratch/keys"
# What is typed, until nobody is there any more.
type_keys() {
    sleep 1
    while printf '%s' "$key"; do sleep 0.05; done 2>/dev/null
}
status=0
different=0
for how in coalesce no-coalesce; do
    # The options are words.
    if [ "$how" = no-coalesce ]; then set -- "$@" ${WITHOUT:---no-coalesce}; fi
    console=$scratch/$how
    keys=/dev/null
    if [ -n "$TYPING" ]; then
        keys=$scratch/keys
        type_keys >"$keys" &
    fi
    trapline "$@" <"$keys" >"$console.raw" 2>"$console.report" || status=$?
    tr -d "$key" <"$console.raw" >"$console"
    echo "TRAPLINE-HOST: $how: $(grep '^exits: ' "$console.report")"
    cat "$console.report"
done
cat "$scratch/coalesce"
for how in coalesce no-coalesce; do
    console=$scratch/$how
    printed "$console" >"$console.printed"
    logged "$console" | head -n "$(wc -l <"$console.printed")" >"$console.logged"
    said "$console" >"$console.said"
    echo "TRAPLINE-HOST: $how: $(wc -l <"$console.printed") lines of kernel log"
    same "$how: the kernel printed this and logged that" "$console.printed" "$console.logged"
done
same "two guests said different things" "$scratch/coalesce.said" "$scratch/no-coalesce.said"
if [ "$different" = 0 ]; then
    echo "TRAPLINE-HOST: $(wc -c <"$scratch/coalesce.said") bytes of console both times"
fi
rm -r "$scratch"
echo "TRAPLINE-HOST: exit status $status"
