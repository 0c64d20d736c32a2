# Outer machine: what a newcomer does. trapline without a kernel, disk or initial RAM disk; a command
# and its streams; a folder that it changes, on a terminal; a kernel without 9P.
release=$(uname -r)
mkdir -p /etc /root /folder
echo 'root:x:0:0:root:/root:/bin/sh' >/etc/passwd
echo "of the host" >/folder/file
echo "nameserver 10.9.8.7" >/etc/resolv.conf
for name in "$release" "$CLOUD"; do depmod "$name"; done
# Distributions pack modules.
gzip "/lib/modules/$release/kernel/9p.ko"
sed -i 's|9p\.ko|9p.ko.gz|' "/lib/modules/$release/modules.dep"
open_typed
say() { echo "TRAPLINE-HOST: $*"; }

say "a shell"
trapline run -m 256 -c 1 <&4 2>&1 | while IFS= read -r line; do
    echo "$line"
    case "$line" in
    *"When the shell ends"*)
        type_word "ip addr show eth0; cat /etc/resolv.conf; ping -c 1 192.168.33.1; cat /folder/file"
        type_word "touch /folder/new; touch /tmp/new && echo \$((6 * 7)) in \$(hostname); exit 3"
        ;;
    esac
done
say "the shell has ended"

say "a command"
status=0
head -c 300000 /bin/busybox >/sent
trapline run -m 256 -c 1 -- sh -c 'uname -r; tee /dev/stderr; exit 7' </sent >/out 2>/err || status=$?
say "status $status, release $(head -n 1 /out)"
tail -n +2 /out >/data
if cmp /data /sent; then say "output as sent"; fi
if cmp /err /sent; then say "errors as sent"; else cat /err; fi

say "a folder"
cd /folder
stty cols 101 rows 31
before=$(stty -g)
status=0
trapline run -m 256 -c 1 --rw --pwd --script /script.sh -- one two || status=$?
if [ "$before" = "$(stty -g)" ]; then say "terminal as before"; fi
say "status $status, in the file: $(cat /folder/made)"
cd /

say "a kernel without 9P"
status=0
trapline run -m 256 -c 1 -k "/boot/vmlinuz-$CLOUD" -- uname -r </dev/null >/out || status=$?
say "status $status, release $(cat /out)"
status=0
trapline run -k "/boot/vmlinuz-$CLOUD" --rw || status=$?
say "refused with $status"
say "left behind:$(ls /tmp/trapline-*) $(pidof trapline)"
say "exit status 0"
