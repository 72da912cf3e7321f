# Close layers to all writers for ever. $1 directory, $2 digest of the journal, then FILE LAYER for each.
enter "$1" "$2"
shift 2
while [ "$#" -ge 2 ]; do
  [ -f "$1" ] || { echo "$1" >&2; exit 78; }
  write_fence "$2" closed
  end_servers "$2"
  shift 2
done
