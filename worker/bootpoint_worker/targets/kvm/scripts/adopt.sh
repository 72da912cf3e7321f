# Turn converted layers into scratch layers, whole on the disk. $1 directory, $2 digest of the journal, $3 the
# conversion's directory below run, then FROM TO for each.
enter "$1" "$2"
work=$3
shift 3
while [ "$#" -ge 2 ]; do
  [ -f "$1" ] || { echo "$1" >&2; exit 78; }
  sync "$1" && mv -nT "$1" "$2" || exit 1
  shift 2
done
sync .
rm -rf -- "run/$work"
