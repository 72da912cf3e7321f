# Print what this host has, one "WORD VALUE" a line. Parameters: directories whose room is asked for.
for tool in qemu-img qemu-nbd flock sync sha256sum setsid timeout nc; do
  command -v "$tool" >/dev/null 2>&1 || echo "missing $tool"
done
echo "qemu-img $(qemu-img --version 2>/dev/null | head -n 1)"
for bridge in /sys/class/net/*/bridge; do
  [ -e "$bridge" ] || continue
  bridge=${bridge%/bridge}
  bridge=${bridge##*/}
  case $bridge in
    # Container engines make and remove these as they like: no standby belongs there.
    docker[0-9]* | podman[0-9]* | cni[0-9]* | cni-podman[0-9]*) continue ;;
  esac
  expr "x$bridge" : 'xbr-[0-9a-f]\{12\}$' >/dev/null || echo "bridge $bridge"
done
for directory; do
  # Block size, blocks, free blocks for us.
  room=$(stat -f -c '%S %b %a' "$directory" 2>/dev/null) && echo "room $room $directory"
done
exit 0
