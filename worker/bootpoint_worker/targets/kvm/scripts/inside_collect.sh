# Runs in the sandbox, by the guest's own shell: writes an archive of its configuration to standard output.
cd / || exit 1
umask 077
mkdir -p run/bootpoint
{
  for tool in update-initramfs dracut lsinitramfs lsinitrd netplan ifup; do
    command -v "$tool" >/dev/null 2>&1 && echo "tool $tool"
  done
  for service in etc/systemd/system/*.wants/NetworkManager.service etc/systemd/system/*.wants/systemd-networkd.service; do
    [ -L "$service" ] && echo "enabled ${service##*/}"
  done
  wanted='virtio_pci|virtio_blk|virtio_scsi|virtio_net|ahci|ata_piix|vmw_pvscsi|vmxnet3|mptspi|mptsas|nvme|hv_vmbus|hv_storvsc|hv_netvsc'
  for folder in lib/modules/*/; do
    version=${folder%/}
    version=${version##*/}
    [ -f "$folder/modules.dep" ] || continue
    echo "kernel $version"
    cut -d: -f1 <"$folder/modules.dep" | grep -oE "($wanted)\.ko" | sed "s/\.ko\$//; s/^/module $version /"
    grep -oE "($wanted)\.ko" <"$folder/modules.builtin" 2>/dev/null | sed "s/\.ko\$//; s/^/has $version /"
    for image in "boot/initrd.img-$version" "boot/initramfs-$version.img" "boot/initrd-$version"; do
      [ -f "$image" ] || continue
      echo "initramfs $version /$image"
      { lsinitramfs "$image" || lsinitrd "$image"; } 2>/dev/null | grep -oE "/($wanted)\.ko" | sort -u |
        sed "s/\.ko\$//; s/^\//has $version /"
      break
    done
  done
} >run/bootpoint/facts
set -- run/bootpoint/facts
for name in etc/fstab etc/crypttab etc/os-release usr/lib/os-release etc/default/grub etc/default/grub.d/*.cfg \
  etc/kernel/cmdline etc/lilo.conf etc/initramfs-tools/modules etc/initramfs-tools/conf.d/* etc/dracut.conf.d/*.conf \
  boot/grub/grub.cfg boot/grub/custom.cfg boot/grub/menu.lst boot/grub/grub.conf boot/grub/device.map boot/grub/grubenv \
  boot/grub2/grub.cfg boot/grub2/custom.cfg boot/grub2/device.map boot/grub2/grubenv boot/loader/entries/*.conf \
  etc/network/interfaces etc/network/interfaces.d/* etc/netplan/*.yaml etc/netplan/*.yml etc/systemd/network/* \
  etc/NetworkManager/system-connections/* etc/sysconfig/network-scripts/ifcfg-* etc/udev/rules.d/*net*.rules; do
  # Only regular files, links to them followed, of a size that configuration has.
  [ -f "$name" ] && [ -r "$name" ] && [ "$(stat -L -c %s "$name")" -le 524288 ] && set -- "$@" "$name"
done
tar -chf - "$@"
