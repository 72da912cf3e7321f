# Make a point visible: its files are durable and read-only before the journal names it. $1 directory, $2 digest of
# the journal, $3 digest of the new one (standard input), then FILE LAYER for each disk.
enter "$1" "$2"
new=$3
shift 3
order=$*
while [ "$#" -ge 2 ]; do
  chmod 0440 "$1" && sync "$1" || exit 1
  shift 2
done
sync . || exit 1
receive manifest.json "$new"
set -- $order
while [ "$#" -ge 2 ]; do
  rm -f "run/$2.fence" "run/op-check-$2".* "run/op-make-$2".*
  shift 2
done
exit 0
