# Print what each file here stands on: file and backing file, each followed by a zero byte. $1 directory.
cd "$1" || exit 1
for file in ./*; do
  [ -f "$file" ] || continue
  below=$(backing "$file")
  [ -z "$below" ] || printf '%s\0%s\0' "${file#./}" "$below"
done
