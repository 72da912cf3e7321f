# Move a replica's files into the trash, the journal last, so that a crash half-way can be continued. $1 directory, $2 digest
# of the journal, $3 directory in the trash, then DISK FILE-STEMS.
directory=$1
enter "$1" "$2"
trash=$3
shift 3
for stem; do
  for found in "$stem".*.qcow2; do
    ours "$stem" "$found" && end_servers "$layer"
  done
done
mkdir -p "$trash" || exit 1
for stem; do
  for found in "$stem".*.qcow2; do
    ! ours "$stem" "$found" || mv -fT -- "$found" "$trash/$found" || exit 1
  done
done
for found in RUNBOOK.txt runbook-*.xml; do
  [ ! -e "$found" ] || mv -fT -- "$found" "$trash/$found" || exit 1
done
rm -f test-*.log* .*.new
rm -rf run
sync . "$trash" "$trash/.." || exit 1
mv -fT manifest.json "$trash/manifest.json" && sync "$trash" . || exit 1
cd ..
rm -f -- "$directory/.lock" "$directory/.machine.lock"
# What isn't ours stays, and then the directory too.
rmdir "$directory" 2>/dev/null
exit 0
