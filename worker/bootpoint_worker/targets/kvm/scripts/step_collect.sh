# Print an archive of a guest's configuration, or "data" where there is no guest. Parameters: filter, largest answer in
# bytes, script for the sandbox, then DISK OFFSET SIZE KIND of the root, and DISK OFFSET SIZE KIND NAME of each further mount.
filter=$1 most=$2 script=$3
shift 3
devices
mount_part "$1" "$2" "$3" "$4" "$work/root"
shift 4
# A file system of data: nothing in it could be run. Only names are looked at, never what they lead to.
if ! ls -d "$work/root/bin" >/dev/null 2>&1 && ! ls -d "$work/root/usr" >/dev/null 2>&1; then
  echo data
  detach
  exit 0
fi
ready_root
while [ "$#" -ge 5 ]; do
  mount_below "$1" "$2" "$3" "$4" "$5"
  shift 5
done
guest_sandbox "$filter" /bin/sh -c "$script" collect </dev/null 2>"$work/sandbox.log" | head -c "$most"
detach
