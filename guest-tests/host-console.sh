# Outer machine: run trapline with a virtio console, and answer what the guest asks. A second guest has
# a port besides, into a file.
stty cols 132 rows 43
status=0
boots() {
    what=$1
    shift
    echo "TRAPLINE-HOST: $what"
    mkfifo /keys
    # Again and again, as Linux drops what is typed before it has opened hvc0.
    { while echo world && sleep 1; do :; done >/keys & } 2>/dev/null
    trapline "$@" --console virtio </keys || status=$?
    rm /keys
}
boots "a console" "$@"
boots "a console and a port" "$@" --virtio-port name=log,file=/log
echo "TRAPLINE-HOST: the port says: $(cat /log)"
echo "TRAPLINE-HOST: exit status $status"
