# Outer machine: run trapline once for each line of $CASES, which has a name and the keys of its network
# card, and be at the other end of that. Its name server is somebody who sends everything back.
insmod "$TUN"
chmod +x "$NETLOAD"
ip link set lo up
mkdir -p /etc
echo "nameserver 127.0.0.9" >/etc/resolv.conf
"$NETLOAD" serve "[::]:7000" &
"$NETLOAD" serve 127.0.0.9:53 &
status=0
echo "$CASES" >/cases
while IFS='|' read -r name keys <&3; do
    echo "TRAPLINE-HOST: case $name"
    trapline "$@" -n "pcap=/card.pcap,$keys" </dev/null
    ended=$?
    [ "$ended" = 0 ] || status=$ended
    echo "TRAPLINE-HOST: case status $ended"
    echo "TRAPLINE-HOST: copied" $(head -c 4 /card.pcap | od -A n -t x1)
    echo "TRAPLINE-HOST: interfaces" $(ls /sys/class/net)
    rm -f /card.pcap
done 3</cases
echo "TRAPLINE-HOST: exit status $status"
