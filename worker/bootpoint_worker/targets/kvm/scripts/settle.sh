# Let whatever stands on a merged layer stand on the one that got its content, and name that in the journal. $1 directory,
# $2 digest of the journal, $3 digest of the new one (standard input), then OLD NEW for each layer.
enter "$1" "$2"
new=$3
shift 3
while [ "$#" -ge 2 ]; do
  move_overlays "$1" "$2"
  shift 2
done
sync . || exit 1
receive manifest.json "$new"
