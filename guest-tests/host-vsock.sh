# Outer machine: run trapline once for each line of $CASES, a transport, and be at the other end of its
# guest's connections. Who listens there is there from the start.
chmod +x "$SOCKLOAD"
mkdir /sockets
"$SOCKLOAD" echo /sockets/v_7000 &
status=0
echo "$CASES" >/cases
while read -r transport <&3; do
    echo "TRAPLINE-HOST: case $transport"
    {
        trapline "$@" --vsock 3,socket=/sockets/v --virtio-transport "$transport" </dev/null 2>&1
        echo $? >/status
    } | while IFS= read -r line; do
        echo "$line"
        case "$line" in
        *"sockload: listening"*)
            "$SOCKLOAD" call /sockets/v 23 1 1
            "$SOCKLOAD" call /sockets/v 22 1 5 && echo "TRAPLINE-HOST: good from the host"
            ;;
        esac
    done
    ended=$(cat /status)
    [ "$ended" = 0 ] || status=$ended
    echo "TRAPLINE-HOST: case status $ended"
    echo "TRAPLINE-HOST: sockets" $(ls /sockets)
done 3</cases
echo "TRAPLINE-HOST: exit status $status"
