# Outer machine: give functions to vfio-pci and run trapline once for each line of $CASES, which has a
# name, the words to type when the guest waits for one, and options, separated by bars. Addresses of
# functions are written as VENDOR:DEVICE. Afterwards give them back to the host.
for module in vfio vfio_iommu_type1 vfio_virqfd vfio-pci-core vfio-pci; do
    insmod "/modules/$module.ko"
done
# The addresses of the functions with this vendor and device.
find_function() {
    for function in /sys/bus/pci/devices/*; do
        if [ "$(cat "$function/vendor") $(cat "$function/device")" = "0x${1%:*} 0x${1#*:}" ]; then
            echo "${function##*/}"
        fi
    done
}
scratch=$(mktemp -d)
mkfifo "$scratch/typed"
# Nobody need be at the other end for either to be opened.
exec 4<>"$scratch/typed"
answer() {
    words="$1 "
    while IFS= read -r line; do
        echo "$line"
        case "$line" in
        *"TRAPLINE-GUEST: waiting for a word"*)
            echo "${words%% *}" >&4
            words=${words#* }
            ;;
        *"TRAPLINE-GUEST: suspending"*)
            # One that comes too early keeps the guest awake: then it tries again, and so do we.
            for pause in 5 5 10 20 40 80; do sleep "$pause"; echo; done >&4 2>&4 &
            keys=$!
            ;;
        *"TRAPLINE-GUEST: resumed"*) kill "$keys" ;;
        esac
    done
}
functions=
for id in $FUNCTIONS; do
    found=$(find_function "$id")
    functions="$functions $found"
    eval "f_${id%:*}_${id#*:}=\"$found\""
done
# Before they are given away.
for function in $functions; do
    trapline "$@" --vfio-pci "$function" 2>&1 | sed 's/^/TRAPLINE-HOST: refused: /'
done
trapline setup vfio $functions
echo "$CASES" >"$scratch/cases"
while IFS='|' read -r name words options <&3; do
    echo "TRAPLINE-HOST: case $name"
    for id in $FUNCTIONS; do
        eval "found=\$f_${id%:*}_${id#*:}"
        options=$(echo "$options" | sed "s/$id/$found/g")
    done
    { eval "trapline \"\$@\" $options" <&4 2>&1; echo "TRAPLINE-HOST: case status $?"; } | answer "$words"
done 3<"$scratch/cases"
trapline setup vfio --release $functions
dmesg | grep -E "AMD-Vi|IO_PAGE_FAULT|vfio|WARN|BUG" | sed 's/^/TRAPLINE-HOST: kernel: /'
rm -r "$scratch"
echo "TRAPLINE-HOST: exit status 0"
