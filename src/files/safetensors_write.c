#include "files/safetensors_write.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/progress.h"
#include "files/file.h"

enum { DATA_ALIGNMENT = 64 };

/* Wide numbers first, so that each lies at a multiple of its size; then by name. */
static int compare_for_file(const void *a, const void *b)
{
    const struct entry *x = *(const struct entry *const *)a, *y = *(const struct entry *const *)b;
    int64_t wider = dtype_size(y->type) - dtype_size(x->type);
    return wider != 0 ? (int)wider : strcmp(x->name, y->name);
}

static bool add_sizes(cJSON *object, const char *key, const int64_t *sizes, int count)
{
    cJSON *list = cJSON_AddArrayToObject(object, key);
    bool good = list;
    for (int i = 0; i < count && good; i++)
        good = cJSON_AddItemToArray(list, cJSON_CreateNumber((double)sizes[i]));
    return good;
}

static bool add_strings(cJSON *object, const char *const *pairs, int64_t count)
{
    bool good = object;
    for (int64_t i = 0; i < count && good; i++)
        good = cJSON_AddStringToObject(object, pairs[2 * i], pairs[2 * i + 1]);
    return good;
}

/* The header as text, or NULL when out of memory. Free with cJSON_free. */
static char *make_header(const struct entry *const *entries, int64_t count, const char *const *metadata,
                         int64_t metadata_count)
{
    cJSON *root = cJSON_CreateObject();
    bool good = root;
    if (good && metadata_count > 0)
        good = add_strings(cJSON_AddObjectToObject(root, "__metadata__"), metadata, metadata_count);
    int64_t offsets[2] = {0, 0};
    for (int64_t i = 0; i < count && good; i++) {
        const struct entry *entry = entries[i];
        offsets[1] = offsets[0] + entry_bytes(entry);
        cJSON *object = cJSON_AddObjectToObject(root, entry->name);
        good = object && cJSON_AddStringToObject(object, "dtype", dtype_name(entry->type)) &&
               add_sizes(object, "shape", entry->shape, entry->dimensions) &&
               add_sizes(object, "data_offsets", offsets, 2);
        offsets[0] = offsets[1];
    }
    char *text = good ? cJSON_PrintUnformatted(root) : NULL;
    cJSON_Delete(root);
    return text;
}

/* progress: NULL for none. */
static void write_parts(FILE *stream, const char *header, const struct entry *const *entries, int64_t count,
                        struct progress *progress)
{
    int64_t written = 0;
    uint64_t length = strlen(header), padded = (length + 8 + DATA_ALIGNMENT - 1) / DATA_ALIGNMENT * DATA_ALIGNMENT - 8;
    for (int i = 0; i < 8; i++)
        fputc((int)(padded >> 8 * i & 255), stream);
    fwrite(header, 1, length, stream);
    for (; length < padded; length++)
        fputc(' ', stream);
    for (int64_t i = 0; i < count; i++) {
        if (entries[i]->count)
            fwrite(entries[i]->data, (size_t)dtype_size(entries[i]->type), (size_t)entries[i]->count, stream);
        written += entry_bytes(entries[i]);
        if (progress)
            progress_step(progress, written / PROGRESS_MEGABYTE, "");
    }
}

static struct error write_file(const char *path, const char *header, const struct entry *const *entries, int64_t count)
{
    struct whole_file file;
    struct progress progress;
    char what[200];
    int64_t bytes = 0;
    for (int64_t i = 0; i < count; i++)
        bytes += entry_bytes(entries[i]);
    TRY(whole_file_begin(&file, path));
    snprintf(what, sizeof what, "writing %s", path_name(path));
    progress_phase(&progress, what, bytes / PROGRESS_MEGABYTE, "MB");
    write_parts(file.stream, header, entries, count, &progress);
    struct error e = whole_file_end(&file, true); /* which notices earlier errors of the stream */
    progress_end(&progress);
    return e;
}

/* What a file is made of. */
struct parts {
    const struct entry **sorted; /* [count] */
    char *header;
    int64_t count;
};

/* what: is being made, for the error. Free with parts_free, after an error too. */
static struct error parts_new(struct parts *p, const char *what, const struct entry *entries, int64_t entry_count,
                              const char *const *metadata, int64_t metadata_count)
{
    *p = (struct parts){.sorted = memory_alloc(entry_count, sizeof *p->sorted), .count = entry_count};
    if (!p->sorted)
        return error_memory(what);
    for (int64_t i = 0; i < entry_count; i++)
        p->sorted[i] = &entries[i];
    if (entry_count)
        qsort(p->sorted, (size_t)entry_count, sizeof *p->sorted, compare_for_file);
    p->header = make_header(p->sorted, entry_count, metadata, metadata_count);
    return p->header ? ok() : error_memory(what);
}

static void parts_free(struct parts *p)
{
    cJSON_free(p->header);
    memory_free(p->sorted);
}

struct error safetensors_write(const char *path, const struct entry *entries, int64_t entry_count,
                               const char *const *metadata, int64_t metadata_count)
{
    struct parts p;
    struct error e = parts_new(&p, path, entries, entry_count, metadata, metadata_count);
    if (e.code == ERROR_NONE)
        e = write_file(path, p.header, p.sorted, entry_count);
    parts_free(&p);
    return e;
}

struct error safetensors_encode(char **bytes, size_t *size, const struct entry *entries, int64_t entry_count,
                                const char *const *metadata, int64_t metadata_count)
{
    static const char what[] = "a file of tensors";
    struct parts p;
    *bytes = NULL;
    struct error e = parts_new(&p, what, entries, entry_count, metadata, metadata_count);
    FILE *stream = e.code == ERROR_NONE ? open_memstream(bytes, size) : NULL;
    if (stream)
        write_parts(stream, p.header, p.sorted, entry_count, NULL);
    bool failed = !stream || ferror(stream);
    if ((stream && fclose(stream) != 0) || failed)
        e = error_first(e, error_memory(what));
    parts_free(&p);
    return e;
}
