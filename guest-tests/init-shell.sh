#!/bin/busybox sh
# Guest init: an interactive shell on the console; leaving it powers the machine off.
. /prepare.sh
echo "TRAPLINE-GUEST: shell"
setsid cttyhack sh
poweroff -f
