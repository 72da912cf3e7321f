# Runs in the sandbox of the host's tools. Parameters: the EFI partition as mtools names it, then FROM TO for each copy;
# without any, lists its files.
partition=$1
shift
if [ "$#" -eq 0 ]; then
  mdir -i "$partition" -/ -b ::/ | sed 's/^:://; s/^\///'
  exit 0
fi
mmd -i "$partition" -D s ::/EFI/BOOT 2>/dev/null
while [ "$#" -ge 2 ]; do
  mcopy -n -i "$partition" "::/$1" /tmp/loader && mcopy -n -o -i "$partition" /tmp/loader "::/$2" || exit 1
  rm -f /tmp/loader
  shift 2
done
exit 0
