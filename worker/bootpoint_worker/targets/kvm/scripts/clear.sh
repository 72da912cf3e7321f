# Remove layers that nothing needs any more. $1 directory, $2 digest of the journal, $3 digest of the new one (standard
# input), then OLD NEW LAYER for each: NEW is what reads alike, or "-".
enter "$1" "$2"
new=$3
shift 3
while [ "$#" -ge 3 ]; do
  # Somebody may have pasted a block of the old runbook meanwhile.
  [ "$2" = - ] || move_overlays "$1" "$2"
  end_servers "$3"
  rm -f "$1" "run/$3.fence" "run/op-merge-$3".* "run/op-check-$3".*
  shift 3
done
sync . || exit 1
receive manifest.json "$new"
