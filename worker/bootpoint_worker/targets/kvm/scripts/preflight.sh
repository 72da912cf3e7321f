# Check that a replica can be made. $1 storage, $2 directory. Prints what is wrong, and the room where it lies.
[ -d "$1" ] || { echo "storage"; exit 0; }
at=$2
while [ ! -e "$at" ]; do at=${at%/*}; at=${at:-/}; done
if ! [ -w "$at" ] || ! [ -x "$at" ]; then echo "rights $at"; fi
mkdir -p -m 0700 "$sockets" 2>/dev/null || echo "rights $sockets"
[ -e "$2/manifest.json" ] || [ ! -e "$2" ] || [ -z "$(ls -A "$2")" ] || echo "foreign $2"
stat -f -c 'free %S %a' "$at"
exit 0
