/*
 * A stand-in of VMware's virtual disk library (VDDK), for nbdkit's vddk plugin and the host in server.py.
 *
 * The functions and structures are those of the library's public interface, as far as the plugin calls them ("Virtual
 * Disk API", developer.broadcom.com; nbdkit's plugins/vddk/vddk-stubs.h and vddk-structs.h say which, and how they are
 * laid out). Behind them is no protocol of VMware's: the library connects to the host's port over TLS, compares the
 * certificate's thumbprint, and asks for a disk (connection.c). The answer names the socket of an NBD server, which is
 * used as long as the disk is open; the connection stays open meanwhile, and its end lets the host close the disk
 * (lease.py).
 *
 * cc -shared -fPIC -o lib64/libvixDiskLib.so.8 connection.c disk.c -lnbd -lssl -lcrypto
 */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libnbd.h>

#include "library.h"

enum { SECTOR = 512, READ_ONLY = 4 };

/* Bytes that one NBD_CMD_BLOCK_STATUS asks about: its length has 32 bits. */
#define STATUS_SPAN (UINT64_C (1) << 30)

typedef struct {
  uint32_t biosGeo[3], physGeo[3];
  uint64_t capacity;
  int adapterType, numLinks;
  char *parentFileNameHint, *uuid;
  uint32_t logicalSectorSize, physicalSectorSize;
} VixDiskLibInfo;

typedef struct { uint64_t offset, length; } VixDiskLibBlock;
typedef struct { uint32_t numBlocks; VixDiskLibBlock blocks[]; } VixDiskLibBlockList;

struct disk {
  struct nbd_handle *nbd;
  struct connection *connection;
  uint64_t size;
  int links;
};

VixError
VixDiskLib_Open (struct connection *connection, const char *path, uint32_t flags, struct disk **result)
{
  char answer[1024], where[512];
  struct disk *disk;
  VixError error;

  error = ask_host (connection, path, connection->read_only || flags & READ_ONLY, answer, sizeof answer);
  if (error != VIX_OK)
    return error;
  disk = calloc (1, sizeof *disk);
  if (!disk)
    return VIX_E_OUT_OF_MEMORY;
  disk->connection = connection;
  if (sscanf (answer, "%511s %" SCNu64 " %d", where, &disk->size, &disk->links) == 3 &&
      (disk->nbd = nbd_create ()) && nbd_add_meta_context (disk->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) == 0 &&
      nbd_connect_unix (disk->nbd, where) == 0) {
    *result = disk;
    return VIX_OK;
  }
  complain ("%s", nbd_get_error ());
  nbd_close (disk->nbd);
  free (disk);
  return VIX_E_FILE_ERROR;
}

VixError
VixDiskLib_Close (struct disk *disk)
{
  nbd_shutdown (disk->nbd, 0);
  nbd_close (disk->nbd);
  free (disk);
  return VIX_OK;
}

VixError
VixDiskLib_GetInfo (struct disk *disk, VixDiskLibInfo **result)
{
  *result = calloc (1, sizeof **result);
  if (!*result)
    return VIX_E_OUT_OF_MEMORY;
  (*result)->capacity = disk->size / SECTOR;
  (*result)->numLinks = disk->links;
  (*result)->logicalSectorSize = (*result)->physicalSectorSize = SECTOR;
  return VIX_OK;
}

void
VixDiskLib_FreeInfo (VixDiskLibInfo *info)
{
  free (info);
}

const char *
VixDiskLib_GetTransportMode (struct disk *disk)
{
  return strstr (disk->connection->modes, "nbdssl") || !*disk->connection->modes ? "nbdssl" : "nbd";
}

static VixError
outcome (int result)
{
  if (result == 0)
    return VIX_OK;
  complain ("%s", nbd_get_error ());
  switch (nbd_get_errno ()) {
  case ENOSPC:
    return VIX_E_DISK_FULL;
  case EPERM:
    return VIX_E_FILE_ACCESS_ERROR;
  case EPIPE:
  case ECONNRESET:
  case ENOTCONN:
    return VIX_E_HOST_NETWORK_CONN_REFUSED;
  default:
    return VIX_E_FILE_ERROR;
  }
}

VixError
VixDiskLib_Read (struct disk *disk, uint64_t start, uint64_t count, uint8_t *buffer)
{
  return outcome (nbd_pread (disk->nbd, buffer, count * SECTOR, start * SECTOR, 0));
}

VixError
VixDiskLib_Write (struct disk *disk, uint64_t start, uint64_t count, const uint8_t *buffer)
{
  return outcome (nbd_pwrite (disk->nbd, buffer, count * SECTOR, start * SECTOR, 0));
}

/* What is asked for is done at once, and said to be done before the call returns. */
VixError
VixDiskLib_ReadAsync (struct disk *disk, uint64_t start, uint64_t count, uint8_t *buffer, VixDiskLibCompletionCB done,
                      void *data)
{
  done (data, VixDiskLib_Read (disk, start, count, buffer));
  return VIX_ASYNC;
}

VixError
VixDiskLib_WriteAsync (struct disk *disk, uint64_t start, uint64_t count, const uint8_t *buffer,
                       VixDiskLibCompletionCB done, void *data)
{
  done (data, VixDiskLib_Write (disk, start, count, buffer));
  return VIX_ASYNC;
}

VixError
VixDiskLib_Wait (struct disk *disk)
{
  return VIX_OK;
}

VixError
VixDiskLib_Flush (struct disk *disk)
{
  return outcome (nbd_flush (disk->nbd, 0));
}

/* --- which blocks are there --- */

struct search {
  VixDiskLibBlockList *list;
  uint64_t chunk, position;
};

/* Note a stretch of the disk, in whole chunks: one that touches the last that was noted makes that longer. */
static void
note (struct search *search, uint64_t offset, uint64_t length)
{
  uint64_t first = offset / search->chunk * search->chunk;
  uint64_t end = (offset + length + search->chunk - 1) / search->chunk * search->chunk;
  VixDiskLibBlock *last = search->list->numBlocks ? &search->list->blocks[search->list->numBlocks - 1] : NULL;

  if (last && first <= last->offset + last->length) {
    if (end > last->offset + last->length)
      last->length = end - last->offset;
    return;
  }
  search->list->blocks[search->list->numBlocks++] = (VixDiskLibBlock) { first, end - first };
}

static int
take_extents (void *data, const char *context, uint64_t offset, uint32_t *entries, size_t count, int *error)
{
  struct search *search = data;

  for (size_t i = 0; i + 1 < count; i += 2) {
    if (!(entries[i + 1] & LIBNBD_STATE_ZERO))
      note (search, search->position / SECTOR, entries[i] / SECTOR);
    search->position += entries[i];
  }
  return 0;
}

VixError
VixDiskLib_QueryAllocatedBlocks (struct disk *disk, uint64_t start, uint64_t count, uint64_t chunk,
                                 VixDiskLibBlockList **result)
{
  struct search search = { .chunk = chunk, .position = start * SECTOR };
  uint64_t end = (start + count) * SECTOR;
  nbd_extent_callback callback = { .callback = take_extents, .user_data = &search };

  if (!nbd_can_meta_context (disk->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION))
    return VIX_E_NOT_SUPPORTED;
  if (end > disk->size)
    end = disk->size;
  search.list = calloc (1, sizeof *search.list + (count / chunk + 1) * sizeof (VixDiskLibBlock));
  if (!search.list)
    return VIX_E_OUT_OF_MEMORY;
  while (search.position < end) {
    uint64_t span = end - search.position;

    if (nbd_block_status (disk->nbd, span < STATUS_SPAN ? span : STATUS_SPAN, search.position, callback, 0) == -1) {
      free (search.list);
      return outcome (-1);
    }
  }
  *result = search.list;
  return VIX_OK;
}

VixError
VixDiskLib_FreeBlockList (VixDiskLibBlockList *list)
{
  free (list);
  return VIX_OK;
}

/* The plugin makes disks only in local files, with its option "create". */
VixError
VixDiskLib_Create (struct connection *connection, const char *path, const void *parameters, void *progress, void *data)
{
  return VIX_E_NOT_SUPPORTED;
}
