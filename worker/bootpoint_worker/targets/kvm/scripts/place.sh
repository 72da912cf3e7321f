# Make a replica's directory and write its first journal, or a new one. $1 storage, $2 directory, $3 digest of the
# journal that is there, $4 digest of the new one (standard input).
[ -d "$1" ] || { echo "$1 is no directory" >&2; exit 1; }
umask 066
mkdir -p "$2/run" || exit 1
umask 077
enter "$2" "$3"
receive manifest.json "$4"
sync .. || exit 1
