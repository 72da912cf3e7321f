# Print the journal, and how long each scratch layer is. $1 directory. 70: there is none.
[ -e "$1/manifest.json" ] || exit 70
cat "$1/manifest.json" || exit 1
printf '\0'
cd "$1" && for layer in *.scratch-*.qcow2; do
  [ -e "$layer" ] && stat -c '%s %n' "$layer"
done
exit 0
