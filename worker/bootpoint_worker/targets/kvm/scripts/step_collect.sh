# Print an archive of a guest's configuration. Parameters: filter, largest answer in bytes, script for the sandbox, then
# DISK OFFSET SIZE KIND of the root, and DISK OFFSET SIZE KIND NAME of each further mount.
filter=$1 most=$2 script=$3
shift 3
devices
mount_part "$1" "$2" "$3" "$4" "$work/root"
shift 4
ready_root
while [ "$#" -ge 5 ]; do
  mount_below "$1" "$2" "$3" "$4" "$5"
  shift 5
done
guest_sandbox "$filter" /bin/sh -c "$script" collect </dev/null 2>"$work/sandbox.log" | head -c "$most"
detach
