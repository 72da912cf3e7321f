# Replace a file beside the journal. $1 directory, $2 name, $3 digest of the new content (standard input).
hold "$1"
cd "$1" || exit 1
receive "$2" "$3"
