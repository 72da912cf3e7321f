# Begin to merge a point: the journal no longer lists it. $1 directory, $2 digest of the journal, $3 digest of the new one
# (standard input), then the files that will be written to.
enter "$1" "$2"
new=$3
shift 3
for layer; do
  [ -f "$layer" ] || { echo "$layer" >&2; exit 78; }
  # Opened for writing and closed: whoever reads it, or stands on it and runs, is seen before anything begins.
  if command -v qemu-io >/dev/null 2>&1; then
    qemu-io -f qcow2 -c quit "$layer" >&2 || exit 1
  fi
done
receive manifest.json "$new"
