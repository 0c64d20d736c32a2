# Run trapline with the arguments given, once for each line of $MACHINES, recorded; play each recording,
# and print it as base64 for who keeps it. Then, if there is $TUNED, with that and with what the recording
# $TUNING says may be late. A line is a name, the words to type when the guest waits for one, and options,
# separated by bars; DISK0 and DISK1 are raw images, PORT a file, SHARE a folder. Runs in the outer machine and, with
# hardware virtualization, on the host itself.
open_typed
if [ -n "$TUN" ]; then
    insmod "$TUN"
    mkdir -p /dev/net
    [ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200
fi
status=0
deliveries=
echo "$MACHINES" >"$scratch/machines"
while IFS='|' read -r name words options <&3; do
    for n in 0 1; do truncate -s 2M "$scratch/disk$n"; done
    rm -f "$scratch/port" "$scratch/recording"
    mkdir -p "$scratch/share"
    echo "hello" >"$scratch/share/from-host"
    recording="$scratch/recording"
    options=$(echo "$options" | sed "s|DISK\([01]\)|$scratch/disk\1|g; s|PORT|$scratch/port|;
        s|SHARE|$scratch/share|")
    # The options are words as a shell reads them.
    {
        eval "trapline \"\$@\" $options --record \"\$recording\"" <&4 2>&1
        echo $? >"$scratch/status"
    } | answer "$words"
    ended=$(cat "$scratch/status")
    [ "$ended" = 0 ] || status=$ended
    trapline replay "$recording" || { ended=$?; status=$ended; }
    echo "TRAPLINE-HOST: played $name, status $ended"
    echo "TRAPLINE-HOST: recording $name"
    base64 "$recording"
    echo "TRAPLINE-HOST: end of recording"
    if [ "$name" = "$TUNING" ]; then
        deliveries="$scratch/deliveries"
        predicted=$(trapline tune "$recording" --output "$deliveries" | awk '/^exits:/ { print $4 }')
        trapline tune "$recording" || status=$?
    fi
done 3<"$scratch/machines"
# By that recording: what would another run make, with the writes late that may be? And what does it?
if [ -n "$deliveries" ]; then
    # The options are words.
    trapline "$@" $TUNED --deliveries "$deliveries" --record "$scratch/tuned" </dev/null >"$scratch/console" 2>&1 || status=$?
    made=$(trapline trace stat "$scratch/tuned" | awk '/^total/ { print $5 }')
    cat "$scratch/console"
    echo "TRAPLINE-HOST: exits predicted $predicted, made $made"
fi
rm -r "$scratch"
echo "TRAPLINE-HOST: exit status $status"
