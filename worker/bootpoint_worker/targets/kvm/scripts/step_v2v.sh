# Convert by virt-v2v-in-place. $1 directory, $2 work directory, $3 this text, $4 how VMs run here ("kvm" or "qemu"), $5 ISO of
# drivers for Windows or nothing, $6 libvirt's XML with the layers.
set -u
umask 077
export LC_ALL=C PATH="$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
work=$2
# What was broken off half-way (the host was restarted) is not gone on with.
[ ! -e "$work/began" ] || { echo "it was broken off" >&2; exit 1; }
: >"$work/began"
mkdir -p "$work/tmp" "$work/home" || exit 1
export LIBGUESTFS_BACKEND=direct TMPDIR="$work/tmp" HOME="$work/home" LIBGUESTFS_CACHEDIR=/var/tmp
[ "$4" = kvm ] || export LIBGUESTFS_BACKEND_SETTINGS=force_tcg
[ -z "$5" ] || export VIRTIO_WIN="$5"
printf %s "$6" >"$work/machine.xml"
exec </dev/null
virt-v2v-in-place -i libvirtxml "$work/machine.xml" 2>&1
code=$?
exit "$code"
