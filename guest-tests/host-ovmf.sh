# Run trapline twice with the arguments given, $CODE, which is UEFI firmware, and a copy of $VARS,
# which are its variables: the second machine has what the first one left. Runs in the outer machine
# and, with hardware virtualization, on the host itself.
variables=$(mktemp)
cp "$VARS" "$variables"
status=0
for life in first second; do
    echo "TRAPLINE-HOST: $life life"
    trapline "$@" --firmware "$CODE" --flash "$variables" </dev/null || status=$?
    echo
done
if cmp -s "$VARS" "$variables"; then echo "TRAPLINE-HOST: the variables are as they were"; fi
rm "$variables"
echo "TRAPLINE-HOST: exit status $status"
