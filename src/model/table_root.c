#include "model/table_root.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/symmetric.h"

/* Rows less their mean, in place. */
static void centre(float *rows, int64_t count, int64_t width)
{
    for (int64_t i = 0; i < width; i++) {
        double sum = 0;
        for (int64_t r = 0; r < count; r++)
            sum += rows[r * width + i];
        for (int64_t r = 0; r < count; r++)
            rows[r * width + i] = (float)(rows[r * width + i] - sum / (double)count);
    }
}

/* root = sum over i of sqrt(values[i]) vectors[i] vectors[i]t, with negative values, which are rounding, as 0; scaled. */
static void put_root(float *root, const double *values, const double *vectors, double *room, int64_t width)
{
    double trace = 0;
    for (int64_t i = 0; i < width; i++)
        trace += fmax(values[i], 0);
    double scale = trace > 0 ? sqrt((double)width / trace) : 1;
    memset(room, 0, (size_t)(width * width) * sizeof *room);
    for (int64_t k = 0; k < width; k++) {
        const double *v = vectors + k * width;
        double weight = trace > 0 ? scale * sqrt(fmax(values[k], 0)) : 1; // rows that are all equal
        for (int64_t i = 0; i < width; i++)
            for (int64_t j = 0; j < width; j++)
                room[i * width + j] += weight * v[i] * v[j];
    }
    for (int64_t i = 0; i < width * width; i++)
        root[i] = (float)room[i];
}

static struct error read_rows(const struct text_encoder *text, int64_t count, float *rows)
{
    for (int64_t id = 0; id < count; id++)
        TRY(text_encoder_row(text, (int32_t)id, rows + id * text->config.width));
    return ok();
}

struct error table_root_find(const struct text_encoder *text, int64_t count, float *root, struct pool *pool)
{
    int64_t width = text->config.width;
    float *rows = memory_alloc(count * width, sizeof *rows);
    double *room = memory_alloc(2 * width * width + width, sizeof *room);
    double *vectors = room + width * width, *values = vectors + width * width;
    struct error e = rows && room ? read_rows(text, count, rows) : error_memory("the token table's covariance");
    const struct vectors_view view = {rows, width, count, 1, width};
    if (e.code == ERROR_NONE) {
        centre(rows, count, width);
        e = symmetric_add_products(room, &view, 0, width, pool);
    }
    if (e.code == ERROR_NONE)
        e = symmetric_eigen(room, width, values, vectors);
    if (e.code == ERROR_NONE)
        put_root(root, values, vectors, room, width);
    memory_free(rows);
    memory_free(room);
    return e;
}
