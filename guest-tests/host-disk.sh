# Outer machine: run trapline with a raw disk and with a qcow2 disk, each twice: the second guest
# checks what the first has left. The raw disk is checked by this machine as well.
insmod "$LOOP"
status=0
boots() {
    name=$1 disk=$2
    shift 2
    for what in filling checking; do
        echo "TRAPLINE-HOST: $name $what"
        trapline "$@" -d "$disk" -p "$what quiet" || status=$?
    done
}
truncate -s 32M /raw.img
boots raw /raw.img,serial=trapline-raw "$@"
sum=$(sha256sum </raw.img)
echo "TRAPLINE-HOST: disk $sum"
mkdir /mnt
if mount -t ext4 -o loop,ro /raw.img /mnt && (cd /mnt/files && sha256sum -c -s SUMS); then
    echo "TRAPLINE-HOST: what was written is there"
fi
umount /mnt
chmod +x "$E2FSCK"
if "$E2FSCK" -f -n /raw.img; then echo "TRAPLINE-HOST: the file system is sound"; fi
boots qcow2 "$QCOW2,format=qcow2,serial=trapline-qcow2,queues=2" "$@"
echo "TRAPLINE-HOST: exit status $status"
