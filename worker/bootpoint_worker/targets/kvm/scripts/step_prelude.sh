# Shared by the steps of a conversion. Such a script is the first process of a process and a mount namespace of its own:
# when it ends, however that happens, its daemons, its mounts and its loop devices are gone. $1 directory, $2 work
# directory, $3 this text, $4 number of layers, then their files; the rest is the step's. Nothing of a guest is looked at
# here by a path that the guest could bend: that is done in the sandbox, whose root is the guest's.
#
#   first process: exports the layers by FUSE ──► second one, in a mount namespace below: loop devices, mounts, sandbox
#
# Two namespaces, for a daemon that is killed must not be the last in the one with the mounts: it would unmount them, and
# wait for ever for what it no longer writes itself.
set -u
umask 077
export LC_ALL=C PATH="$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
directory=$1 work=$2 text=$3
shift 3
cd "$directory" || exit 1
fail() {
  echo "$1" >&2
  exit 1
}

# attach FILE...: each qcow2 layer appears as a raw file, $work/disk.0 and so on.
attach() {
  count=$# number=0
  while [ "$number" -lt "$count" ]; do
    : >"$work/disk.$number"
    set -- "$@" --blockdev "driver=file,node-name=f$number,filename=$1" \
      --blockdev "driver=qcow2,node-name=q$number,file=f$number,discard=unmap,detect-zeroes=unmap" \
      --export "type=fuse,id=e$number,node-name=q$number,mountpoint=${work#"$directory"/}/disk.$number,writable=on"
    shift
    number=$((number + 1))
  done
  # It must not hold what others wait for the end of.
  qemu-storage-daemon "$@" </dev/null >"$work/daemon.log" 2>&1 &
  daemon=$!
  number=0 turn=0
  while [ "$number" -lt "$count" ]; do
    if [ "$(stat -c %s "$work/disk.$number")" -gt 0 ]; then
      # A file system without a device has only a minor number, by which the kernel knows the connection.
      device=$(stat -c %d "$work/disk.$number")
      echo "$(((device & 255) | ((device >> 12) & 1048320)))" >>"$work/connection"
      number=$((number + 1))
    elif [ "$turn" -gt 500 ] || ! kill -0 "$daemon" 2>/dev/null; then
      fail "the disks can't be exported: $(tail -c 500 "$work/daemon.log")"
    else
      sleep 0.02
      turn=$((turn + 1))
    fi
  done
}

# mount_part DISK OFFSET SIZE KIND AT: mount a partition. Whatever its superblock says, an error in it is no reason for
# the host to panic.
mount_part() {
  case $4 in ext4) options=errors=remount-ro ;; xfs) options=nouuid ;; *) fail "$4 is not mounted" ;; esac
  loop=$(losetup --find --show --offset "$2" --sizelimit "$3" "$work/disk.$1") || fail "no loop device"
  mount -t "$4" -o "nodev,nosuid,noatime,$options" "$loop" "$5"
  code=$?
  losetup -d "$loop"
  loops="$loop ${loops:-}"
  [ "$code" -eq 0 ] || fail "the $4 at byte $2 can't be mounted"
  mounted="$5 ${mounted:-}"
}

# ready_root: what the sandbox mounts over in the guest's root has to be a directory, and no link to anywhere.
ready_root() {
  for name in proc dev run tmp sys; do
    [ ! -L "$work/root/$name" ] || fail "/$name of the guest is a link"
    [ -d "$work/root/$name" ] || mkdir "$work/root/$name" || fail "/$name of the guest is no directory"
  done
}

# mount_below DISK OFFSET SIZE KIND NAME: mount a partition on /NAME of the guest.
mount_below() {
  [ ! -L "$work/root/$5" ] && [ -d "$work/root/$5" ] || fail "/$5 of the guest is no directory"
  mount_part "$1" "$2" "$3" "$4" "$work/root/$5"
}

# devices: device nodes of our own. Those of the host would be its root's, and the sandbox's root could change their modes.
devices() {
  mount -t tmpfs -o nosuid,mode=755,size=64k,nr_inodes=64 bootpoint-dev "$work/dev" || fail "no file system for devices"
  while read -r name minor; do
    mknod -m 666 "$work/dev/$name" c 1 "$minor" || fail "device nodes can't be made"
  done <<NODES
null 3
zero 5
full 7
random 8
urandom 9
NODES
  ln -s /proc/self/fd "$work/dev/fd"
  for number in 0 1 2; do ln -s "/proc/self/fd/$number" "$work/dev/std$number"; done
  mkdir "$work/dev/shm"
}

# sandbox FILTER COMMAND...: run a command with the guest's root as its own, as a root without rights over the host. bwrap's
# options before the command follow in the order in which they are done. /proc is read-only as a whole: below /proc/sys
# the kernel asks for root's number alone.
sandbox() {
  printf %s "$1" | base64 -d >"$work/filter" || fail "no filter"
  shift
  prlimit --core=0 --as=4294967296 --nofile=4096 --fsize=17179869184 -- \
    bwrap --unshare-user --uid 0 --gid 0 --unshare-pid --unshare-net --unshare-ipc --unshare-uts --unshare-cgroup-try \
    --hostname localhost --cap-drop ALL --cap-add CAP_CHOWN --cap-add CAP_DAC_OVERRIDE --cap-add CAP_FOWNER \
    --new-session --die-with-parent --clearenv --setenv PATH /usr/sbin:/usr/bin:/sbin:/bin --setenv LC_ALL C \
    --setenv HOME / --seccomp 7 "$@" 7<"$work/filter"
}

# guest_sandbox FILTER COMMAND...: the same, in the guest's root.
guest_sandbox() {
  filter=$1
  shift
  sandbox "$filter" --bind "$work/root" / --size 268435456 --tmpfs /run --size 268435456 --tmpfs /tmp --tmpfs /sys \
    --remount-ro /sys --proc /proc --remount-ro /proc --dev-bind "$work/dev" /dev --chdir / "$@"
}

# tool_sandbox FILTER DISK COMMAND...: the same with the host's programs, and a disk as /disk.
tool_sandbox() {
  filter=$1 disk=$2
  shift 2
  for name in bin sbin lib lib32 lib64; do
    if [ -L "/$name" ]; then
      set -- --symlink "$(readlink "/$name")" "/$name" "$@"
    elif [ -d "/$name" ]; then
      set -- --ro-bind "/$name" "/$name" "$@"
    fi
  done
  sandbox "$filter" --ro-bind /usr /usr --size 268435456 --tmpfs /tmp --proc /proc --remount-ro /proc \
    --dev-bind "$work/dev" /dev --bind "$work/disk.$disk" /disk --chdir /tmp "$@"
}

# detach: unmount what the second process has mounted. A file system lives on after its unmounting for
# as long as the sandbox has it too, and that ends a moment after bwrap does; it is gone when its loop device is.
detach() {
  for at in ${mounted:-}; do
    sync -f "$at" && umount "$at" || fail "a file system of the guest can't be unmounted"
  done
  turn=0
  for loop in ${loops:-}; do
    while losetup --noheadings --output BACK-FILE "$loop" 2>/dev/null | grep -qF "$work/"; do
      [ "$turn" -gt 3000 ] && fail "$loop is still in use"
      sleep 0.02
      turn=$((turn + 1))
    done
  done
}

if [ -z "${stage:-}" ]; then
  layers=$1 number=0 files=
  for file; do
    # Names of layers have no spaces. The first word is their number.
    if [ "$number" -gt 0 ] && [ "$number" -le "$layers" ]; then files="$files $file"; fi
    number=$((number + 1))
  done
  attach $files
  stage=mounts unshare --mount --propagation private sh -c "$text" "$0" "$directory" "$work" "$text" "$@"
  code=$?
  [ "$code" -eq 0 ] || exit "$code"
  # It has written everything when it is gone.
  kill "$daemon" && wait "$daemon" || fail "the disks can't be let go: $(tail -c 500 "$work/daemon.log")"
  exit 0
fi
shift $(($1 + 1))
