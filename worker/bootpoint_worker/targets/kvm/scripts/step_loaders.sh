# Print the files of an EFI partition, or copy some of them. Parameters: filter, script for the sandbox, offset of the
# partition, then FROM TO for each copy.
filter=$1 script=$2 offset=$3
shift 3
devices
tool_sandbox "$filter" 0 --setenv MTOOLS_SKIP_CHECK 1 /bin/sh -c "$script" loaders "/disk@@$offset" "$@" </dev/null \
  2>"$work/sandbox.log" >"$work/answer"
code=$?
head -c 1048576 "$work/answer"
if [ "$code" -ne 0 ]; then
  tail -c 1000 "$work/sandbox.log" | tr -cd '\11\12\40-\176' >&2
  exit 1
fi
