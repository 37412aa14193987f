#include "files/safetensors.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/memory.h"
#include "files/attempts.h"
#include "files/file.h"
#include "files/json.h"

enum { HEADER_LIMIT = 100 << 20 };

/* One file: its bytes, and its parsed header, which owns names and metadata. */
struct mapping {
    const unsigned char *start;
    int64_t size;
    cJSON *header;
};

/* Where a tensor lies in a file's data, to see overlaps and holes. */
struct span {
    int64_t begin, end;
    const char *name;
};

static struct error tensor_wrong(const char *path, const char *name, const char *text)
{
    return error_input("%s: tensor %.160s: %s", path, name, text);
}

/* What torch.save writes, since 1.6 and before. */
static bool is_pickled(const unsigned char *start)
{
    return memcmp(start, "PK\3\4", 4) == 0 || (start[0] == 0x80 && start[1] >= 2 && start[1] <= 5);
}

static struct error read_header(struct mapping *map, const char *path, int64_t *data_at)
{
    if (map->size < 8)
        return error_input("%s: has %lld bytes, too few for a safetensors file", path, (long long)map->size);
    TRY(file_check_content(path, map->start, map->size));
    uint64_t length = 0;
    for (int i = 7; i >= 0; i--)
        length = length << 8 | map->start[i];
    if ((length > HEADER_LIMIT || (int64_t)length > map->size - 8) && is_pickled(map->start))
        return error_input(
            "%s: is pickled, as PyTorch's .bin, .ckpt and .pt are, which are not read; expected safetensors (in "
            "Python: "
            "safetensors.torch.save_file(TENSORS, FILE), where TENSORS are torch.load's, its \"state_dict\", or of a "
            "learned word its \"string_to_param\")",
            path);
    if (length > HEADER_LIMIT)
        return error_input("%s: is not a safetensors file (a header of %llu bytes, expected at most %d)", path,
                           (unsigned long long)length, HEADER_LIMIT);
    if ((int64_t)length > map->size - 8)
        return error_input("%s: is cut short: a header of %llu bytes in a file of %lld", path,
                           (unsigned long long)length, (long long)map->size);
    char *text = memory_alloc((int64_t)length + 1, 1);
    if (!text)
        return error_memory(path);
    memcpy(text, map->start + 8, length);
    char source[PATH_SIZE];
    snprintf(source, sizeof source, "%s: the header", path);
    struct error e = json_parse(&map->header, source, text, (int64_t)length);
    memory_free(text);
    *data_at = 8 + (int64_t)length;
    return e;
}

/* A whole number from 0 that a double holds exactly; no file has a larger one. */
static bool read_size(const cJSON *value, int64_t *out)
{
    if (!cJSON_IsNumber(value) || !(value->valuedouble >= 0 && value->valuedouble <= 0x1p53))
        return false;
    *out = (int64_t)value->valuedouble;
    return (double)*out == value->valuedouble;
}

static struct error read_dtype(enum dtype *type, const char *path, const char *name, const cJSON *value)
{
    if (!cJSON_IsString(value))
        return tensor_wrong(path, name, "dtype is missing or not a string");
    for (int i = 0; i < DTYPE_COUNT; i++) {
        if (strcmp(value->valuestring, dtype_name((enum dtype)i)) != 0)
            continue;
        *type = (enum dtype)i;
        return ok();
    }
    return error_input(
        "%s: tensor %.160s: dtype %.40s is not supported, expected one of F64 F32 F16 BF16 I64 I32 I16 I8 "
        "U8 BOOL",
        path, name, value->valuestring);
}

static struct error read_shape(struct entry *entry, const char *path, const cJSON *value)
{
    if (!cJSON_IsArray(value))
        return tensor_wrong(path, entry->name, "shape is missing or not a list");
    entry->count = 1;
    for (const cJSON *item = value->child; item; item = item->next) {
        if (entry->dimensions == TENSOR_RANKS)
            return tensor_wrong(path, entry->name, "shape has more than 8 dimensions");
        int64_t *size = &entry->shape[entry->dimensions++];
        if (!read_size(item, size))
            return tensor_wrong(path, entry->name, "shape holds something that is not a size");
        if (__builtin_mul_overflow(entry->count, *size, &entry->count))
            return tensor_wrong(path, entry->name, "shape is too large");
    }
    return ok();
}

static struct error read_span(struct span *span, const struct entry *entry, const char *path, const cJSON *value,
                              int64_t data_size)
{
    if (!cJSON_IsArray(value) || cJSON_GetArraySize(value) != 2 || !read_size(value->child, &span->begin) ||
        !read_size(value->child->next, &span->end) || span->begin > span->end)
        return tensor_wrong(path, entry->name, "data_offsets is missing or not a pair [begin, end]");
    if (span->end > data_size)
        return error_input("%s: tensor %.160s: ends at byte %lld of %lld bytes of data: is the file cut short?", path,
                           entry->name, (long long)span->end, (long long)data_size);
    int64_t bytes;
    if (__builtin_mul_overflow(entry->count, dtype_size(entry->type), &bytes) || bytes != span->end - span->begin)
        return error_input("%s: tensor %.160s: has %lld bytes of data, expected %lld numbers of dtype %s", path,
                           entry->name, (long long)(span->end - span->begin), (long long)entry->count,
                           dtype_name(entry->type));
    span->name = entry->name;
    return ok();
}

static bool has_control_characters(const char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            return true;
    return false;
}

/* One "name": {"dtype", "shape", "data_offsets"} of a header. */
static struct error read_entry(struct entry *entry, struct span *span, const char *path, const cJSON *item,
                               int64_t data_size)
{
    static const char *const keys[] = {"dtype", "shape", "data_offsets"};
    const cJSON *values[3] = {NULL};
    entry->name = item->string;
    if (has_control_characters(item->string))
        return tensor_wrong(path, item->string, "the name holds control characters");
    if (!cJSON_IsObject(item))
        return tensor_wrong(path, item->string, "expected an object of dtype, shape and data_offsets");
    for (const cJSON *member = item->child; member; member = member->next) {
        for (int i = 0; i < 3; i++) {
            if (strcmp(member->string, keys[i]) != 0)
                continue;
            if (values[i])
                return error_input("%s: tensor %.160s: %s is given twice", path, item->string, keys[i]);
            values[i] = member;
        }
    }
    TRY(read_dtype(&entry->type, path, entry->name, values[0]));
    TRY(read_shape(entry, path, values[1]));
    return read_span(span, entry, path, values[2], data_size);
}

static struct error read_metadata(struct safetensors *file, const char *path, const cJSON *object)
{
    if (!cJSON_IsObject(object))
        return error_input("%s: __metadata__ is not an object", path);
    int64_t more = cJSON_GetArraySize(object), had = file->metadata_count;
    char **pairs = memory_alloc(2 * (had + more), sizeof *pairs);
    if (!pairs)
        return error_memory(path);
    if (had)
        memcpy(pairs, file->metadata, (size_t)(2 * had) * sizeof *pairs);
    memory_free(file->metadata);
    file->metadata = pairs;
    for (const cJSON *item = object->child; item; item = item->next) {
        if (!cJSON_IsString(item))
            return error_input("%s: __metadata__: %.160s: expected a string", path, item->string);
        pairs[2 * file->metadata_count] = item->string;
        pairs[2 * file->metadata_count++ + 1] = item->valuestring;
    }
    return ok();
}

static int compare_spans(const void *a, const void *b)
{
    const struct span *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

/* The format requires every byte of the data to belong to exactly one tensor. */
static struct error check_spans(const char *path, struct span *spans, int64_t count, int64_t data_size)
{
    if (count > 0)
        qsort(spans, (size_t)count, sizeof *spans, compare_spans);
    int64_t end = 0;
    for (int64_t i = 0; i < count; end = spans[i++].end) {
        if (spans[i].begin < end)
            return tensor_wrong(path, spans[i].name, "its data overlaps another tensor's");
        if (spans[i].begin > end)
            return tensor_wrong(path, spans[i].name, "the data before it belongs to no tensor");
    }
    if (end != data_size)
        return error_input("%s: has %lld bytes of data, its tensors %lld", path, (long long)data_size, (long long)end);
    return ok();
}

/* Appends the entries of a mapping to file->entries, which has room for them. */
static struct error read_entries(struct safetensors *file, const struct mapping *map, const char *path, int64_t data_at,
                                 struct span *spans)
{
    int64_t data_size = map->size - data_at, count = 0;
    bool metadata = false;
    for (const cJSON *item = map->header->child; item; item = item->next) {
        if (strcmp(item->string, "__metadata__") == 0) {
            if (metadata)
                return error_input("%s: __metadata__ is given twice", path);
            metadata = true;
            TRY(read_metadata(file, path, item));
            continue;
        }
        struct entry *entry = &file->entries[file->entry_count];
        TRY(read_entry(entry, &spans[count], path, item, data_size));
        entry->data = map->start + data_at + spans[count++].begin;
        file->entry_count++;
    }
    return check_spans(path, spans, count, data_size);
}

static struct error grow_entries(struct safetensors *file, int64_t more)
{
    struct entry *wider = memory_alloc(file->entry_count + more, sizeof *wider);
    if (!wider)
        return error_memory("a safetensors file's entries");
    if (file->entry_count)
        memcpy(wider, file->entries, (size_t)file->entry_count * sizeof *wider);
    memory_free(file->entries);
    file->entries = wider;
    return ok();
}

static struct error map_open(struct mapping *map, const char *path, int fd)
{
    if (map->size == 0)
        return error_input("%s: is empty", path);
    void *start = mmap(NULL, (size_t)map->size, PROT_READ, MAP_SHARED, fd, 0);
    map->start = start == MAP_FAILED ? NULL : start;
    return map->start ? ok() : error_path("map", path);
}

static struct error map_file(struct mapping *map, const char *path)
{
    for (struct attempts a = {0};;) {
        int fd;
        TRY(file_open(path, &fd, &map->size));
        struct error e = map_open(map, path, fd);
        close(fd);
        if (!attempts_again(&a, e))
            return e;
    }
}

/* Adds one file to the set; file->mappings has room for it. safetensors_close releases it. */
static struct error add_file(struct safetensors *file, const char *path)
{
    struct mapping *map = &file->mappings[file->mapping_count++];
    int64_t data_at = 0;
    TRY(map_file(map, path));
    TRY(read_header(map, path, &data_at));
    int64_t count = cJSON_GetArraySize(map->header);
    TRY(grow_entries(file, count));
    struct span *spans = memory_alloc(count, sizeof *spans);
    if (!spans)
        return error_memory(path);
    struct error e = read_entries(file, map, path, data_at, spans);
    memory_free(spans);
    return e;
}

static int compare_entries(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static struct error sort_entries(struct safetensors *file)
{
    if (file->entry_count)
        qsort(file->entries, (size_t)file->entry_count, sizeof *file->entries, compare_entries);
    for (int64_t i = 1; i < file->entry_count; i++)
        if (strcmp(file->entries[i - 1].name, file->entries[i].name) == 0)
            return tensor_wrong(file->path, file->entries[i].name, "is given twice");
    return ok();
}

static struct error open_single(struct safetensors *file)
{
    file->mappings = memory_alloc(1, sizeof *file->mappings);
    if (!file->mappings)
        return error_memory(file->path);
    TRY(add_file(file, file->path));
    return sort_entries(file);
}

static bool is_plain_name(const char *name)
{
    return *name && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 &&
           !has_control_characters(name);
}

/* Opens a shard that has not been seen yet. `shards` are the names of the mappings so far. */
static struct error add_shard(struct safetensors *file, const char **shards, const char *tensor, const cJSON *value)
{
    if (!cJSON_IsString(value) || !is_plain_name(value->valuestring))
        return tensor_wrong(file->path, tensor, "its shard is not the plain name of a file in the same folder");
    for (int64_t i = 0; i < file->mapping_count; i++)
        if (strcmp(shards[i], value->valuestring) == 0)
            return ok();
    char folder[PATH_SIZE], path[PATH_SIZE];
    const char *slash = strrchr(file->path, '/');
    size_t length = slash ? (size_t)(slash - file->path) + 1 : 0;
    if (length >= sizeof folder)
        return error_input("%.200s: is too long a path", file->path);
    memcpy(folder, file->path, length);
    folder[length] = 0;
    TRY(path_join(path, length ? folder : ".", value->valuestring));
    shards[file->mapping_count] = value->valuestring;
    return add_file(file, path);
}

static bool lies_in(const struct mapping *map, const struct entry *entry)
{
    const unsigned char *at = entry->data;
    return at >= map->start && at <= map->start + map->size;
}

/* Every tensor of the index has to be in the shard that the index names. */
static struct error check_index(const struct safetensors *file, const char *const *shards, const cJSON *map)
{
    for (const cJSON *item = map->child; item; item = item->next) {
        const struct entry *entry = safetensors_find(file, item->string);
        int64_t shard = 0;
        while (strcmp(shards[shard], item->valuestring) != 0)
            shard++;
        if (!entry || !lies_in(&file->mappings[shard], entry))
            return error_input("%s: tensor %.160s: is missing from %.160s", file->path, item->string,
                               item->valuestring);
    }
    return ok();
}

static struct error open_shards(struct safetensors *file, const cJSON *map)
{
    if (!cJSON_IsObject(map) || !map->child)
        return error_input("%s: weight_map: expected an object of tensor and file names", file->path);
    int64_t most = cJSON_GetArraySize(map);
    file->mappings = memory_alloc(most, sizeof *file->mappings);
    const char **shards = memory_alloc(most, sizeof *shards);
    struct error e = file->mappings && shards ? ok() : error_memory(file->path);
    for (const cJSON *item = map->child; item && e.code == ERROR_NONE; item = item->next)
        e = add_shard(file, shards, item->string, item);
    if (e.code == ERROR_NONE)
        e = sort_entries(file);
    if (e.code == ERROR_NONE)
        e = check_index(file, shards, map);
    memory_free(shards);
    return e;
}

static struct error open_index(struct safetensors *file)
{
    char *text;
    int64_t size;
    TRY(file_read(file->path, HEADER_LIMIT, &text, &size));
    cJSON *root = NULL;
    struct error e = json_parse(&root, file->path, text, size);
    memory_free(text);
    if (e.code == ERROR_NONE)
        e = open_shards(file, cJSON_GetObjectItemCaseSensitive(root, "weight_map"));
    cJSON_Delete(root);
    return e;
}

struct error safetensors_open(struct safetensors *file, const char *path)
{
    *file = (struct safetensors){.path = memory_string(path)};
    if (!file->path)
        return error_memory(path);
    size_t length = strlen(path);
    bool index = length > 5 && strcmp(path + length - 5, ".json") == 0;
    struct error e = index ? open_index(file) : open_single(file);
    if (e.code != ERROR_NONE)
        safetensors_close(file);
    return e;
}

void safetensors_close(struct safetensors *file)
{
    for (int64_t i = 0; i < file->mapping_count; i++) {
        struct mapping *map = &file->mappings[i];
        cJSON_Delete(map->header);
        if (map->start)
            munmap((void *)map->start, (size_t)map->size);
    }
    memory_free(file->mappings);
    memory_free(file->entries);
    memory_free(file->metadata);
    memory_free(file->names);
    memory_free(file->path);
    *file = (struct safetensors){0};
}

struct error safetensors_rename(struct safetensors *file, struct entry *entries, int64_t count, char *names)
{
    memory_free(file->entries);
    memory_free(file->names);
    file->entries = entries;
    file->entry_count = count;
    file->names = names;
    return sort_entries(file);
}

int64_t entry_bytes(const struct entry *entry)
{
    return entry->count * dtype_size(entry->type);
}

const struct entry *safetensors_find(const struct safetensors *file, const char *name)
{
    if (file->entry_count == 0)
        return NULL;
    struct entry key = {.name = name};
    return bsearch(&key, file->entries, (size_t)file->entry_count, sizeof key, compare_entries);
}

const char *safetensors_metadata(const struct safetensors *file, const char *key)
{
    for (int64_t i = 0; i < file->metadata_count; i++)
        if (strcmp(file->metadata[2 * i], key) == 0)
            return file->metadata[2 * i + 1];
    return NULL;
}

void safetensors_forget(const struct safetensors *file, const struct entry *entry)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)entry->data / page * page;
    uintptr_t end = (uintptr_t)entry->data + (uintptr_t)(entry->count * dtype_size(entry->type));
    for (int64_t i = 0; i < file->mapping_count; i++)
        if (lies_in(&file->mappings[i], entry))
            madvise((void *)begin, end - begin, MADV_DONTNEED);
}
