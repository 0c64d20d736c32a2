# What every guest init does first. Sourced as /prepare.sh.
/bin/busybox mkdir -p /proc /sys /dev /bin /tmp
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox --install -s /bin
export PATH=/bin HOME=/ TERM="${TERM:-linux}"
