#!/bin/busybox sh
# Guest init: the first line of userspace, then power off.
echo "TRAPLINE-GUEST: first userspace line"
/bin/busybox poweroff -f
