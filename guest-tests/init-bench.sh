#!/bin/busybox sh
# Guest init: the first line of userspace; idle while the host reads its counters; power off.
echo "TRAPLINE-GUEST: first userspace line"
/bin/busybox sleep 1
/bin/busybox poweroff -f
