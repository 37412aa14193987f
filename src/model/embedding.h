/* model/embedding.h
 *
 * A learned word as a file: {placeholder: F32 [vectors, dim]}, metadata format=pt. diffusers' load_textual_inversion,
 * AUTOMATIC1111 and ComfyUI read it as it is.
 */
#ifndef ZOODIP_MODEL_EMBEDDING_H
#define ZOODIP_MODEL_EMBEDDING_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "files/sha256.h"

struct embedding {
    char *placeholder;
    int64_t vectors, dim;
    float *rows; /* [vectors, dim] */
};

/* Writes rows [vectors, dim], whole or not at all. */
struct error embedding_write(const char *path, const char *placeholder, const float *rows, int64_t vectors,
                             int64_t dim);

/* The SHA-256 of the file that embedding_write would write. */
struct error embedding_hash(char text[SHA256_TEXT], const char *placeholder, const float *rows, int64_t vectors,
                            int64_t dim);

/* Reads a file that holds one tensor [vectors, dim] or [dim], of any float type and finite numbers. Free with
 * embedding_free. */
struct error embedding_read(struct embedding *e, const char *path);
void embedding_free(struct embedding *e);

/* Whether a file can be read and holds exactly this word. */
bool embedding_is(const char *path, const char *placeholder, const float *rows, int64_t vectors, int64_t dim);

#endif
