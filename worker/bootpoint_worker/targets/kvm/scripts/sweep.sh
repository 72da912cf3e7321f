# Remove scratch layers, or keep those with content as branches. $1 directory, $2 digest of the journal, $3 digest of
# the new one (standard input), then ACTION FILE NAME for each: "remove FILE -", "drop FILE LENGTH" or "keep FILE BRANCH".

# free FILE: whether no VM has it. Somebody may start one with the host's own tools at any moment, and what that writes is
# not to be lost.
free() {
  case $(qemu-img info "$1" 2>&1 >/dev/null) in *"Failed to get"*) return 1 ;; esac
}

enter "$1" "$2"
new=$3
shift 3
while [ "$#" -ge 3 ]; do
  case $1 in
    # What a test said was put aside by virtlogd when it had become long: its file's name and a number.
    remove) rm -f "$2" "$2".[0-9] "$2".[0-9][0-9] ;;
    drop) [ ! -e "$2" ] || { free "$2" && [ "$(stat -c %s "$2")" = "$3" ] && rm -f "$2"; } || exit 76 ;;
    # A second try finds it renamed already.
    keep)
      [ ! -e "$2" ] || free "$2" || exit 76
      [ ! -e "$2" ] || { mv -nT "$2" "$3" && chmod 0440 "$3"; } || exit 1
      ;;
  esac
  shift 3
done
sync . || exit 1
receive manifest.json "$new"
