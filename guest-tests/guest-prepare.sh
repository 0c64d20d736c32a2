# What every guest init does first. Sourced as /prepare.sh.
/bin/busybox mkdir -p /proc /sys /dev /bin /tmp
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox --install -s /bin
export PATH=/bin HOME=/ TERM="${TERM:-linux}"
# Loads the modules that came with the initrd, in their order, and unloads them in the opposite one.
load() {
    while read -r module; do insmod "/modules/$module.ko"; done </modules/order
}
unload() {
    names=
    while read -r module; do names="$module $names"; done </modules/order
    for module in $names; do rmmod "$module"; done
}
# Does what somebody types, word by word: suspend (until a key is pressed; then it calls what it was
# given), reboot or poweroff.
obey() {
    echo enabled >/sys/class/tty/ttyS0/power/wakeup
    while :; do
        echo "TRAPLINE-GUEST: waiting for a word"
        # Empty lines are keys that were to wake us.
        word=
        while [ -z "$word" ]; do read -r word; done
        case "$word" in
        suspend)
            echo "TRAPLINE-GUEST: suspending"
            # A key that comes too early is a reason not to.
            until echo mem >/sys/power/state; do sleep 1; done
            echo "TRAPLINE-GUEST: resumed with $(nproc) CPUs"
            "$@"
            ;;
        *) "$word" -f ;;
        esac
    done
}
