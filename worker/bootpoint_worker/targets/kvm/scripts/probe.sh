# Print what this host has, one "WORD VALUE" a line. Parameters: directories whose room is asked for.
for tool in qemu-img qemu-nbd flock sync sha256sum setsid timeout nc; do
  command -v "$tool" >/dev/null 2>&1 || echo "missing $tool"
done
echo "qemu-img $(qemu-img --version 2>/dev/null | head -n 1)"
for bridge in /sys/class/net/*/bridge; do
  [ -e "$bridge" ] || continue
  bridge=${bridge%/bridge}
  echo "bridge ${bridge##*/}"
done
for directory; do
  # Block size, blocks, free blocks for us.
  room=$(stat -f -c '%S %b %a' "$directory" 2>/dev/null) && echo "room $room $directory"
done
exit 0
