# Run trapline twice with the arguments given, first as it is and then with --no-coalesce, and say
# how many exits each took and whether their consoles are the same: byte by byte from the first word
# of the guest's init on. What the kernel tells before has times and frequencies in it that it
# measures anew in each boot, remarks on what took long, and lines of threads that run side by side:
# there, a number need only be a number, such remarks are left out, and lines may have changed
# places. Runs in the outer machine and, with hardware virtualization, on the host itself.
remarks='took [0-9]+ usecs|took [0-9]+ ns|[Uu]nstable|local clock|trace_clock=|on the kernel command line|watchdog'
comparable() {
    sed '/TRAPLINE-GUEST: uname/,$ d' "$1" | grep -vE "$remarks" |
        sed -E 's/\[ +/[/; s/0x[0-9a-f]+|[0-9a-f]{16}|[0-9]+/N/g' | sort
    sed -n '/TRAPLINE-GUEST: uname/,$ p' "$1"
}
scratch=$(mktemp -d)
status=0
for how in coalesce no-coalesce; do
    if [ "$how" = no-coalesce ]; then set -- "$@" --no-coalesce; fi
    trapline "$@" </dev/null >"$scratch/$how" 2>"$scratch/$how.report" || status=$?
    echo "TRAPLINE-HOST: $how: $(grep '^exits: ' "$scratch/$how.report")"
    cat "$scratch/$how.report"
done
cat "$scratch/coalesce"
comparable "$scratch/coalesce" >"$scratch/first"
comparable "$scratch/no-coalesce" >"$scratch/second"
if cmp "$scratch/first" "$scratch/second"; then
    echo "TRAPLINE-HOST: $(wc -c <"$scratch/first") bytes of console both times"
else
    diff "$scratch/first" "$scratch/second"
fi
rm -r "$scratch"
echo "TRAPLINE-HOST: exit status $status"
