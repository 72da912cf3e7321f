# Remove what a long command left. $1 directory, $2 operation id.
rm -f "$1/run/op-$2".*
