# Run trapline with the arguments given, once for each line of $MACHINES, recorded; play each recording,
# and print it as base64 for who keeps it. Then with $TUNED and what the last recording says may be late. A line is a name and options. Runs in the outer machine and,
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
# By the last recording: what would another run make, with the writes late that may be? And what does it?
deliveries=$(mktemp)
predicted=$(trapline tune "$recording" --output "$deliveries" | awk '/^exits:/ { print $4 }')
trapline "$@" $TUNED --deliveries "$deliveries" --record "$recording" </dev/null >"$console" 2>&1 || status=$?
made=$(trapline trace stat "$recording" | awk '/^total/ { print $5 }')
cat "$console"
echo "TRAPLINE-HOST: exits predicted $predicted, made $made"
rm "$recording" "$console" "$deliveries" /tmp/machines
echo "TRAPLINE-HOST: exit status $status"
