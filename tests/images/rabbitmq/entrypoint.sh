#!/bin/sh
# As the official image: the data belongs to rabbitmq, which the server runs as; variables that it has dropped are refused.
set -eu
for dropped in RABBITMQ_DEFAULT_PASS_FILE RABBITMQ_DEFAULT_USER_FILE RABBITMQ_VM_MEMORY_HIGH_WATERMARK; do
  if [ -n "$(printenv "$dropped")" ]; then
    echo "error: $dropped is set but deprecated" >&2
    exit 1
  fi
done
# Debian's wrapper would keep signals to itself as process 1; told so, the script becomes the node.
[ "$1" != rabbitmq-server ] || set -- /usr/lib/rabbitmq/bin/rabbitmq-server
export RUNNING_UNDER_SYSTEMD=true
chown -R rabbitmq: /var/lib/rabbitmq
exec setpriv --reuid rabbitmq --regid rabbitmq --init-groups -- "$@"
