# Outer machine: run trapline on the console and say how it ended and how it left the terminal.
before=$(stty -g)
status=0
trapline "$@" || status=$?
after=$(stty -g)
echo
if [ "$before" = "$after" ]; then
    echo "TRAPLINE-HOST: terminal as before"
else
    echo "TRAPLINE-HOST: terminal changed from $before to $after"
fi
echo "TRAPLINE-HOST: exit status $status"
