# Make layers, and name them in the journal. $1 directory, $2 digest of the journal, $3 digest of the new one (standard
# input), then FILE BASE SIZE PREALLOCATION for each layer; preallocation "made": the file is there already.
directory=$1 new=$3
enter "$directory" "$2"
shift 3
while [ "$#" -ge 4 ]; do
  if [ "$4" = made ]; then
    [ -e "$1" ] || { echo "$1: not found" >&2; exit 78; }
  else
    make_layer "$1" "$2" "$3" "$4"
  fi
  shift 4
done
sync . || exit 1
receive manifest.json "$new"
