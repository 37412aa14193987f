#include "model/quantized.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/memory.h"
#include "base/pool.h"
#include "base/progress.h"
#include "base/text.h"
#include "device/quantize.h"
#include "files/file.h"
#include "files/safetensors.h"
#include "files/safetensors_write.h"
#include "files/whole_folder.h"
#include "model/contents.h"
#include "model/model_folder.h"
#include "model/model_source.h"
#include "model/settings_copy.h"

/* A layer becomes at most five entries and eleven blocks of memory: codes, scale, shift, two ones, six names. */
enum { NAME_ROOM = 512, PER_LAYER = 5, OWNED_PER_LAYER = 11 };

static const char text_weights[] = "model.safetensors", weights[] = "diffusion_pytorch_model.safetensors";

/* The tensors of one part being written: its entries, and the memory that we allocated for them. */
struct part {
    struct safetensors in;
    int bits; /* 8 or 4 */
    struct entry *entries;
    int64_t count;
    void **owned;
    int64_t owned_count;
    cJSON *map; /* quanto_qmap.json */
};

/* Linear and convolution weights are the tensors of 2 or 4 dimensions called X.weight, except embedding tables. */
static bool is_layer(const struct entry *t)
{
    return text_ends_with(t->name, ".weight") && (t->dimensions == 2 || t->dimensions == 4) && t->count > 0 &&
           !text_ends_with(t->name, "_embedding.weight");
}

static void *alloc_owned(struct part *p, int64_t bytes)
{
    void *memory = memory_alloc(bytes, 1);
    if (memory)
        p->owned[p->owned_count++] = memory;
    return memory;
}

/* The first `keep` bytes of a weight's name, with a suffix: X.weight._data, or X.input_scale. */
static const char *name_tensor(struct part *p, const char *weight, size_t keep, const char *suffix)
{
    char *name = alloc_owned(p, NAME_ROOM);
    if (name)
        snprintf(name, NAME_ROOM, "%.*s%s", (int)keep, weight, suffix);
    return name;
}

static struct error add_ones(struct part *p, const struct entry *t, const char *suffix)
{
    size_t keep = strlen(t->name) - strlen(".weight");
    void *one = alloc_owned(p, 8);
    struct entry *e = &p->entries[p->count++];
    *e = (struct entry){.name = name_tensor(p, t->name, keep, suffix), .type = t->type, .count = 1, .data = one};
    if (!one || !e->name)
        return error_memory("a quantized layer");
    uint16_t half = t->type == F16 ? float_to_half(1.0f) : float_to_bfloat(1.0f);
    float single = 1.0f;
    memcpy(one, t->type == F32 ? (void *)&single : (void *)&half, (size_t)dtype_size(t->type));
    return ok();
}

/* One of a layer's new tensors, with the type and shape of `shape`. Returns the memory for its numbers, or NULL. */
static void *add_tensor(struct part *p, const struct entry *t, const char *suffix, struct entry shape)
{
    shape.count = 1;
    for (int i = 0; i < shape.dimensions; i++)
        shape.count *= shape.shape[i];
    void *data = alloc_owned(p, shape.count * dtype_size(shape.type));
    shape.data = data;
    shape.name = name_tensor(p, t->name, strlen(t->name), suffix);
    p->entries[p->count++] = shape;
    return shape.name ? data : NULL;
}

static struct error add_codes8(struct part *p, const struct entry *t)
{
    struct entry codes = *t, scale = {.type = t->type, .dimensions = t->shape[0] > 1 ? t->dimensions : 0};
    codes.type = I8;
    for (int i = 0; i < scale.dimensions; i++)
        scale.shape[i] = i ? 1 : t->shape[0];
    void *code_bytes = add_tensor(p, t, "._data", codes), *scales = add_tensor(p, t, "._scale", scale);
    if (!code_bytes || !scales)
        return error_memory("a quantized layer");
    quantize_weight(code_bytes, scales, t->data, t->type, t->shape[0], t->count / t->shape[0]);
    return ok();
}

/* Rows that are cut into groups lose their shape, others keep it. */
static struct error add_codes4(struct part *p, const struct entry *t)
{
    int64_t out = t->shape[0], depth = t->count / out, group = quantize_group(depth);
    int64_t groups = out * depth / group, last = t->shape[t->dimensions - 1];
    struct entry codes = *t, scale = {.type = t->type, .dimensions = t->dimensions, .shape = {1, 1, 1, 1}};
    codes.type = U8;
    codes.shape[0] = (groups + 1) / 2;
    if (group < depth) {
        codes.dimensions = scale.dimensions = 2;
        codes.shape[1] = group;
    }
    scale.shape[0] = groups;
    if (quantize_cycles(out, depth))
        scale.shape[scale.dimensions - 1] = last;
    void *packed = add_tensor(p, t, "._data._data", codes), *scales = add_tensor(p, t, "._scale", scale);
    void *shifts = add_tensor(p, t, "._shift", scale);
    if (!packed || !scales || !shifts)
        return error_memory("a quantized layer");
    quantize_weight4(packed, scales, shifts, t->data, t->type, out, depth, last);
    // a group's range may be beyond what its type holds, though its numbers are not
    const struct entry *made = &p->entries[p->count - 1];
    if (!dtype_finite(scales, t->type, made->count) || !dtype_finite(shifts, t->type, made->count))
        return error_input("%s: tensor %s: its numbers are too far apart for a 4-bit scale of type %s", p->in.path,
                           t->name, dtype_name(t->type));
    return ok();
}

static struct error add_layer(struct part *p, const struct entry *t)
{
    size_t length = strlen(t->name);
    TRY(p->bits == 4 ? add_codes4(p, t) : add_codes8(p, t));
    safetensors_forget(&p->in, t);

    const char *module = name_tensor(p, t->name, length - strlen(".weight"), "");
    cJSON *kinds = module ? cJSON_AddObjectToObject(p->map, module) : NULL;
    if (!kinds || !cJSON_AddStringToObject(kinds, "weights", p->bits == 4 ? "qint4" : "qint8") ||
        !cJSON_AddStringToObject(kinds, "activations", "none"))
        return error_memory("the quantization map");
    TRY(add_ones(p, t, ".input_scale"));
    return add_ones(p, t, ".output_scale");
}

static struct error quantize_layers(struct part *p, struct progress *progress)
{
    int64_t done = 0;
    for (int64_t i = 0; i < p->in.entry_count; i++) {
        const struct entry *t = &p->in.entries[i];
        if (text_ends_with(t->name, "._data"))
            return error_input("%s: tensor %s: is already quantized", p->in.path, t->name);
        if (is_layer(t) && !dtype_is_weight(t->type))
            return error_input("%s: tensor %s: %s, expected F32, F16 or BF16", p->in.path, t->name,
                               dtype_name(t->type));
        if (is_layer(t))
            TRY(add_layer(p, t));
        else
            p->entries[p->count++] = *t;
        done += entry_bytes(t);
        progress_step(progress, done / PROGRESS_MEGABYTE, "");
    }
    return ok();
}

static struct error fill_part(struct part *p, const char *name)
{
    int64_t room = p->in.entry_count * PER_LAYER;
    p->entries = memory_alloc(room, sizeof *p->entries);
    p->owned = memory_alloc(p->in.entry_count * OWNED_PER_LAYER, sizeof *p->owned);
    p->map = cJSON_CreateObject();
    if (!p->entries || !p->owned || !p->map)
        return error_memory("a quantized part");
    int64_t bytes = 0;
    for (int64_t i = 0; i < p->in.entry_count; i++)
        bytes += entry_bytes(&p->in.entries[i]);
    char what[64];
    struct progress progress;
    snprintf(what, sizeof what, "quantizing %.40s", name);
    progress_phase(&progress, what, bytes / PROGRESS_MEGABYTE, "MB");
    struct error e = quantize_layers(p, &progress);
    progress_end(&progress);
    return e;
}

static struct error write_part(struct part *p, const char *folder, const char *file_name)
{
    static const char *const metadata[] = {"format", "pt"};
    char path[PATH_SIZE];
    TRY(path_join(path, folder, file_name));
    TRY(safetensors_write(path, p->entries, p->count, metadata, 1));
    TRY(path_join(path, folder, settings_quanto_map));
    char *text = cJSON_Print(p->map);
    if (!text)
        return error_memory("the quantization map");
    struct error e = file_write_whole(path, text, (int64_t)strlen(text));
    cJSON_free(text);
    return e;
}

static void free_part(struct part *p)
{
    for (int64_t i = 0; i < p->owned_count; i++)
        memory_free(p->owned[i]);
    memory_free(p->owned);
    memory_free(p->entries);
    cJSON_Delete(p->map);
    safetensors_close(&p->in);
}

const char *quantized_weights(const char *part)
{
    return strcmp(part, "text_encoder") == 0 ? text_weights : weights;
}

static struct error quantize_part(const char *model, const char *out, const char *part, int bits)
{
    char to[PATH_SIZE];
    TRY(path_join(to, out, part));
    TRY(folder_make(to));
    struct part p = {.bits = bits};
    TRY(model_part_open(&p.in, model, part));
    struct error e = fill_part(&p, part);
    if (e.code == ERROR_NONE)
        e = write_part(&p, to, quantized_weights(part));
    free_part(&p);
    return e;
}

/* Whether that may be a file of a quantized model. */
static bool is_written(const char *name)
{
    return settings_are(name) || strcmp(name, settings_quanto_map) == 0 || strcmp(name, text_weights) == 0 ||
           strcmp(name, weights) == 0;
}

static bool is_folder(const char *name)
{
    for (int i = 1; settings_folders[i]; i++)
        if (strcmp(name, settings_folders[i]) == 0)
            return true;
    return false;
}

/* What of the folder OUT is not of a model that was quantized; "" if it is all. */
static struct error find_stranger(char name[PATH_SIZE], const char *out, const char *sub)
{
    char folder[PATH_SIZE], path[PATH_SIZE], **names;
    int64_t count;
    TRY(path_join(folder, out, sub));
    TRY(folder_list(folder, &names, &count));
    struct error e = ok();
    for (int64_t i = 0; i < count && !*name && e.code == ERROR_NONE; i++) {
        struct stat status;
        e = path_join(path, folder, names[i]);
        bool known = e.code == ERROR_NONE && lstat(path, &status) == 0;
        bool file = known && S_ISREG(status.st_mode) && is_written(names[i]);
        if (known && S_ISDIR(status.st_mode) && !*sub && is_folder(names[i]))
            e = find_stranger(name, out, names[i]);
        else if (!file)
            snprintf(name, PATH_SIZE, "%s", path);
    }
    folder_list_free(names, count);
    return e;
}

/* May OUT be written? */
static struct error check_output(const char *folder, const char *out, bool overwrite)
{
    enum path_kind kind;
    char stranger[PATH_SIZE] = "", **names;
    int64_t count;
    if (path_same(folder, out))
        return error_input("%s: is the model itself; choose another folder", out);
    TRY(path_look(out, &kind));
    if (kind == PATH_FILE)
        return error_input("%s: is a file, expected a folder", out);
    if (kind != PATH_FOLDER)
        return ok();
    TRY(folder_list(out, &names, &count));
    folder_list_free(names, count);
    if (count > 0 && !overwrite)
        return error_input("%s: is not empty; choose a new folder, or replace a quantized model with --overwrite", out);
    TRY(find_stranger(stranger, out, ""));
    return *stranger
               ? error_input("%s: is not part of a quantized model, and --overwrite replaces nothing else; choose "
                             "another folder",
                             stranger)
               : ok();
}

struct error quantized_write_part(const char *model, const char *out, const char *part, int bits)
{
    TRY(settings_copy_part(model, part, out));
    return quantize_part(model, out, part, bits);
}

static struct error write_all(const struct quantized_source *source, const char *out, int bits,
                              void (*progress)(const char *part))
{
    TRY(settings_copy(source->model, source->tokenizer, source->prediction, out));
    for (int i = 0; i < MODEL_PARTS; i++) {
        progress(model_parts[i]);
        TRY(quantize_part(source->model, out, model_parts[i], bits));
    }
    return ok();
}

/* What would otherwise be found when hours have passed. */
static struct error check_source(const struct quantized_source *source)
{
    struct tokenizer *tokenizer;
    char path[PATH_SIZE];
    struct json scheduler;
    TRY(error_in(model_check(source->model), "--model"));
    if (model_is_file(source->model)) {
        TRY(model_json(&scheduler, path, source->model, "scheduler/scheduler_config.json", source->prediction));
        json_close(&scheduler);
    }
    if (!source->tokenizer && !model_is_file(source->model))
        return ok();
    TRY(model_tokenizer_load(&tokenizer, source->model, source->tokenizer));
    tokenizer_free(tokenizer);
    return ok();
}

struct error quantized_write(const struct quantized_source *source, const char *out, int bits, bool overwrite,
                             void (*progress)(const char *part))
{
    uint32_t contents;
    struct whole_folder whole;
    TRY(check_source(source));
    TRY(error_in(check_output(source->model, out, overwrite), "--output"));
    TRY(contents_tensors(source->model, pool_default_threads(1), &contents));
    TRY(error_in(whole_folder_begin(&whole, out, "", 1), "--output"));
    struct error e = write_all(source, whole.temporary, bits, progress);
    if (e.code == ERROR_NONE)
        e = error_in(check_output(source->model, out, overwrite), "--output"); // minutes have passed
    struct error ended = whole_folder_end(&whole, e.code == ERROR_NONE);
    return error_first(e, ended);
}
