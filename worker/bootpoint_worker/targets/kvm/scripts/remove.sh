# Remove a replica's files, the journal last, so that a crash half-way can be continued. $1 directory, $2 digest of the
# journal, then DISK FILE-STEMS.
directory=$1
enter "$1" "$2"
shift 2
for stem; do
  for found in "$stem".*.qcow2; do
    ours "$stem" "$found" && end_servers "$layer"
  done
done
for stem; do
  for found in "$stem".*.qcow2; do
    ! ours "$stem" "$found" || rm -f -- "$found"
  done
done
rm -f RUNBOOK.txt runbook-*.xml test-*.log* run/* run/.*.new .*.new
sync .
rm -f manifest.json
sync .
cd ..
rm -rf -- "$directory/run" "$directory/.lock" "$directory/.machine.lock"
# What isn't ours stays, and then the directory too.
rmdir "$directory" 2>/dev/null
# Nor does an empty trash stay.
case ${directory%/*} in */.bootpoint-trash) rmdir "${directory%/*}" 2>/dev/null ;; esac
exit 0
