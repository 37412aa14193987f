#include "model/text_jacobian.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/symmetric.h"

enum { COLUMNS_AT_ONCE = 32 };

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* -------------------------------------------------------------------------------- M and its root */

/* M is summed up from each product's outputs for unit vectors, which are its weights as the device has them. */
struct root_search {
    struct text_jacobian *j;
    struct pool *pool;
    struct tensor units, out;
    const struct weight *weight;
    double *m, *values, *vectors;
    float *root;
};

static struct error product_body(void *arg)
{
    const struct root_search *r = arg;
    op_linear(r->j->device, r->out, r->units, r->weight, (struct epilogue){0});
    return ok();
}

static struct error read_product(const struct root_search *r, float *outputs)
{
    struct device *d = r->j->device;
    struct program *program;
    TRY(program_new(d, product_body, (void *)r, &program));
    struct error e = program_run(program);
    device_read(d, outputs, r->out);
    e = error_first(e, device_wait(d));
    program_free(program);
    return e;
}

static struct error add_product(void *arg, const struct weight *weight, int64_t channels)
{
    struct root_search *r = arg;
    int64_t width = r->j->width;
    r->weight = weight;
    TRY(device_alloc_state(r->j->device, F32, 1, 1, width, channels, &r->out));
    float *outputs = memory_alloc(width * channels, sizeof *outputs);
    struct error e = outputs ? read_product(r, outputs) : error_memory("a product's weights");
    const struct vectors_view view = {outputs, width, channels, channels, 1};
    if (e.code == ERROR_NONE && device_computes(r->j->device))
        e = symmetric_add_products(r->m, &view, 0, width, r->pool);
    memory_free(outputs);
    device_free_state(r->j->device, &r->out);
    return e;
}

static struct error find_m(struct root_search *r, const struct unet *unet)
{
    struct device *d = r->j->device;
    int64_t width = r->j->width;
    TRY(device_alloc_state(d, F32, 1, 1, width, width, &r->units));
    for (int64_t i = 0; i < width; i++)
        r->root[i * width + i] = 1;
    device_write(d, r->units, r->root);
    struct error e = unet_text_products(unet, add_product, r);
    device_free_state(d, &r->units);
    return e;
}

/* Packs the root as a weight: the same calls measure, and then fill. */
static struct error keep_root(struct text_jacobian *j, const float *root)
{
    const struct weight_source source = {.data = root, .type = F32, .out = j->width, .in = j->width, .kh = 1, .kw = 1};
    device_store_begin(j->device, NULL, 0, false);
    TRY(weight_new(j->device, &source, 32, &j->root));
    j->root_bytes = device_store_bytes(j->device);
    if (device_computes(j->device)) {
        weight_free(j->root);
        j->root = NULL;
        j->root_memory = memory_alloc(j->root_bytes, 1);
        if (!j->root_memory)
            return error_memory("the root of the cross-attentions");
        device_store_begin(j->device, j->root_memory, j->root_bytes, true);
        TRY(weight_new(j->device, &source, 32, &j->root));
    }
    return device_upload(j->device, &j->root, 1, j->root_memory, j->root_bytes, &j->root_uploaded);
}

static struct error find_root(struct root_search *r, const struct unet *unet)
{
    int64_t width = r->j->width;
    TRY(find_m(r, unet));
    if (device_computes(r->j->device))
        TRY(symmetric_eigen(r->m, width, r->values, r->vectors));
    for (int64_t i = 0; i < width * width; i++)
        r->root[i] = (float)(sqrt(fmax(r->values[i / width], 0)) * r->vectors[i]);
    return keep_root(r->j, r->root);
}

static struct error make_root(struct text_jacobian *j, const struct unet *unet, struct pool *pool)
{
    int64_t width = j->width;
    struct root_search r = {.j = j,
                            .pool = pool,
                            .m = memory_alloc(width * width, sizeof *r.m),
                            .values = memory_alloc(width, sizeof *r.values),
                            .vectors = memory_alloc(width * width, sizeof *r.vectors),
                            .root = memory_alloc(width * width, sizeof *r.root)};
    bool all = r.m && r.values && r.vectors && r.root;
    struct error e = all ? find_root(&r, unet) : error_memory("the cross-attentions' products");
    memory_free(r.m);
    memory_free(r.values);
    memory_free(r.vectors);
    memory_free(r.root);
    return e;
}

/* -------------------------------------------------------------------------------- lanes */

/* Lane 0 is the word and each other one a tangent. */
static int64_t lanes_of(const struct text_jacobian *j)
{
    return 1 + j->columns;
}

static struct error body(void *arg)
{
    const struct text_jacobian *j = arg;
    struct device *d = j->device;
    const struct tangents tangents = {.primal = 1, .of = j->of, .scale = j->text->tangent_scale};
    tangents_begin(d, &tangents);
    struct tensor hidden = text_encoder_forward(d, j->text, j->ids, j->rows, j->first_id);
    op_linear(d, j->out, hidden, j->root, (struct epilogue){0});
    device_free(d, &hidden);
    tangents_end(d);
    return ok();
}

static void free_lanes(struct text_jacobian *j)
{
    program_free(j->program);
    j->program = NULL;
    struct tensor *const kept[] = {&j->ids, &j->rows, &j->of, &j->out};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        device_free_state(j->device, kept[i]);
}

static struct error make_lanes(struct text_jacobian *j, int64_t columns)
{
    struct device *d = j->device;
    j->columns = columns;
    int64_t lanes = lanes_of(j);
    TRY(device_alloc_state(d, I32, lanes, 1, j->length, 1, &j->ids));
    TRY(device_alloc_state(d, F32, lanes, 1, j->vectors, j->width, &j->rows));
    TRY(device_alloc_state(d, I32, 1, 1, 1, lanes, &j->of)); // zeros: all are tangents of lane 0
    TRY(device_alloc_state(d, F32, lanes, 1, j->length, j->width, &j->out));
    return program_new(d, body, j, &j->program);
}

/* As many columns as the arena has room for, by what one and two of them need. */
static struct error choose_columns(struct text_jacobian *j, int64_t arena, int64_t *columns)
{
    int64_t bytes[2] = {0};
    for (int i = 0; i < 2; i++) {
        TRY(make_lanes(j, i + 1));
        bytes[i] = program_bytes(j->program);
        free_lanes(j);
    }
    int64_t more = bytes[1] > bytes[0] ? (arena - bytes[0]) / (bytes[1] - bytes[0]) : 0;
    *columns = least(more > 0 ? 1 + more : 1, least(COLUMNS_AT_ONCE, j->dim));
    return ok();
}

static struct error make(struct text_jacobian *j, const struct unet *unet, int64_t arena, struct pool *pool)
{
    int64_t columns;
    TRY(make_root(j, unet, pool));
    TRY(choose_columns(j, arena, &columns));
    TRY(make_lanes(j, columns));
    j->batches = (j->dim + columns - 1) / columns;
    int64_t lanes = lanes_of(j);
    j->ids_now = memory_alloc(lanes * j->length, sizeof *j->ids_now);
    j->rows_now = memory_alloc(lanes * j->dim, sizeof *j->rows_now);
    j->found = memory_alloc(lanes * j->length * j->width, sizeof *j->found);
    return j->ids_now && j->rows_now && j->found ? ok() : error_memory("the text encoder's derivatives");
}

struct error text_jacobian_new(struct text_jacobian *j, struct device *device, const struct text_encoder *text,
                               const struct unet *unet, const struct text_jacobian_shape *shape, int64_t arena,
                               struct pool *pool)
{
    *j = (struct text_jacobian){.device = device,
                                .text = text,
                                .dim = shape->vectors * text->config.width,
                                .length = shape->length,
                                .vectors = shape->vectors,
                                .width = text->config.width,
                                .first_id = shape->first_id};
    struct error e = make(j, unet, arena, pool);
    if (e.code != ERROR_NONE)
        text_jacobian_free(j);
    return e;
}

void text_jacobian_free(struct text_jacobian *j)
{
    if (!j->device)
        return;
    free_lanes(j);
    weight_free(j->root);
    device_upload_free(j->device, j->root_uploaded, j->root_bytes);
    memory_free(j->root_memory);
    memory_free(j->ids_now);
    memory_free(j->rows_now);
    memory_free(j->found);
    memory_free(j->jacobian);
    *j = (struct text_jacobian){0};
}

/* -------------------------------------------------------------------------------- a caption */

static void write_lanes(const struct text_jacobian *j, const int32_t *ids, const float *embedding, int64_t first)
{
    int64_t lanes = lanes_of(j);
    for (int64_t l = 0; l < lanes; l++) {
        float *row = j->rows_now + l * j->dim;
        int64_t column = first + l - 1;
        memcpy(j->ids_now + l * j->length, ids, (size_t)j->length * sizeof *ids);
        memset(row, 0, (size_t)j->dim * sizeof *row);
        if (l == 0)
            memcpy(row, embedding, (size_t)j->dim * sizeof *row);
        else if (column < j->dim)
            row[column] = 1;
    }
    device_write(j->device, j->ids, j->ids_now);
    device_write(j->device, j->rows, j->rows_now);
}

/* Of the batch's columns, which are in `found`, the numbers from position `from` on. */
static void keep_columns(const struct text_jacobian *j, int64_t first, int64_t from)
{
    int64_t lane = j->length * j->width, count = lane - from * j->width, end = least(first + j->columns, j->dim);
    for (int64_t c = first; c < end; c++) {
        const float *at = j->found + (1 + c - first) * lane + from * j->width;
        float *to = j->jacobian + c * count;
        for (int64_t i = 0; i < count; i++)
            to[i] = (float)((double)at[i] / j->text->tangent_scale);
    }
}

struct error text_jacobian_add(struct text_jacobian *j, const int32_t *ids, const float *embedding, int64_t k,
                               double *products, struct pool *pool)
{
    int64_t first = k * j->columns, from = 0;
    while (from < j->length && ids[from] < j->first_id)
        from++;
    int64_t count = (j->length - from) * j->width;
    if (k == 0) {
        memory_free(j->jacobian);
        j->jacobian = memory_alloc(j->dim * count, sizeof *j->jacobian);
    }
    if (!j->jacobian)
        return error_memory("the text encoder's derivatives");
    write_lanes(j, ids, embedding, first);
    TRY(program_run(j->program));
    device_read(j->device, j->found, j->out);
    TRY(device_wait(j->device));
    keep_columns(j, first, from);
    const struct vectors_view view = {j->jacobian, j->dim, count, count, 1};
    struct error e = symmetric_add_products(products, &view, first, least(first + j->columns, j->dim), pool);
    if (k + 1 == j->batches) {
        memory_free(j->jacobian);
        j->jacobian = NULL;
    }
    return e;
}
