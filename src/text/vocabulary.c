#include "text/vocabulary.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/memory.h"
#include "files/file.h"
#include "files/json.h"

enum { FILE_LIMIT = 64 << 20, ID_LIMIT = 1 << 24 };

struct piece {
    char *name; /* NULL: a free slot */
    int32_t id;
};

/* -------------------------------------------------------------------------------- hash tables */

static uint64_t hash_name(const char *name)
{
    uint64_t hash = 0xcbf29ce484222325u; // FNV-1a
    for (; *name; name++)
        hash = (hash ^ (unsigned char)*name) * 0x100000001b3u;
    return hash;
}

static uint64_t hash_pair(int32_t left, int32_t right)
{
    uint64_t mixed = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15u;
    return mixed ^ mixed >> 29;
}

/* Where a name is, or belongs. */
static struct piece *find_piece(struct piece *slots, int64_t room, const char *name)
{
    int64_t at = (int64_t)(hash_name(name) & (uint64_t)(room - 1));
    while (slots[at].name && strcmp(slots[at].name, name) != 0)
        at = (at + 1) & (room - 1);
    return &slots[at];
}

static struct error grow_pieces(struct vocabulary *v)
{
    int64_t room = v->piece_room ? 2 * v->piece_room : 1024;
    struct piece *slots = memory_alloc(room, sizeof *slots);
    if (!slots)
        return error_memory("the vocabulary");
    for (int64_t i = 0; i < v->piece_room; i++)
        if (v->pieces[i].name)
            *find_piece(slots, room, v->pieces[i].name) = v->pieces[i];
    memory_free(v->pieces);
    v->pieces = slots;
    v->piece_room = room;
    return ok();
}

/* A name that already exists is an error. */
static struct error add_piece(struct vocabulary *v, const char *name, int32_t id)
{
    if (2 * v->piece_count >= v->piece_room)
        TRY(grow_pieces(v));
    struct piece *slot = find_piece(v->pieces, v->piece_room, name);
    if (slot->name)
        return error_input("\"%.100s\" is given twice", name);
    slot->name = memory_string(name);
    if (!slot->name)
        return error_memory("the vocabulary");
    slot->id = id;
    v->piece_count++;
    if (id >= v->size)
        v->size = id + 1;
    return ok();
}

int32_t vocabulary_find(const struct vocabulary *v, const char *name)
{
    if (!v->piece_room)
        return -1;
    const struct piece *slot = find_piece(v->pieces, v->piece_room, name);
    return slot->name ? slot->id : -1;
}

/* Where a pair is, or belongs. */
static struct merge *find_merge(struct merge *slots, int64_t room, int32_t left, int32_t right)
{
    int64_t at = (int64_t)(hash_pair(left, right) & (uint64_t)(room - 1));
    while (slots[at].result >= 0 && (slots[at].left != left || slots[at].right != right))
        at = (at + 1) & (room - 1);
    return &slots[at];
}

/* A free slot has result -1. */
static struct error grow_merges(struct vocabulary *v)
{
    int64_t room = v->merge_room ? 2 * v->merge_room : 1024;
    struct merge *slots = memory_alloc(room, sizeof *slots);
    if (!slots)
        return error_memory("the merges");
    for (int64_t i = 0; i < room; i++)
        slots[i].result = -1;
    for (int64_t i = 0; i < v->merge_room; i++)
        if (v->merges[i].result >= 0)
            *find_merge(slots, room, v->merges[i].left, v->merges[i].right) = v->merges[i];
    memory_free(v->merges);
    v->merges = slots;
    v->merge_room = room;
    return ok();
}

/* Merge `rank` joins two named pieces. Parts or results that are not pieces are an error. */
static struct error add_merge(struct vocabulary *v, const char *left, const char *right, int32_t rank)
{
    char joined[1024];
    size_t a = strlen(left), b = strlen(right);
    if (a + b >= sizeof joined)
        return error_input("merge %d: a piece is too long", rank + 1);
    memcpy(joined, left, a);
    memcpy(joined + a, right, b + 1);
    int32_t l = vocabulary_find(v, left), r = vocabulary_find(v, right), result = vocabulary_find(v, joined);
    if (l < 0 || r < 0 || result < 0)
        return error_input("merge %d: \"%.100s\" is not in the vocabulary", rank + 1,
                           l < 0   ? left
                           : r < 0 ? right
                                   : joined);
    if (2 * v->merge_count >= v->merge_room)
        TRY(grow_merges(v));
    struct merge *slot = find_merge(v->merges, v->merge_room, l, r);
    v->merge_count += slot->result < 0;
    *slot = (struct merge){l, r, result, rank}; // if a pair is listed twice, the last one counts
    return ok();
}

const struct merge *vocabulary_merge(const struct vocabulary *v, int32_t left, int32_t right)
{
    if (!v->merge_room)
        return NULL;
    const struct merge *slot = find_merge(v->merges, v->merge_room, left, right);
    return slot->result >= 0 ? slot : NULL;
}

void vocabulary_free(struct vocabulary *v)
{
    for (int64_t i = 0; i < v->piece_room; i++)
        memory_free(v->pieces[i].name);
    memory_free(v->pieces);
    memory_free(v->merges);
    *v = (struct vocabulary){0};
}

/* -------------------------------------------------------------------------------- files */

/* No two pieces may have the same id. */
static struct error check_ids(const struct vocabulary *v, const char *path)
{
    bool *seen = memory_alloc(v->size, sizeof *seen);
    struct error e = seen ? ok() : error_memory("the vocabulary");
    for (int64_t i = 0; i < v->piece_room && e.code == ERROR_NONE; i++) {
        const struct piece *slot = &v->pieces[i];
        if (slot->name && seen[slot->id])
            e = error_input("%s: \"%.100s\": another piece has the same id, %d", path, slot->name, slot->id);
        else if (slot->name)
            seen[slot->id] = true;
    }
    memory_free(seen);
    return e;
}

/* key: the object's place in its file, for the errors. */
static struct error read_pieces(struct vocabulary *v, const cJSON *object, const char *path, const char *key)
{
    if (!cJSON_IsObject(object) || !object->child)
        return error_input("%s: %s: expected an object of pieces and their ids", path, key);
    for (const cJSON *item = object->child; item; item = item->next) {
        double id = item->valuedouble;
        if (!cJSON_IsNumber(item) || id != floor(id) || id < 0 || id >= ID_LIMIT)
            return error_input("%s: \"%.100s\": expected an id from 0 to %d", path, item->string, ID_LIMIT - 1);
        TRY(error_in(add_piece(v, item->string, (int32_t)id), "%s", path));
    }
    return check_ids(v, path);
}

/* "left right", cut in place. */
static struct error read_merge(struct vocabulary *v, char *line, int32_t rank, const char *path)
{
    char *space = strchr(line, ' ');
    if (!space || space == line || !space[1] || strchr(space + 1, ' '))
        return error_input("%s: merge %d: \"%.60s\": expected two pieces with a space between", path, rank + 1, line);
    *space = 0;
    return error_in(add_merge(v, line, space + 1, rank), "%s", path);
}

static struct error read_merge_lines(struct vocabulary *v, char *text, const char *path)
{
    int32_t rank = 0;
    for (char *line = text, *next; line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        size_t length = strlen(line);
        if (length && line[length - 1] == '\r')
            line[length - 1] = 0;
        if (*line && strncmp(line, "#version", 8) != 0)
            TRY(read_merge(v, line, rank++, path));
    }
    return ok();
}

struct error vocabulary_read_files(struct vocabulary *v, const char *folder)
{
    char path[PATH_SIZE], *text;
    int64_t size;
    struct json json;
    TRY(path_join(path, folder, "vocab.json"));
    TRY(json_open(&json, path));
    struct error e = read_pieces(v, json.root, path, "the file");
    json_close(&json);
    TRY(e);
    TRY(path_join(path, folder, "merges.txt"));
    TRY(file_read(path, FILE_LIMIT, &text, &size));
    e = (int64_t)strlen(text) == size ? read_merge_lines(v, text, path) : error_input("%s: holds a zero byte", path);
    memory_free(text);
    return e;
}

static struct error read_merge_list(struct vocabulary *v, const cJSON *list, const char *path)
{
    if (!cJSON_IsArray(list))
        return error_input("%s: model.merges: expected a list", path);
    int32_t rank = 0;
    for (const cJSON *item = list->child; item; item = item->next, rank++) {
        const cJSON *left = cJSON_IsArray(item) ? item->child : NULL, *right = left ? left->next : NULL;
        if (cJSON_IsString(item))
            TRY(read_merge(v, item->valuestring, rank, path));
        else if (cJSON_IsString(left) && cJSON_IsString(right) && !right->next)
            TRY(error_in(add_merge(v, left->valuestring, right->valuestring, rank), "%s", path));
        else
            return error_input("%s: model.merges: merge %d: expected two pieces", path, rank + 1);
    }
    return ok();
}

struct error vocabulary_read_model(struct vocabulary *v, const struct cJSON *root, const char *path)
{
    const cJSON *model = cJSON_GetObjectItemCaseSensitive(root, "model");
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(model, "type");
    if (cJSON_IsString(type) && strcmp(type->valuestring, "BPE") != 0)
        return error_input("%s: model.type: \"%.60s\" is not supported, only \"BPE\"", path, type->valuestring);
    TRY(read_pieces(v, cJSON_GetObjectItemCaseSensitive(model, "vocab"), path, "model.vocab"));
    return read_merge_list(v, cJSON_GetObjectItemCaseSensitive(model, "merges"), path);
}
