#!/bin/busybox sh
# Guest init: have the kernel's own driver exchange bytes and datagrams with the host, as many as the
# kernel's arguments say, also after the driver was taken off the card in the middle of it and put
# back, and after loading the modules again.
. /prepare.sh
# No message of the kernel's gets into the middle of ours.
dmesg -n 1
argument() { sed "s/.*$1=\([0-9]*\).*/\1/" /proc/cmdline; }
mebibytes=$(argument mebibytes) echoes=$(argument echoes) user=$(argument user)
cat >/bin/configure <<'EOF'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip address add "$ip/$mask" dev "$interface"
ip route add default via "$router"
echo "TRAPLINE-GUEST: DHCP gave $ip/$mask, router $router, name server $dns"
EOF
chmod +x /bin/configure
up() {
    ip link set eth0 up
    if [ "$user" = 1 ]; then
        udhcpc -i eth0 -n -q -s /bin/configure 2>/log || cat /log
    else
        ip address add 192.168.33.15/24 dev eth0
    fi
}
# What a network without rights has besides.
user() {
    # Until the kernel has found that nobody has its address.
    tries=30
    until ip -6 address show dev eth0 | grep "inet6 fdc0:a821" | grep -qv tentative; do
        sleep 1
        tries=$((tries - 1))
        [ $tries -gt 0 ] || break
    done
    for gateway in 192.168.33.1 fdc0:a821::1; do
        if ping -c 2 -W 5 "$gateway" >/dev/null; then echo "TRAPLINE-GUEST: echo of $gateway"; fi
    done
    if netload drive "[fdc0:a821::1]:7000" 1 20; then echo "TRAPLINE-GUEST: good by IPv6"; fi
    if netload drive 192.168.33.1:53 1 20; then echo "TRAPLINE-GUEST: good with the name server"; fi
    netload serve 192.168.33.15:7001 &
    until netstat -ln | grep -q "192.168.33.15:7001 .*LISTEN"; do sleep 1; done
    if netload back 192.168.33.1:7000 8700; then echo "TRAPLINE-GUEST: good by a forwarded port"; fi
    kill $!
    # Nobody listens there.
    netload drive 192.168.33.1:1 1 1
}
exchange() {
    if netload drive 192.168.33.1:7000 "$1" "$2"; then echo "TRAPLINE-GUEST: good $3"; fi
}
load
device=$(readlink -f /sys/class/net/eth0/device)
card=${device##*/}
# The bits of features, of which the driver has taken these, VIRTIO_F_VERSION_1 and VIRTIO_NET_F_MQ.
feature() { cut -c "$(($1 + 1))" "$device/features"; }
echo "TRAPLINE-GUEST: card $(cat /sys/class/net/eth0/address), version_1 $(feature 32), mq $(feature 22)"
up
exchange "$mebibytes" "$echoes" "at first"
if [ "$user" = 1 ]; then user; fi
# Everything of the card is switched once.
ip link set eth0 promisc on
ip link set eth0 promisc off
ip link set eth0 down
ip link set eth0 address 02:00:00:00:00:99
up
exchange 1 20 "with another address"
netload drive 192.168.33.1:7000 64 0 >/dev/null &
sleep 1
echo "$card" >/sys/bus/virtio/drivers/virtio_net/unbind
kill $! 2>/dev/null
wait
echo "$card" >/sys/bus/virtio/drivers/virtio_net/bind
up
exchange 1 20 "rebound"
unload
load
up
exchange 1 20 "loaded again"
dmesg | grep -E "WARNING|BUG:|virtio.*(fail|error|unable)|irq.*nobody|hung"
echo "TRAPLINE-GUEST: done"
poweroff -f
