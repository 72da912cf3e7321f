# Start the server of one reader. $1 directory, $2 file, $3 layer id, $4 the reader's name; for TLS $5 and $6 as
# in serve.sh. Prints where it is.
[ -f "$1/$2" ] || exit 78
mkdir -p -m 0700 "$sockets" || exit 1
# glibc gives the buffer of each large request back to the kernel, and has every page of the next one made anew: that was
# more than half of the server's processor time. Now it keeps up to 128 MiB.
export MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=134217728
start_server "$sockets/$3.r$4" "${5-}" "${6-}" -r --cache=writeback -f qcow2 "$1/$2"
