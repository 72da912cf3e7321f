# Serve a file read-only to several clients until standard input ends. $1 directory, $2 file, $3 layer id, $4 the
# server's name. Prints the socket, or "error" and why.
[ -f "$1/$2" ] || { echo "error $2 is gone"; exit 78; }
mkdir -p -m 0700 "$sockets" || { echo "error $sockets can't be made"; exit 1; }
at="$sockets/$3.r$4"
trap 'end_servers "$3.r$4"' EXIT
trap 'exit 1' HUP INT TERM
said=$(qemu-nbd --fork --persistent -e 8 -r -k "$at.sock" --pid-file "$at.pid" --cache=writeback -f qcow2 "$1/$2" \
  </dev/null 2>&1 >/dev/null) || { echo "error $said"; exit 1; }
echo "$at.sock"
cat >/dev/null
