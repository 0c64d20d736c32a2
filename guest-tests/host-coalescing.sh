# Run trapline twice with the arguments given, first as it is and then with --no-coalesce, and say
# how many exits each took and whether their consoles are the same, byte by byte. Runs in the outer
# machine and, with hardware virtualization, on the host itself.
scratch=$(mktemp -d)
status=0
for how in coalesce no-coalesce; do
    if [ "$how" = no-coalesce ]; then set -- "$@" --no-coalesce; fi
    trapline "$@" </dev/null >"$scratch/$how" 2>"$scratch/$how.report" || status=$?
    echo "TRAPLINE-HOST: $how: $(grep '^exits: ' "$scratch/$how.report")"
    cat "$scratch/$how.report"
done
cat "$scratch/coalesce"
if cmp "$scratch/coalesce" "$scratch/no-coalesce"; then
    echo "TRAPLINE-HOST: $(wc -c <"$scratch/coalesce") bytes of console both times"
else
    diff "$scratch/coalesce" "$scratch/no-coalesce"
fi
rm -r "$scratch"
echo "TRAPLINE-HOST: exit status $status"
