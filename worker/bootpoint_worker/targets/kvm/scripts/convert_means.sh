# Print what conversions lack on this host, one "missing TOOL" a line.
for tool in bwrap unshare losetup qemu-storage-daemon prlimit timeout base64 mcopy virt-v2v-in-place; do
  command -v "$tool" >/dev/null 2>&1 || echo "missing $tool"
done
[ -c /dev/fuse ] || echo "missing /dev/fuse"
[ "$(uname -m)" = x86_64 ] || echo "missing x86_64"
qemu-storage-daemon --help 2>/dev/null | grep -q 'fuse,id=' || echo "missing fuse"
bwrap --unshare-user --ro-bind / / true >/dev/null 2>&1 || echo "missing namespaces"
exit 0
