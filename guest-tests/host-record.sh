# Run trapline with the arguments given, once for each line of $MACHINES, recorded; play each recording,
# and print it as base64 for who keeps it. A line is a name and options. Runs in the outer machine and,
# with hardware virtualization, on the host itself.
recording=$(mktemp)
console=$(mktemp)
status=0
echo "$MACHINES" >/tmp/machines
while read -r name options; do
    # The options are words.
    trapline "$@" $options --record "$recording" </dev/null >"$console" 2>&1 || status=$?
    cat "$console"
    trapline replay "$recording" || status=$?
    echo "TRAPLINE-HOST: played $name, status $status"
    echo "TRAPLINE-HOST: recording $name"
    base64 "$recording"
    echo "TRAPLINE-HOST: end of recording"
done </tmp/machines
rm "$recording" "$console" /tmp/machines
echo "TRAPLINE-HOST: exit status $status"
