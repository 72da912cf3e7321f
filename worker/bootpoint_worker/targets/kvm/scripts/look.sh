# Show what a test VM has written. $1 file of its serial port, $2 file of its firmware, $3 bytes of each at most.
# Prints "RESETS SERIAL FIRMWARE", the latter two in bytes, and then these bytes.
size() {
  length=$(stat -c %s "$1" 2>/dev/null) || length=0
  [ "$length" -gt "$2" ] && length=$2
  echo "$length"
}
begun=0
# SeaBIOS says this once each time that it goes looking for something to boot. What it says first it may say twice after one
# reset: it asks for a hard one again, and QEMU may carry out both.
[ -e "$2" ] && begun=$(grep -ac 'enter handle_19:' "$2")
if [ "$begun" -eq 0 ] && [ -e "$1" ]; then
  # UEFI says which entry it starts; the same one again means that it began anew.
  begun=$(grep -ao 'BdsDxe: starting Boot[0-9A-F]*' "$1" | sort | uniq -c | sort -rn | head -n 1 | awk '{ print $1 }')
fi
begun=${begun:-0}
[ "$begun" -gt 0 ] && begun=$((begun - 1))
serial=$(size "$1" "$3")
firmware=$(size "$2" "$3")
echo "$begun $serial $firmware"
[ "$serial" -gt 0 ] && tail -c "$3" "$1" | head -c "$serial"
[ "$firmware" -gt 0 ] && tail -c "$3" "$2" | head -c "$firmware"
exit 0
