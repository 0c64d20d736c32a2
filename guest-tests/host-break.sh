# Outer machine: run trapline without a terminal, so that a guest that stops is told of and goes on, and
# say how it ended.
status=0
trapline "$@" </dev/null 2>&1 || status=$?
echo
echo "TRAPLINE-HOST: exit status $status"
