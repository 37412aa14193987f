/* files/sha256.h
 *
 * SHA-256, by OpenSSL's libcrypto: what other programs know a file of weights or a learned word by.
 */
#ifndef ZOODIP_FILES_SHA256_H
#define ZOODIP_FILES_SHA256_H

#include <stdint.h>

#include "base/error.h"

enum { SHA256_TEXT = 65 }; /* its 64 hexadecimal digits as text */

struct error sha256_bytes(char text[SHA256_TEXT], const void *bytes, int64_t size);

/* Of a regular file; of a large one it shows how far it is. */
struct error sha256_file(char text[SHA256_TEXT], const char *path);

#endif
