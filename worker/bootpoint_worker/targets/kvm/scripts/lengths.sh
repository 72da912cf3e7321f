# Print length, stored bytes and name of files. $1 directory, then the files.
cd "$1" || exit 1
shift
for layer; do
  stat -c '%s %b %B %n' "$layer" || exit 1
done
