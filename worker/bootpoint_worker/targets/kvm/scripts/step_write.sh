# Write into a guest and run its own tools. Standard input: an archive. Parameters: filter, script for the sandbox, its
# parameters as one word with a line for each, then the mounts as for the collection.
filter=$1 script=$2 words=$3
shift 3
devices
mount_part "$1" "$2" "$3" "$4" "$work/root"
shift 4
ready_root
while [ "$#" -ge 5 ]; do
  mount_below "$1" "$2" "$3" "$4" "$5"
  shift 5
done
# The words are made of plain characters, and are to be split; those that name files may have spaces.
IFS='
'
guest_sandbox "$filter" /bin/sh -c "$script" write $words >"$work/sandbox.log" 2>&1
code=$?
unset IFS
if [ "$code" -ne 0 ]; then
  tail -c 2000 "$work/sandbox.log" | tr -cd '\11\12\40-\176' >&2
  exit 1
fi
detach
