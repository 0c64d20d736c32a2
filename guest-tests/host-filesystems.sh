# Outer machine: for each of $CASES, a file system and the format of its image, run a guest that makes
# the one on the other, has fsx make $OPERATIONS operations on it that $SEED chooses, and copies all of
# the disk to one of the other format. Then look at both images with the tools of this system.
tar -x -f "$TOOLS" -C /
PATH=$PATH:/usr/bin:/usr/sbin:/sbin
mkdir /images
for name in $CASES; do
    echo "TRAPLINE-HOST: case $name"
    system=${name%-*} format=${name#*-}
    other=raw
    if [ "$format" = raw ]; then other=qcow2; fi
    for each in raw qcow2; do qemu-img create -q -f $each /images/$each 24M; done
    status=0
    trapline "$@" -d "/images/$format,format=$format" -d "/images/$other,format=$other" \
        -p "quiet SYSTEM=$system OPERATIONS=$OPERATIONS SEED=$SEED" || status=$?
    echo "TRAPLINE-HOST: case status $status"
    if qemu-img check -f qcow2 /images/qcow2; then
        echo "TRAPLINE-HOST: qemu-img finds no errors"
    fi
    if qemu-img compare -f raw -F qcow2 /images/raw /images/qcow2; then
        echo "TRAPLINE-HOST: the images are the same"
    fi
    case $system in
    ext4) e2fsck -f -n /images/raw ;;
    btrfs) btrfs check --readonly --check-data-csum /images/raw ;;
    esac && echo "TRAPLINE-HOST: the file system is sound"
    rm /images/*
done
echo "TRAPLINE-HOST: exit status 0"
