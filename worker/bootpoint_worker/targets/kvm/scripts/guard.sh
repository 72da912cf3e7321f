# Hold the lock on a replica's VMs and scratch layers until standard input ends. $1 directory, $2 longest time in seconds:
# a holder that is frozen must not keep others out for ever. Prints "held".
[ -d "$1" ] || { echo absent; exit 70; }
exec 8>>"$1/.machine.lock" || exit 1
flock -w 30 8 || { echo busy; exit 75; }
echo held
timeout "$2" cat >/dev/null
