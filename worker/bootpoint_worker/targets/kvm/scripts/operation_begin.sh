# Start a long command that outlives this connection, or find it running or ended. $1 directory, $2 digest of the journal
# that it was worked out from, or "any", $3 operation id, then the command; it runs in the replica's directory.
if [ "$2" = any ]; then
  hold "$1"
  cd "$1" || exit 1
else
  enter "$1" "$2"
fi
at="$1/run/op-$3"
shift 3
# Whatever belongs to it holds this lock, from before its first moment to after its last: no process id has to be written,
# which a full storage refuses, and none is looked for, which says nothing about a process that just begins or ends.
exec 8>>"$at.lock" || exit 1
flock -n 8 || exit 0
[ -e "$at.exit" ] && exit 0
setsid sh -c 'at=$1; shift; "$@" >"$at.out" 2>&1; printf "%s\n" "$?" >"$at.new"; mv -fT "$at.new" "$at.exit"' \
  bootpoint-operation "$at" "$@" </dev/null >/dev/null 2>&1 9>&- &
