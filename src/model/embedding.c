#include "model/embedding.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "files/safetensors.h"
#include "files/safetensors_write.h"

enum { VECTORS_LIMIT = 1 << 12 };

static const char *const metadata[] = {"format", "pt"};

static struct entry entry_of(const char *placeholder, const float *rows, int64_t vectors, int64_t dim)
{
    return (struct entry){.name = placeholder,
                          .type = F32,
                          .dimensions = 2,
                          .shape = {vectors, dim},
                          .count = vectors * dim,
                          .data = rows};
}

struct error embedding_write(const char *path, const char *placeholder, const float *rows, int64_t vectors, int64_t dim)
{
    const struct entry entry = entry_of(placeholder, rows, vectors, dim);
    return safetensors_write(path, &entry, 1, metadata, 1);
}

struct error embedding_hash(char text[SHA256_TEXT], const char *placeholder, const float *rows, int64_t vectors,
                            int64_t dim)
{
    const struct entry entry = entry_of(placeholder, rows, vectors, dim);
    char *bytes;
    size_t size;
    struct error e = safetensors_encode(&bytes, &size, &entry, 1, metadata, 1);
    if (e.code == ERROR_NONE)
        e = sha256_bytes(text, bytes, (int64_t)size);
    free(bytes);
    return e;
}

/* Numbers of 64 bits may be infinite as floats. */
static struct error read_rows(struct embedding *e, const struct entry *t, const char *path)
{
    dtype_to_float(e->rows, t->data, t->type, t->count);
    if (!dtype_finite(e->rows, F32, t->count))
        return error_input("%s: tensor %s: holds a value that is not a number (or infinite); expected a learned word",
                           path, t->name);
    return ok();
}

struct error embedding_read(struct embedding *e, const char *path)
{
    *e = (struct embedding){0};
    struct safetensors file;
    TRY(safetensors_open(&file, path));
    const struct entry *t = file.entry_count == 1 ? file.entries : NULL;
    struct error error = ok();
    if (!t)
        error = error_input("%s: holds %lld tensors; a learned word is one tensor [vectors, dim]", path,
                            (long long)file.entry_count);
    else if (t->dimensions < 1 || t->dimensions > 2 || t->count == 0 ||
             (t->dimensions == 2 && t->shape[0] > VECTORS_LIMIT))
        error = error_input("%s: tensor %s: expected shape [vectors, dim]", path, t->name);
    else if (!dtype_is_weight(t->type) && t->type != F64)
        error = error_input("%s: tensor %s: %s, expected a float type", path, t->name, dtype_name(t->type));
    else {
        e->vectors = t->dimensions == 2 ? t->shape[0] : 1;
        e->dim = t->count / e->vectors;
        e->placeholder = memory_string(t->name);
        e->rows = memory_alloc(t->count, sizeof *e->rows);
        if (e->rows && e->placeholder)
            error = read_rows(e, t, path);
        else
            error = error_memory("a learned word");
    }
    safetensors_close(&file);
    if (error.code != ERROR_NONE)
        embedding_free(e);
    return error;
}

void embedding_free(struct embedding *e)
{
    memory_free(e->placeholder);
    memory_free(e->rows);
    e->placeholder = NULL;
    e->rows = NULL;
}

bool embedding_is(const char *path, const char *placeholder, const float *rows, int64_t vectors, int64_t dim)
{
    struct embedding found;
    if (embedding_read(&found, path).code != ERROR_NONE)
        return false;
    bool same = strcmp(found.placeholder, placeholder) == 0 && found.vectors == vectors && found.dim == dim &&
                memcmp(found.rows, rows, (size_t)(vectors * dim) * sizeof *rows) == 0;
    embedding_free(&found);
    return same;
}
