# Run one step of a conversion in namespaces of its own. $1 directory, $2 key, $3 token, $4 longest time in seconds, $5 the
# step's script, then its parameters. Standard input and output are the step's.
[ -d "$1" ] || exit 70
end_conversions "$1" "$2@"
work="$1/run/convert-$2@$3"
directory=$1 seconds=$4 inner=$5
mkdir -p "$work/root" "$work/dev" || exit 1
shift 5
# The word by which it is found is in the command line of each of these three.
exec timeout -k 5 "$seconds" unshare --mount --propagation private --pid --fork --kill-child --mount-proc \
  sh -c "$inner" "bootpoint-convert $work" "$directory" "$work" "$inner" "$@"
