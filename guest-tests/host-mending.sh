# Outer machine: have guests fill a raw and a qcow2 disk in a file system that is too small for it, look
# whether trapline pauses them, make room, and have them go on. The raw image becomes larger in another
# pause.
tar -x -f "$TOOLS" -C /
PATH=$PATH:/usr/bin:/usr/sbin:/sbin
mkdir /images
open_typed
console=$scratch/console status=0
# Pauses the guest, or lets it go on.
key() { printf '\001p' >&4; }
said() { grep -c "$1" "$console"; }
# Waits until $1 was said. A guest that has ended says nothing more.
wait_for() {
    until [ "$(said "$1")" -gt 0 ]; do
        kill -0 "$pid" 2>/dev/null || return
        sleep 0.05
    done
}
# Fills a disk of the format $1, whose guest has the words $2 on its kernel's command line.
fill() {
    format=$1 words=$2
    shift 2
    echo "TRAPLINE-HOST: a disk of $format"
    mount -t tmpfs -o size=3M tmpfs /images
    qemu-img create -q -f "$format" /images/disk 16M
    # Before it is looked into: what starts in the background empties it at some time.
    : >"$console"
    trapline "$@" -d "/images/disk,format=$format,werror=stop" -p "quiet $words" \
        <&4 >"$console" 2>&1 &
    pid=$!
    wait_for "the machine is paused"
    # What it has said by now may be on its way yet.
    sleep 1
    before=$(said alive)
    sleep 1
    if [ "$(said alive)" = "$before" ]; then echo "TRAPLINE-HOST: the guest stands still"; fi
    echo "TRAPLINE-HOST: $(said "the machine is paused") message"
    # Nothing is mended, so it stops again.
    key
    until [ "$(said "the machine is paused")" -ge 2 ]; do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.05
    done
    mount -o remount,size=64M /images
    key
    if [ "$format" = raw ]; then
        wait_for "what was written is there"
        key
        wait_for "The guest is paused"
        truncate -s 24M /images/disk
        key
    fi
    wait "$pid" || status=$?
    cat "$console"
    if qemu-img check -f "$format" /images/disk || [ "$format" = raw ]; then
        echo "TRAPLINE-HOST: the image of $format is sound"
    fi
    umount /images
}
fill raw "LARGER=49152" "$@"
fill qcow2 "" "$@"
echo "TRAPLINE-HOST: exit status $status"
