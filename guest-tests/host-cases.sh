# Run trapline once for each line of $CASES, which has a name, the words to type when the guest waits
# for one, and further options, separated by bars; FLASH stands for an image of a flash, and DISK0 to
# DISK9 for raw images, PORT for a file whose lines are counted. Runs in the outer machine and, with hardware virtualization, on the host itself.
open_typed
echo "$CASES" >"$scratch/cases"
while IFS='|' read -r name words options <&3; do
    echo "TRAPLINE-HOST: case $name"
    yes '#!!' | head -c 131072 >"$scratch/flash"
    for n in 0 1 2 3 4 5 6 7 8 9; do truncate -s 2M "$scratch/disk$n"; done
    options=$(echo "$options" | sed "s|FLASH|$scratch/flash|; s|DISK\([0-9]\)|$scratch/disk\1|g;
        s|PORT|$scratch/port|")
    rm -f "$scratch/port"
    # The options are words as a shell reads them.
    { eval "trapline \"\$@\" $options" <&4 2>&1; echo "TRAPLINE-HOST: case status $?"; } | answer "$words"
    if [ -e "$scratch/port" ]; then echo "TRAPLINE-HOST: port: $(wc -l <"$scratch/port") lines"; fi
    echo "TRAPLINE-HOST: flash $(head -c 12 "$scratch/flash" | od -A n -t x1 | tr -s ' ')"
done 3<"$scratch/cases"
rm -r "$scratch"
echo "TRAPLINE-HOST: exit status 0"
