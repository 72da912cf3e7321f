# Move a replica's files out of the trash, the journal last. $1 directory in the trash, $2 digest of the journal there, $3
# digest of the new one (standard input), $4 the replica's directory.
trash=$1
enter "$1" "$2"
new=$3 directory=$4
umask 066
mkdir -p "$directory/run" || exit 1
umask 077
[ ! -e "$directory/manifest.json" ] || exit 76
for found in *.qcow2 RUNBOOK.txt runbook-*.xml; do
  [ ! -e "$found" ] || mv -fT -- "$found" "$directory/$found" || exit 1
done
sync "$directory" . || exit 1
# The lock of the trash stays with us: nobody else is in the replica's directory before it has a journal.
cd "$directory" || exit 1
receive manifest.json "$new"
sync .. || exit 1
rm -f -- "$trash/manifest.json"
sync "$trash"
rm -f -- "$trash/.lock"
rmdir "$trash" && rmdir "${trash%/*}" 2>/dev/null
exit 0
