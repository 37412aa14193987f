#include "model/weights.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "device/quantize.h"
#include "model/model_source.h"

enum { NAME_ROOM = 256 };

static struct error alloc_nothing(void *arg, int64_t bytes, void **memory, bool *fill)
{
    (void)arg;
    (void)bytes;
    *memory = NULL;
    *fill = false;
    return ok();
}

static struct error ready(void *arg, struct error e)
{
    (void)arg;
    return e;
}

struct store store_simulated(void)
{
    return (struct store){.alloc = alloc_nothing, .ready = ready};
}

struct store store_nowhere(void)
{
    return (struct store){0};
}

static void free_memory(struct weights *w)
{
    if (w->memory)
        w->store.free(w->store.arg, w->memory, w->memory_bytes);
    w->memory = NULL;
}

static void free_handles(struct weights *w)
{
    for (int64_t i = 0; i < w->handle_count; i++)
        weight_free(w->handles[i]);
    w->handle_count = 0;
}

void weights_free(struct weights *w)
{
    free_handles(w);
    memory_free(w->handles);
    w->handles = NULL;
    w->handle_room = 0;
    free_memory(w);
    device_upload_free(w->device, w->uploaded, w->memory_bytes);
    w->uploaded = NULL;
    safetensors_close(&w->file);
}

struct error weights_refuse(struct store store, struct error e)
{
    return store.ready ? store.ready(store.arg, e) : e;
}

/* The first pass: finds every layer and counts the memory that all of them need. */
static struct error measure(struct weights *w, const char *folder, const char *part,
                            void (*load)(void *arg, struct weights *w), void *arg)
{
    TRY(model_part_open(&w->file, folder, part));
    device_store_begin(w->device, NULL, 0, false);
    load(arg, w);
    w->memory_bytes = device_store_bytes(w->device);
    free_handles(w);
    return w->error;
}

/* The second pass: packs the weights into memory, and hands it to a GPU. */
static struct error fill(struct weights *w, void (*load)(void *arg, struct weights *w), void *arg)
{
    struct error e = w->store.alloc(w->store.arg, w->memory_bytes, &w->memory, &w->filling);
    if (e.code == ERROR_NONE) {
        device_store_begin(w->device, w->memory, w->memory_bytes, w->filling);
        load(arg, w);
        e = w->error;
    }
    TRY(w->store.ready(w->store.arg, e));
    e = device_upload(w->device, w->handles, w->handle_count, w->memory, w->memory_bytes, &w->uploaded);
    if (w->uploaded)
        free_memory(w);
    return e;
}

struct error weights_load(struct weights *w, struct device *device, const char *folder, const char *part, int bits,
                          struct store store, void (*load)(void *arg, struct weights *w), void *arg)
{
    *w = (struct weights){.device = device, .bits = bits, .store = store};
    // ranks that share the memory must learn of a failure before they wait for it
    struct error e = weights_refuse(store, measure(w, folder, part, load, arg));
    if (e.code == ERROR_NONE && store.alloc) {
        char what[64];
        snprintf(what, sizeof what, "loading %.40s", part);
        progress_phase(&w->progress, what, w->memory_bytes / PROGRESS_MEGABYTE, "MB");
        e = fill(w, load, arg);
        progress_end(&w->progress);
    }
    if (e.code != ERROR_NONE)
        weights_free(w);
    return e;
}

/* A layer's name before it was renamed upstream, or NULL. */
static const char *older_spelling(const char *name, char out[NAME_ROOM])
{
    static const char *const renamed[][2] = {
        {".to_q", ".query"}, {".to_k", ".key"}, {".to_v", ".value"}, {".to_out.0", ".proj_attn"}};
    if (strncmp(name, "text_model.", 11) == 0) {
        snprintf(out, NAME_ROOM, "%s", name + 11);
        return out;
    }
    for (size_t i = 0; i < sizeof renamed / sizeof *renamed; i++) {
        const char *at = strstr(name, renamed[i][0]);
        if (!at)
            continue;
        snprintf(out, NAME_ROOM, "%.*s%s%s", (int)(at - name), name, renamed[i][1], at + strlen(renamed[i][0]));
        return out;
    }
    return NULL;
}

static const struct entry *find_suffixed(const struct weights *w, const char *name, const char *suffix)
{
    char full[NAME_ROOM + 32], older[NAME_ROOM];
    snprintf(full, sizeof full, "%s%s", name, suffix);
    const struct entry *found = safetensors_find(&w->file, full);
    if (found || !older_spelling(name, older))
        return found;
    snprintf(full, sizeof full, "%s%s", older, suffix);
    return safetensors_find(&w->file, full);
}

/* Does an entry have `shape` [dimensions], ignoring trailing ones on both sides? */
static bool has_shape(const struct entry *entry, const int64_t *shape, int dimensions)
{
    for (int i = 0; i < dimensions || i < entry->dimensions; i++)
        if ((i < entry->dimensions ? entry->shape[i] : 1) != (i < dimensions ? shape[i] : 1))
            return false;
    return true;
}

static void wrong(struct weights *w, const char *name, const char *what)
{
    if (w->error.code == ERROR_NONE)
        w->error = error_input("%s: tensor %s: %s", w->file.path, name, what);
}

static void wrong_shape(struct weights *w, const struct entry *entry, const int64_t *shape, int dimensions)
{
    char text[200];
    size_t used = (size_t)snprintf(text, sizeof text, "shape [");
    for (int i = 0; i < entry->dimensions && used < 80; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, i ? ", %lld" : "%lld", (long long)entry->shape[i]);
    used += (size_t)snprintf(text + used, sizeof text - used, "], but config.json makes it [");
    for (int i = 0; i < dimensions; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, i ? ", %lld" : "%lld", (long long)shape[i]);
    snprintf(text + used, sizeof text - used, "]");
    wrong(w, entry->name, text);
}

/* The entry `name``suffix` with its shape checked, or NULL with the error set. */
static const struct entry *need(struct weights *w, const char *name, const char *suffix, const int64_t *shape,
                                int dimensions)
{
    const struct entry *entry = find_suffixed(w, name, suffix);
    if (!entry) {
        char full[NAME_ROOM + 32];
        snprintf(full, sizeof full, "%s%s", name, suffix);
        wrong(w, full, "is missing, though config.json asks for it");
        return NULL;
    }
    if (!has_shape(entry, shape, dimensions)) {
        wrong_shape(w, entry, shape, dimensions);
        return NULL;
    }
    return entry;
}

static struct weight *hand_over(struct weights *w, const char *name, const struct weight_source *source, int bits)
{
    struct weight **handles = memory_grow(w->handles, w->handle_count, &w->handle_room, sizeof *handles);
    if (!handles) {
        w->error = error_memory("the list of weights");
        return NULL;
    }
    w->handles = handles;
    struct weight *weight;
    struct error e = weight_new(w->device, source, bits, &weight);
    if (e.code != ERROR_NONE) {
        w->error = error_in(e, "%s: tensor %s", w->file.path, name);
        return NULL;
    }
    w->handles[w->handle_count++] = weight;
    return weight;
}

static const struct entry *need_floats(struct weights *w, const char *name, const char *suffix, const int64_t *shape,
                                       int dimensions)
{
    const struct entry *entry = need(w, name, suffix, shape, dimensions);
    if (!entry || dtype_is_weight(entry->type))
        return entry;
    wrong(w, entry->name, "expected F32, F16 or BF16");
    return NULL;
}

static const struct entry *need_codes(struct weights *w, const char *name, const char *suffix, enum dtype type,
                                      const int64_t *shape, int dimensions)
{
    const struct entry *entry = need(w, name, suffix, shape, dimensions);
    if (!entry || entry->type == type)
        return entry;
    wrong(w, entry->name, type == I8 ? "expected I8 codes with a float scale" : "expected 4-bit codes in U8");
    return NULL;
}

/* 8-bit codes and their scales. */
static const struct entry *find_codes8(struct weights *w, const char *name, struct weight_source *s)
{
    const int64_t shape[] = {s->out, s->in, s->kh, s->kw};
    const struct entry *codes = need_codes(w, name, ".weight._data", I8, shape, 4);
    const struct entry *scale = codes ? need_floats(w, name, ".weight._scale", shape, 1) : NULL;
    if (!scale)
        return NULL;
    s->scale = scale->data;
    s->scale_type = scale->type;
    return codes;
}

/* 4-bit codes, their scales and their shifts: see device/quantize.h for the shapes. */
static const struct entry *find_codes4(struct weights *w, const char *name, struct weight_source *s)
{
    int64_t depth = s->in * s->kh * s->kw, group = quantize_group(depth), groups = s->out * depth / group;
    const int64_t grouped[] = {(groups + 1) / 2, group}, whole[] = {(groups + 1) / 2, s->in, s->kh, s->kw};
    const struct entry *codes =
        need_codes(w, name, ".weight._data._data", U8, group < depth ? grouped : whole, group < depth ? 2 : 4);
    if (!codes)
        return NULL;
    if (quantize_cycles(s->out, depth))
        s->cycle = codes->dimensions < 4 ? s->in : s->kw;
    const int64_t flat[] = {1, s->cycle}, deep[] = {1, 1, 1, s->cycle};
    const int64_t *shape = !s->cycle ? &groups : codes->dimensions < 4 ? flat : deep;
    int dimensions = !s->cycle ? 1 : codes->dimensions < 4 ? 2 : 4;
    const struct entry *scale = need_floats(w, name, ".weight._scale", shape, dimensions);
    const struct entry *shift = scale ? need_floats(w, name, ".weight._shift", shape, dimensions) : NULL;
    if (!shift)
        return NULL;
    if (shift->type != scale->type) {
        wrong(w, shift->name, "differs in type from the layer's scales");
        return NULL;
    }
    s->scale = scale->data;
    s->shift = shift->data;
    s->scale_type = scale->type;
    return codes;
}

/* A layer's numbers or codes, with everything that belongs to them in the source, and their bits in the file. */
static const struct entry *find_numbers(struct weights *w, const char *name, struct weight_source *s, int *stored)
{
    const int64_t shape[] = {s->out, s->in, s->kh, s->kw};
    const struct entry *numbers;
    bool plain = find_suffixed(w, name, ".weight");
    if (!plain && find_suffixed(w, name, ".weight._data")) {
        *stored = 8;
        numbers = find_codes8(w, name, s);
    } else if (!plain && find_suffixed(w, name, ".weight._data._data")) {
        *stored = 4;
        numbers = find_codes4(w, name, s);
    } else {
        numbers = need_floats(w, name, ".weight", shape, 4);
        *stored = numbers && numbers->type == F32 ? 32 : 16;
    }
    if (numbers) {
        s->data = numbers->data;
        s->type = numbers->type;
    }
    return numbers;
}

/* Numbers that are finite in a file may not be so in fewer bits. */
static bool fits(const struct weight_source *s, int bits)
{
    int64_t depth = s->in * s->kh * s->kw;
    if (bits == 16 && s->type == F32)
        return dtype_below(s->data, F32, s->out * depth, 65520);
    return bits != 4 || !dtype_is_weight(s->type) || quantize_cycles(s->out, depth) ||
           quantize_fits4(s->data, s->type, s->out, depth);
}

/* A layer as the file has it, and the bits in which it is to be kept. */
struct layer {
    struct weight_source source;
    const struct entry *numbers;
    int bits;
};

/* l->source says its shape. */
static bool find_layer(struct weights *w, const char *name, bool bias, struct layer *l)
{
    int stored;
    if (w->error.code != ERROR_NONE)
        return false;
    l->numbers = find_numbers(w, name, &l->source, &stored);
    if (l->numbers && bias) {
        const struct entry *shift = need_floats(w, name, ".bias", &l->source.out, 1);
        if (!shift)
            return false;
        l->source.bias = shift->data;
        l->source.bias_type = shift->type;
    }
    if (!l->numbers)
        return false;
    // codes stay as they are: more bits would hold the same numbers; fewer are refused by the device
    bool stays = !w->bits || (stored < 16 && w->bits >= stored);
    l->bits = stays ? stored : w->bits;
    w->quantizes |= !stays && l->bits < 16;
    if (!w->filling || stays || fits(&l->source, l->bits))
        return true;
    wrong(w, l->numbers->name,
          l->bits == 16 ? "holds a value that is infinite in 16 bits; expected quant.bits 8 or 32"
                        : "its numbers are too far apart for a 4-bit scale; expected more quant.bits");
    return false;
}

/* The layers [count] as one weight; errors name the first. */
static const struct weight *keep_layers(struct weights *w, const char *name, struct layer *layers, int count)
{
    int bits = layers[0].bits;
    for (int i = 1; i < count; i++) {
        layers[i - 1].source.next = &layers[i].source;
        bits = layers[i].bits == bits ? bits : 32;
    }
    const struct weight *weight = hand_over(w, name, &layers[0].source, bits);
    w->least_bits = !w->least_bits || bits < w->least_bits ? bits : w->least_bits;
    w->most_bits = bits > w->most_bits ? bits : w->most_bits;
    for (int i = 0; i < count && w->filling; i++)
        safetensors_forget(&w->file, layers[i].numbers);
    if (w->filling)
        progress_step(&w->progress, device_store_bytes(w->device) / PROGRESS_MEGABYTE, "");
    return weight;
}

static const struct weight *layer(struct weights *w, const char *name, int64_t out, int64_t in, int64_t kernel,
                                  bool bias, bool gated)
{
    struct layer l = {.source = {.out = out, .in = in, .kh = kernel, .kw = kernel, .gated = gated}};
    return find_layer(w, name, bias, &l) ? keep_layers(w, name, &l, 1) : NULL;
}

#define FORMAT_NAME(name, format)                                                                                      \
    char name[NAME_ROOM];                                                                                              \
    do {                                                                                                               \
        va_list arguments;                                                                                             \
        va_start(arguments, format);                                                                                   \
        vsnprintf(name, sizeof name, format, arguments);                                                               \
        va_end(arguments);                                                                                             \
    } while (0)

const struct weight *weights_linear(struct weights *w, int64_t out, int64_t in, bool bias, const char *format, ...)
{
    FORMAT_NAME(name, format);
    return layer(w, name, out, in, 1, bias, false);
}

const struct weight *weights_joined(struct weights *w, int64_t out, int64_t in, bool bias, const char *const *suffixes,
                                    const char *format, ...)
{
    FORMAT_NAME(prefix, format);
    char name[NAME_ROOM + 32];
    struct layer layers[3];
    int count = 0;
    for (; suffixes[count]; count++) {
        snprintf(name, sizeof name, "%s%s", prefix, suffixes[count]);
        layers[count] = (struct layer){.source = {.out = out, .in = in, .kh = 1, .kw = 1}};
        if (!find_layer(w, name, bias, &layers[count]))
            return NULL;
    }
    return keep_layers(w, prefix, layers, count);
}

const struct weight *weights_gated(struct weights *w, int64_t out, int64_t in, const char *format, ...)
{
    FORMAT_NAME(name, format);
    return layer(w, name, out, in, 1, true, true);
}

const struct weight *weights_conv(struct weights *w, int64_t out, int64_t in, int64_t kernel, const char *format, ...)
{
    FORMAT_NAME(name, format);
    return layer(w, name, out, in, kernel, true, false);
}

const struct weight *weights_norm(struct weights *w, int64_t channels, const char *format, ...)
{
    FORMAT_NAME(name, format);
    if (w->error.code != ERROR_NONE)
        return NULL;
    const struct entry *gain = need(w, name, ".weight", &channels, 1);
    const struct entry *shift = gain ? need(w, name, ".bias", &channels, 1) : NULL;
    if (!shift)
        return NULL;
    if (!dtype_is_weight(gain->type) || !dtype_is_weight(shift->type)) {
        wrong(w, gain->name, "expected F32, F16 or BF16");
        return NULL;
    }
    struct weight_source source = {.data = gain->data,
                                   .type = gain->type,
                                   .bias = shift->data,
                                   .bias_type = shift->type,
                                   .out = channels,
                                   .kh = 1,
                                   .kw = 1};
    return hand_over(w, name, &source, 32);
}

struct weight *weights_table(struct weights *w, int64_t rows, int64_t dim, const char *format, ...)
{
    FORMAT_NAME(name, format);
    if (w->error.code != ERROR_NONE)
        return NULL;
    const int64_t shape[] = {rows, dim};
    const struct entry *table = need(w, name, ".weight", shape, 2);
    if (!table)
        return NULL;
    if (!dtype_is_weight(table->type)) {
        wrong(w, table->name, "expected F32, F16 or BF16");
        return NULL;
    }
    struct weight_source source = {
        .data = table->data, .type = table->type, .out = rows, .in = dim, .kh = 1, .kw = 1, .table = true};
    return hand_over(w, name, &source, table->type == F32 ? 32 : 16);
}
