# Shared by all scripts. Exit codes of ours: 70 no such replica, 75 busy, 76 the journal is another one by now,
# 77 fenced, 78 the layer's file is gone, 79 a server can't be ended.
set -u
umask 077
export LC_ALL=C PATH="$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
sockets=/run/bootpoint

# hold DIRECTORY: take the replica's lock until this script ends. Daemons are started with 9>&-, else they keep it.
hold() {
  [ -d "$1" ] || exit 70
  exec 9>>"$1/.lock" || exit 1
  flock -w 30 9 || { echo "the lock of $1 is held by somebody else" >&2; exit 75; }
}

# enter DIRECTORY DIGEST: take the lock, and go on only if the journal is still the one that the caller has read.
enter() {
  hold "$1"
  have=absent
  if [ -e "$1/manifest.json" ]; then have=$(sha256sum <"$1/manifest.json") || exit 1; fi
  [ "${have%% *}" = "$2" ] || exit 76
  cd "$1" || exit 1
}

# receive FILE DIGEST: standard input becomes the file, whole or not at all, and survives a power cut.
receive() {
  cat >".$1.new" || exit 1
  got=$(sha256sum <".$1.new") || exit 1
  [ "${got%% *}" = "$2" ] || { echo "$1 arrived incomplete" >&2; exit 1; }
  sync ".$1.new" && mv -fT ".$1.new" "$1" && sync . || exit 1
}

# servers LAYER: the process ids of all qemu-nbd that serve it, found by their sockets' names, whoever started them.
servers() {
  grep -lzsF -e "$sockets/$1." /proc/[0-9]*/cmdline | while IFS= read -r found; do
    process=${found%/cmdline}
    name=
    read -r name 2>/dev/null <"$process/comm"
    [ "$name" = qemu-nbd ] && echo "${process#/proc/}"
  done
}

# ending WORD DEPTH NAME...: the process ids of programs by these names that are about to be gone: they have lost their
# memory, and their command line with it, but the kernel may still be writing for a thread of theirs. Their open files tell
# whose they are; one that has files, none of them with WORD in its path, is somebody else's. Whoever is in more than DEPTH
# process namespaces is too: a guest's program in its sandbox can look like this for as long as it likes.
ending() {
  word=$1 depth=$2
  shift 2
  names=" $* "
  grep -Lsz . /proc/[0-9]*/cmdline | while IFS= read -r found; do
    process=${found%/cmdline}
    name= state=
    read -r name 2>/dev/null <"$process/comm"
    case $names in *" $name "*) ;; *) continue ;; esac
    set -- $(grep -s '^NSpid:' "$process/status")
    [ "$#" -le $((depth + 1)) ] || continue
    read -r state 2>/dev/null <"$process/stat" || continue
    set -- "$process"/task/*
    case ${state##*) } in Z* | X*) [ "$#" -gt 1 ] || continue ;; esac
    files=$(find "$process"/task/*/fd -type l -printf '%l\n' 2>/dev/null)
    case $files in "" | *"$word"*) echo "${process#/proc/}" ;; esac
  done
}

# end_servers LAYER: end them, and return only when they are gone for certain. What was flushed stays.
end_servers() {
  turn=0
  while pids=$(servers "$1") late=$(ending "${1%%.*}" 1 qemu-nbd); [ -n "$pids$late" ]; do
    signal=TERM
    [ "$turn" -gt 15 ] && signal=KILL
    [ "$turn" -gt 150 ] && { echo "qemu-nbd" $pids $late "does not end" >&2; exit 79; }
    [ -z "$pids" ] || kill -"$signal" $pids 2>/dev/null
    sleep 0.1
    turn=$((turn + 1))
  done
  rm -f "$sockets/$1".*
}

# start_server AT FOLDER IDENTITY OPTION...: a qemu-nbd for one client, on the socket AT.sock. With a FOLDER of certificates it
# listens on TCP instead, and serves whoever shows a certificate of that name. Prints where it is.
start_server() {
  at=$1 folder=$2 identity=$3
  shift 3
  if [ -z "$folder" ]; then
    qemu-nbd --fork -e 1 -k "$at.sock" --pid-file "$at.pid" "$@" </dev/null >/dev/null 2>"$at.log" 9>&- ||
      { cat "$at.log" >&2; exit 1; }
    echo "$at.sock"
    return
  fi
  # QEMU wants names of its own for the files.
  mkdir -p -m 0700 "$sockets/tls" || exit 1
  for name in ca:ca-cert cert:server-cert key:server-key; do
    [ -r "$folder/${name%:*}.pem" ] || { echo "TLS: there is no file $folder/${name%:*}.pem" >&2; exit 1; }
    ln -sfn "$folder/${name%:*}.pem" "$sockets/tls/${name#*:}.pem" || exit 1
  done
  turn=0
  while [ "$turn" -lt 128 ]; do
    port=$((10809 + ($$ + turn) % 128))
    qemu-nbd --fork -e 1 -p "$port" --pid-file "$at.pid" \
      --object "tls-creds-x509,id=tls,endpoint=server,verify-peer=yes,dir=$sockets/tls" \
      --object "authz-simple,id=who,identity=$identity" --tls-creds tls --tls-authz who \
      "$@" </dev/null >/dev/null 2>"$at.log" 9>&- && { echo "tcp:$port"; return; }
    grep -q "Address already in use" "$at.log" || break
    turn=$((turn + 1))
  done
  cat "$at.log" >&2
  exit 1
}

# write_fence LAYER NUMBER
write_fence() {
  printf '%s\n' "$2" >"run/.$1.new" && sync "run/.$1.new" && mv -fT "run/.$1.new" "run/$1.fence" && sync run || exit 1
}

# make_layer FILE BASE SIZE PREALLOCATION: an empty layer, its own and its backing format written into it.
make_layer() {
  options="cluster_size=65536,lazy_refcounts=off,compat=1.1"
  if [ "$2" = - ]; then
    qemu-img create -q -f qcow2 -o "$options,preallocation=$4" "$1" "$3" || exit 1
  else
    qemu-img create -q -f qcow2 -F qcow2 -b "$2" -o "$options" "$1" "$3" || exit 1
  fi
  sync "$1" || exit 1
}

# backing FILE: what a qcow2 file stands on, by its header (docs/interop/qcow2.txt: offset at byte 8, length at 16); nothing
# where it is none, or a base.
backing() {
  set -- "$1" $(od -An -v -tu1 -N20 "$1" 2>/dev/null)
  [ "$#" -eq 21 ] && [ "$2.$3.$4.$5" = 81.70.73.251 ] || return 0
  at=$((${14} * 16777216 + ${15} * 65536 + ${16} * 256 + ${17}))
  length=$((${18} * 16777216 + ${19} * 65536 + ${20} * 256 + ${21}))
  [ "$at" -eq 0 ] || [ "$length" -gt 1023 ] || dd if="$1" bs=1 skip="$at" count="$length" 2>/dev/null
}

# ours STEM FILE: tell whether a file is a layer of that disk, by its name, and not somebody else's with a name like it. Sets
# layer to what comes between.
ours() {
  layer=${2#"$1".} layer=${layer%.qcow2}
  [ -e "$2" ] || return 1
  case $layer in
    scratch-* | branch-* | convert-*) return 0 ;;
    *[!0-9a-f]*) return 1 ;;
  esac
  [ "${#layer}" -eq 32 ]
}

# move_overlays OLD NEW: whatever here stands on OLD, by whatever path, stands on NEW afterwards, which reads alike. The
# names are equally long, so one sector of a header changes: a power cut leaves the one or the other.
move_overlays() {
  for overlay in ./*; do
    [ -f "$overlay" ] || continue
    case $(backing "$overlay") in
      *"$1"*) qemu-img rebase -u -f qcow2 -F qcow2 -b "$2" "$overlay" && sync "$overlay" || exit 1 ;;
    esac
  done
}

# What a conversion's own processes are called.
converters="sh dash bash busybox timeout unshare"

# conversions DIRECTORY KEY: the process ids of what converts there (of any key, if it is empty), found by a word of theirs.
conversions() {
  grep -lzsF -e "bootpoint-convert $1/run/convert-$2" /proc/[0-9]*/cmdline | while IFS= read -r found; do
    process=${found%/cmdline}
    name=
    read -r name 2>/dev/null <"$process/comm"
    case " $converters " in *" $name "*) echo "${process#/proc/}" ;; esac
  done
}

# abort_exports DIRECTORY KEY: give up the connections of FUSE exports. Whoever waits for one of them then gets an error: the
# kernel itself may wait for a daemon that is dead, and everybody who syncs would wait with it.
abort_exports() {
  cat "$1/run/convert-$2"*/connection 2>/dev/null | while read -r number; do
    unshare --mount --propagation private sh -c \
      'mount -t fusectl none /sys/fs/fuse/connections && echo 1 >"/sys/fs/fuse/connections/$1/abort"' abort "$number"
  done
}

# end_conversions DIRECTORY KEY: end them, and return only when they are gone for certain. Each is a process namespace of
# its own, so its first process takes all others, its mounts and its loop devices with it.
end_conversions() {
  turn=0
  while pids=$(conversions "$1" "$2") late=$(ending "" 2 $converters); [ -n "$pids$late" ]; do
    [ "$turn" -gt 150 ] && { echo "a conversion does not end:" $pids $late >&2; exit 79; }
    [ -z "$pids" ] || kill -KILL $pids 2>/dev/null
    [ "$turn" -eq 30 ] && abort_exports "$1" "$2"
    sleep 0.1
    turn=$((turn + 1))
  done
}
