# Outer machine: give functions to vfio-pci and run trapline once for each line of $CASES, which has a
# name, the words to type when the guest waits for one, and options, separated by bars. Addresses of
# functions are written as VENDOR:DEVICE. Words that are not for the guest: kill ends trapline at once,
# take takes the first function from vfio-pci. Lines of a trace are counted by registers. Afterwards the
# functions are given back to the host.
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
open_typed
type_word() {
    case "$1" in
    kill) kill -9 $(pidof trapline) ;;
    take)
        take
        echo "" >&4
        ;;
    *) echo "$1" >&4 ;;
    esac
}
# The host takes the first function of a case, and gives it to vfio-pci again.
take() {
    trapline setup vfio --release "$first"
    trapline setup vfio "$first"
}
# Whether a function is a bus master, as the host has it.
master() {
    command=$(od -A n -t u1 -j 4 -N 1 "/sys/bus/pci/devices/$1/config")
    echo "TRAPLINE-HOST: $1 is bus master: $((command / 4 % 2))"
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
# One that shares its group with a card, which the host drives.
shared=$(find_function "$SHARED")
trapline setup vfio "$shared"
insmod /modules/mii.ko
insmod /modules/8139cp.ko
trapline "$@" --vfio-pci "$shared" 2>&1 | sed 's/^/TRAPLINE-HOST: group: /'
trapline setup vfio --release "$shared"
trapline setup vfio $functions
echo "$CASES" >"$scratch/cases"
while IFS='|' read -r name words options <&3; do
    echo "TRAPLINE-HOST: case $name"
    for id in $FUNCTIONS; do
        eval "found=\$f_${id%:*}_${id#*:}"
        options=$(echo "$options" | sed "s/$id/$found/g")
    done
    first=${options#*--vfio-pci }
    first=${first%% *}
    case "$options" in
    *--trace*) errors=">$scratch/errors" ;;
    *) errors=">&1" ;;
    esac
    { eval "trapline \"\$@\" $options 2$errors" <&4; echo "TRAPLINE-HOST: case status $?"; } |
        answer "$words"
    master "$first"
    if [ -f "$scratch/errors" ]; then
        # How many of all accesses each register had, the most first.
        sed -n "s|^trace: vcpu [0-9]*: vfio0/\([^ ]* [^ ]*\) (.*|\1|p" "$scratch/errors" | sort | uniq -c |
            sort -rn | awk '{ all += $1; line[NR] = $0 }
                END { for (n = 1; n <= NR && n <= 40; n++) { split(line[n], w, " ");
                    printf "TRAPLINE-HOST: %d of %d: %s\n", w[1], all, substr(line[n], index(line[n], w[2])) } }'
        grep -v "^trace: " "$scratch/errors"
        rm "$scratch/errors"
    fi
done 3<"$scratch/cases"
trapline setup vfio --release $functions
dmesg | grep -E "AMD-Vi|IO_PAGE_FAULT|vfio|WARN|BUG" | sed 's/^/TRAPLINE-HOST: kernel: /'
rm -r "$scratch"
echo "TRAPLINE-HOST: exit status 0"
