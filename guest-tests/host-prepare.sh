# What is in front of every script that runs trapline in the outer machine or on the host itself.
# Makes a folder, $scratch, and in it a pipe, from which trapline reads as descriptor 4 and to which
# words are typed.
open_typed() {
    scratch=$(mktemp -d)
    mkfifo "$scratch/typed"
    # Nobody need be at the other end for either to be opened.
    exec 4<>"$scratch/typed"
}
# What is done with a word when the guest waits for one. A script may have words of its own.
type_word() { echo "$1" >&4; }
# Copies the guest's output and answers it with the words $1; wakes the guest some time after it says
# that it suspends.
answer() {
    words="$1 "
    while IFS= read -r line; do
        echo "$line"
        case "$line" in
        *"TRAPLINE-GUEST: waiting for a word"*)
            type_word "${words%% *}"
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
