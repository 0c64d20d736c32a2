# Outer machine: run trapline with folders behind several kinds of registers, one of which is taken away
# when the guest says so.
mkdir /share /full /ro /gone
mount -t tmpfs tmpfs /share
mount -t tmpfs -o size=1m tmpfs /full
echo "hello" >/share/from-host
echo "as it was" >/ro/file
echo "still here" >/gone/file
{
    trapline "$@" --9p /share,share --9p /full,full --9p /ro,ro,ro --9p /gone,gone \
        --virtio-transport 9p1=mmio,9p2=pci-legacy,9p3=mmio-legacy 2>&1
    echo $? >/status
} | while IFS= read -r line; do
    echo "$line"
    case "$line" in
    *"take it away"*) rm -r /gone ;;
    esac
done
echo "TRAPLINE-HOST: data $(md5sum </share/data)"
echo "TRAPLINE-HOST: names $(ls /share | wc -l), the other folder: $(cat /ro/file)"
echo "TRAPLINE-HOST: exit status $(cat /status)"
