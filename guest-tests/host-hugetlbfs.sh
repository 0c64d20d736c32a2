# Outer machine: set $PAGES huge pages aside, run trapline with its guest's memory in them, and say
# how many are to spare while the guest runs and afterwards.
echo "$PAGES" >/proc/sys/vm/nr_hugepages
mkdir /huge
mount -t hugetlbfs hugetlbfs /huge
spare() {
    awk -v when="$1" '
        /^HugePages_Total:/ { total = $2 }
        /^HugePages_Free:/ { free = $2 }
        /^HugePages_Rsvd:/ { print "TRAPLINE-HOST: " when ", " free - $2 " of " total " huge pages are to spare" }
    ' /proc/meminfo
}
mkfifo /console
trapline "$@" </dev/null >/console 2>&1 &
pid=$!
exec 3</console
while IFS= read -r line <&3; do
    echo "$line"
    case "$line" in
    *"TRAPLINE-GUEST: uname"*) spare "with the guest" ;;
    esac
done
status=0
wait "$pid" || status=$?
spare "after the guest"
echo "TRAPLINE-HOST: exit status $status"
