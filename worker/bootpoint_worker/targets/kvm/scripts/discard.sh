# Throw layers away. $1 directory, $2 digest of the journal, $3 digest of the new one (standard input) or "same",
# then FILE LAYER for each.
enter "$1" "$2"
new=$3
shift 3
order=$*
# Layers that have filled the storage leave no room for a fence or a journal: then they are emptied first. Their servers
# end before, and none begins while the lock is ours.
head -c 1048576 /dev/zero 2>/dev/null >run/.room && sync run/.room 2>/dev/null || while [ "$#" -ge 2 ]; do
  end_servers "$2"
  : >"$1"
  shift 2
done
rm -f run/.room
set -- $order
while [ "$#" -ge 2 ]; do
  write_fence "$2" closed
  end_servers "$2"
  shift 2
done
# First the journal forgets them: a journal never names a file that is gone.
[ "$new" = same ] || receive manifest.json "$new"
set -- $order
while [ "$#" -ge 2 ]; do
  rm -f "$1" "run/$2.fence" "run/op-check-$2".* "run/op-make-$2".*
  shift 2
done
sync . run
