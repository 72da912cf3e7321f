/*
 * The library itself, its codes, and its connection to the host: TLS with the certificate's thumbprint, a login, and
 * the question for a disk.
 */

#define _GNU_SOURCE

#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include <sys/socket.h>

#include <openssl/evp.h>
#include <openssl/x509.h>

#include "library.h"

enum { CREDENTIALS_OF_USER = 1, HTTPS = 443 };

static VixDiskLibGenericLogFunc *warn_function;

void
complain (const char *format, ...)
{
  va_list arguments;

  if (!warn_function)
    return;
  va_start (arguments, format);
  warn_function (format, arguments);
  va_end (arguments);
}

/* --- the library --- */

VixError
VixDiskLib_InitEx (uint32_t major, uint32_t minor, VixDiskLibGenericLogFunc *log, VixDiskLibGenericLogFunc *warning,
                   VixDiskLibGenericLogFunc *panic, const char *directory, const char *configuration)
{
  warn_function = warning;
  return VIX_OK;
}

void
VixDiskLib_Exit (void)
{
}

char *
VixDiskLib_GetErrorText (VixError error, const char *locale)
{
  static const struct { VixError code; const char *text; } texts[] = {
    { VIX_E_FILE_NOT_FOUND, "A file was not found" },
    { VIX_E_NOT_SUPPORTED, "The operation is not supported" },
    { VIX_E_FILE_ERROR, "A file access error occurred on the host or guest operating system" },
    { VIX_E_DISK_FULL, "An error occurred while writing a file; the disk is full" },
    { VIX_E_FILE_ACCESS_ERROR, "You do not have access rights to this file" },
    { VIX_E_FILE_ALREADY_LOCKED, "The file is already in use" },
    { VIX_E_HOST_USER_PERMISSIONS, "Insufficient permissions in the host operating system" },
    { VIX_E_VM_NOT_FOUND, "The virtual machine cannot be found" },
    { VIX_E_HOST_NETWORK_CONN_REFUSED, "The server refused connection" },
    { VIX_E_HOST_NOT_CONNECTED, "Cannot connect to host" },
  };

  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
    if (texts[i].code == error)
      return strdup (texts[i].text);
  return strdup ("Unknown error");
}

void
VixDiskLib_FreeErrorText (char *text)
{
  free (text);
}

const char *
VixDiskLib_ListTransportModes (void)
{
  return "nbdssl:nbd";
}

VixDiskLibConnectParams *
VixDiskLib_AllocateConnectParams (void)
{
  return calloc (1, sizeof (VixDiskLibConnectParams));
}

/* The plugin fills the strings in, and keeps them. */
void
VixDiskLib_FreeConnectParams (VixDiskLibConnectParams *parameters)
{
  free (parameters);
}

/* --- the connection --- */

static int
open_socket (const char *name, uint32_t port)
{
  struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found, *each;
  char service[16];
  int fd = -1;

  snprintf (service, sizeof service, "%" PRIu32, port ? port : HTTPS);
  if (getaddrinfo (name, service, &hints, &found) != 0)
    return -1;
  for (each = found; each && fd == -1; each = each->ai_next) {
    fd = socket (each->ai_family, each->ai_socktype | SOCK_CLOEXEC, each->ai_protocol);
    if (fd != -1 && connect (fd, each->ai_addr, each->ai_addrlen) == -1) {
      close (fd);
      fd = -1;
    }
  }
  freeaddrinfo (found);
  return fd;
}

/* Compare the certificate's SHA-1 with a thumbprint: hexadecimal digits in any case, with or without colons. */
static int
is_expected (SSL *tls, const char *thumbprint)
{
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  X509 *certificate = SSL_get1_peer_certificate (tls);
  char text[3];

  if (!certificate)
    return 0;
  X509_digest (certificate, EVP_sha1 (), digest, &length);
  X509_free (certificate);
  for (unsigned int i = 0; i < length; i++) {
    snprintf (text, sizeof text, "%02x", digest[i]);
    thumbprint += strspn (thumbprint, ":");
    if (strncasecmp (thumbprint, text, 2) != 0)
      return 0;
    thumbprint += 2;
  }
  return *thumbprint == '\0';
}

static VixError
open_tls (struct connection *connection, const VixDiskLibConnectParams *parameters)
{
  connection->fd = open_socket (parameters->serverName, parameters->port);
  if (connection->fd == -1) {
    complain ("Cannot connect to %s: %s", parameters->serverName, strerror (errno));
    return VIX_E_HOST_NOT_CONNECTED;
  }
  connection->context = SSL_CTX_new (TLS_client_method ());
  connection->tls = SSL_new (connection->context);
  SSL_set_fd (connection->tls, connection->fd);
  if (SSL_connect (connection->tls) != 1) {
    complain ("Cannot connect to %s: no TLS", parameters->serverName);
    return VIX_E_HOST_NOT_CONNECTED;
  }
  if (!parameters->thumbPrint || !is_expected (connection->tls, parameters->thumbPrint)) {
    complain ("SSL: the certificate of %s has another thumbprint than %s", parameters->serverName,
          parameters->thumbPrint ? parameters->thumbPrint : "(none)");
    return VIX_E_HOST_NOT_CONNECTED;
  }
  return VIX_OK;
}

/* Read an answer: its header up to the empty line, then as many bytes as it says. */
static int
read_answer (SSL *tls, char *body, size_t room, int *status)
{
  char header[4096];
  size_t have = 0, length = 0, got = 0;
  const char *field;

  while (have < sizeof header - 1 && (have < 4 || memcmp (header + have - 4, "\r\n\r\n", 4) != 0)) {
    if (SSL_read (tls, header + have, 1) != 1)
      return -1;
    have++;
  }
  header[have] = '\0';
  field = strcasestr (header, "\r\nContent-Length:");
  if (sscanf (header, "HTTP/1.1 %d", status) != 1 || !field || sscanf (field + 17, "%zu", &length) != 1 ||
      length >= room)
    return -1;
  while (got < length) {
    int count = SSL_read (tls, body + got, (int) (length - got));
    if (count <= 0)
      return -1;
    got += (size_t) count;
  }
  body[got] = '\0';
  return 0;
}

VixError
ask_host (struct connection *connection, const char *path, int read_only, char *answer, size_t room)
{
  char *body, *request;
  int status, length;
  VixError error = VIX_E_FAIL;

  length = asprintf (&body, "%s\n%s\n%s\n%s\n%s\n%s\n", connection->user, connection->password, connection->machine,
                     connection->snapshot, path, read_only ? "read" : "write");
  if (length == -1)
    return VIX_E_OUT_OF_MEMORY;
  length = asprintf (&request, "POST /disk HTTP/1.1\r\nHost: host\r\nContent-Length: %d\r\n\r\n%s", length, body);
  free (body);
  if (length == -1)
    return VIX_E_OUT_OF_MEMORY;
  if (SSL_write (connection->tls, request, length) != length ||
      read_answer (connection->tls, answer, room, &status) == -1)
    error = VIX_E_HOST_NETWORK_CONN_REFUSED;
  else if (status == 200)
    error = VIX_OK;
  else if (sscanf (answer, "%" SCNu64, &error) == 1 && strchr (answer, '\n'))
    complain ("%s", strchr (answer, '\n') + 1);
  free (request);
  return error;
}

static char *
copy (const char *text)
{
  return strdup (text ? text : "");
}

VixError
VixDiskLib_Disconnect (struct connection *connection)
{
  char nothing[16];
  int count;

  if (connection->tls) {
    /* The host ends the connection when it has closed the disk: whoever has closed it finds it unlocked. A signal may
     * come in between. */
    if (SSL_shutdown (connection->tls) >= 0)
      do
        count = SSL_read (connection->tls, nothing, sizeof nothing);
      while (count > 0 || SSL_get_error (connection->tls, count) == SSL_ERROR_WANT_READ);
    SSL_free (connection->tls);
  }
  if (connection->context)
    SSL_CTX_free (connection->context);
  if (connection->fd != -1)
    close (connection->fd);
  free (connection->user);
  free (connection->password);
  free (connection->machine);
  free (connection->snapshot);
  free (connection->modes);
  free (connection);
  return VIX_OK;
}

VixError
VixDiskLib_ConnectEx (const VixDiskLibConnectParams *parameters, char read_only, const char *snapshot,
                      const char *modes, struct connection **result)
{
  char answer[1024];
  struct connection *connection;
  VixError error;

  if (!parameters || !parameters->vmxSpec || strncmp (parameters->vmxSpec, "moref=", 6) != 0 ||
      parameters->credType != CREDENTIALS_OF_USER)
    return VIX_E_INVALID_ARG;
  connection = calloc (1, sizeof *connection);
  if (!connection)
    return VIX_E_OUT_OF_MEMORY;
  connection->user = copy (parameters->creds.uid.userName);
  connection->password = copy (parameters->creds.uid.password);
  connection->machine = copy (parameters->vmxSpec + 6);
  connection->snapshot = copy (snapshot);
  connection->modes = copy (modes);
  connection->read_only = read_only;
  error = open_tls (connection, parameters);
  if (error == VIX_OK)
    error = ask_host (connection, "", read_only, answer, sizeof answer);
  if (error != VIX_OK) {
    VixDiskLib_Disconnect (connection);
    return error;
  }
  *result = connection;
  return VIX_OK;
}
