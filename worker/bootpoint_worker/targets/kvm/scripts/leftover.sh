# Remove what a replica that was half taken out of the trash has in its place, and nothing where it has nothing there. $1
# directory, then the names of its files.
directory=$1
shift
[ ! -e "$directory/manifest.json" ] || exit 0
there=
for found; do [ ! -e "$directory/$found" ] || there=1; done
[ -n "$there" ] || exit 0
enter "$directory" absent
rm -f -- "$@"
rm -f RUNBOOK.txt runbook-*.xml .*.new
sync .
cd ..
rm -f -- "$directory/.lock"
rmdir "$directory/run" "$directory" 2>/dev/null
exit 0
