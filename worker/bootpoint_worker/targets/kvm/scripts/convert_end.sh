# End conversions that were left, and remove what they made. $1 directory, $2 key; empty for all.
[ -d "$1" ] || exit 70
end_conversions "$1" "$2${2:+@}"
cd "$1" || exit 1
rm -rf -- "run/convert-$2${2:+@}"* "run/op-convert-$2${2:+.}"*
rm -f -- *".convert-$2${2:+@}"*.qcow2
exit 0
