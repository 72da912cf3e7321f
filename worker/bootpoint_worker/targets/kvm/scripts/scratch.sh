# Make scratch layers that the journal doesn't name yet, and print their lengths. $1 directory, $2 digest of the journal,
# then FILE BASE SIZE for each.
enter "$1" "$2"
shift 2
while [ "$#" -ge 3 ]; do
  make_layer "$1" "$2" "$3" off
  stat -c '%s %n' "$1" || exit 1
  shift 3
done
sync .
