#!/bin/busybox sh
# Guest init: the first line of userspace; then nothing, so that the host sees what an idle guest costs.
echo "TRAPLINE-GUEST: first userspace line"
/bin/busybox sleep 1000
