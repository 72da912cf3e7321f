# Start the server of one claim's writer, after every earlier one is gone. $1 directory, $2 digest of the journal,
# $3 layer file, $4 layer id, $5 the claim's number; for TLS $6 the host's certificates, $7 the worker's name in its own.
# Prints where it is.
enter "$1" "$2"
held=0
if [ -e "run/$4.fence" ]; then read -r held <"run/$4.fence"; fi
[ "$held" = closed ] && exit 77
[ "$5" -lt "$held" ] && exit 77
[ -f "$3" ] || exit 78
[ "$5" = "$held" ] || write_fence "$4" "$5"
end_servers "$4"
mkdir -p -m 0700 "$sockets" || exit 1
start_server "$sockets/$4.w$5" "${6-}" "${7-}" --cache=writeback --discard=unmap --detect-zeroes=off -f qcow2 "$1/$3"
