# Run trapline once for each line of $CASES, which has a name, the words to type when the guest waits
# for one, and further options, separated by bars; FLASH stands for an image of a flash, and DISK0 to
# DISK9 for raw images, PORT for a file whose lines are counted. Runs in the outer machine and, with hardware virtualization, on the host itself.
scratch=$(mktemp -d)
mkfifo "$scratch/typed"
# Nobody need be at the other end for either to be opened.
exec 4<>"$scratch/typed"
# Copies the guest's output and answers it; wakes it some time after it says that it suspends.
answer() {
    words="$1 "
    while IFS= read -r line; do
        echo "$line"
        case "$line" in
        *"TRAPLINE-GUEST: waiting for a word"*)
            echo "${words%% *}" >&4
            words=${words#* }
            ;;
        *"TRAPLINE-GUEST: suspending"*)
            # One that comes too early keeps the guest awake: then it tries again, and so do we.
            for pause in 5 5 10 20 40 80; do sleep "$pause"; echo; done >&4 2>&4 &
            keys=$!
            ;;
        *"TRAPLINE-GUEST: resumed"*) kill "$keys" ;;
        esac
    done
}
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
