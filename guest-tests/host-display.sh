# Run trapline with a display and print what the display shows at the end, as PNG in base64. Runs in
# the outer machine and, with hardware virtualization, on the host itself.
picture=$(mktemp)
status=0
trapline "$@" --screendump "$picture" || status=$?
echo
echo "TRAPLINE-HOST: picture"
base64 "$picture"
echo "TRAPLINE-HOST: end of picture"
rm "$picture"
echo "TRAPLINE-HOST: exit status $status"
