# Wait a few seconds for a long command. $1 directory, $2 operation id. Prints exit code and output when it has ended;
# 71: it still runs, 72: it is gone without a trace (the host was restarted).
at="$1/run/op-$2"
[ -e "$at.lock" ] || exit 72
exec 8<"$at.lock" || exit 1
turn=0
while [ "$turn" -lt 72 ]; do
  gone=
  flock -n 8 && gone=1
  if [ -e "$at.exit" ]; then
    cat "$at.exit"
    tail -c 65536 "$at.out"
    exit 0
  fi
  [ -z "$gone" ] || exit 72
  # Short ones are not to wait for their poll: what is looked for so often ends within some seconds.
  if [ "$turn" -lt 20 ]; then sleep 0.02; elif [ "$turn" -lt 60 ]; then sleep 0.05; else sleep 0.2; fi
  turn=$((turn + 1))
done
exit 71
