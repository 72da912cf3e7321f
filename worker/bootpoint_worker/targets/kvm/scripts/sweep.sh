# Remove scratch layers, or keep those with content as branches. $1 directory, $2 digest of the journal, $3 digest of
# the new one (standard input), then ACTION FILE NAME for each: "remove FILE -" or "keep FILE BRANCH".
enter "$1" "$2"
new=$3
shift 3
while [ "$#" -ge 3 ]; do
  case $1 in
    remove) rm -f "$2" ;;
    # A second try finds it renamed already.
    keep) [ ! -e "$2" ] || { mv -nT "$2" "$3" && chmod 0440 "$3"; } || exit 1 ;;
  esac
  shift 3
done
sync . || exit 1
receive manifest.json "$new"
