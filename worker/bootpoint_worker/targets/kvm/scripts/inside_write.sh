# Runs in the sandbox, by the guest's own shell: unpacks the archive on standard input, puts files aside, and makes
# initramfs anew. Parameters: tool ("initramfs-tools", "dracut" or "none"), number of versions, versions, files to put aside.
cd / || exit 1
umask 022
tool=$1 count=$2
shift 2
tar -xf - || exit 1
versions=
while [ "$count" -gt 0 ]; do
  versions="$versions $1"
  shift
  count=$((count - 1))
done
for name; do
  if [ -e "$name" ]; then mv -f "$name" "$name.bootpoint-source" || exit 1; fi
done
for version in $versions; do
  case $tool in
    initramfs-tools) update-initramfs -u -k "$version" || exit 1 ;;
    dracut)
      image=boot/initramfs-$version.img
      [ -f "$image" ] || image=boot/initrd.img-$version
      dracut --force --no-hostonly --kver "$version" "/$image" || exit 1
      ;;
  esac
done
exit 0
