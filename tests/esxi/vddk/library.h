/* What the two halves of the stand-in of VMware's disk library share: see disk.c. */

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <openssl/ssl.h>

/* Codes of VIX, as vix.h of open-vm-tools has them. */
enum {
  VIX_OK = 0, VIX_E_FAIL = 1, VIX_E_OUT_OF_MEMORY = 2, VIX_E_INVALID_ARG = 3, VIX_E_FILE_NOT_FOUND = 4,
  VIX_E_NOT_SUPPORTED = 6, VIX_E_FILE_ERROR = 7, VIX_E_DISK_FULL = 8, VIX_E_FILE_ACCESS_ERROR = 13,
  VIX_E_FILE_ALREADY_LOCKED = 15, VIX_E_HOST_USER_PERMISSIONS = 3014, VIX_E_VM_NOT_FOUND = 4000,
  VIX_E_HOST_NETWORK_CONN_REFUSED = 14009, VIX_E_HOST_NOT_CONNECTED = 18000, VIX_ASYNC = 25000,
};

typedef uint64_t VixError;
typedef void VixDiskLibGenericLogFunc (const char *format, va_list arguments);
typedef void (*VixDiskLibCompletionCB) (void *data, VixError result);

typedef struct {
  char *vmxSpec, *serverName, *thumbPrint;
  long reserved1;
  int credType;
  union {
    struct { char *userName, *password; } uid;
    struct { char *cookie, *userName, *key; } sessionId;
  } creds;
  uint32_t port, nfcHostPort;
  char *reserved3;
  char reserved4[8];
  void *reserved5;
  struct { char *id, *datastoreMoRef, *ssId; } spec;
  int specType;
} VixDiskLibConnectParams;

struct connection {
  SSL_CTX *context;
  SSL *tls;
  int fd;
  char *user, *password, *machine, *snapshot, *modes;
  int read_only;
};

/* Nothing of these is for nbdkit. */
#pragma GCC visibility push(hidden)

/* Say what is wrong, as the plugin's log is to have it. */
void complain (const char *format, ...) __attribute__ ((format (printf, 1, 2)));

/* Ask the host for a disk, or without a path only whether it may be asked; its answer is lines of text. */
VixError ask_host (struct connection *connection, const char *path, int read_only, char *answer, size_t room);

#pragma GCC visibility pop
