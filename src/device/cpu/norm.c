#include <math.h>
#include <string.h>

#include "device/cpu/cpu.h"

/* Sums run in double, in an order that follows from the shape of one lane.
 *
 * A tangent's task sums its primal's numbers for itself, beside its own. y may be x, so all tangents are written before
 * any of the primal lanes that they read. */

struct norm {
    const struct cpu *cpu;
    const struct kernels *kernels;
    struct tensor y, x;
    const struct weight *weight;
    int64_t groups;
    float eps;
    enum act act;
    struct tensor of;          /* each lane's primal; base NULL: there are no tangents */
    int64_t first_lane, lanes; /* that are being written */
    int64_t slab_groups, slabs;
};

/* Over the numbers of a group: x, x^2, and in a tangent's task x. and x. x. */
struct sums {
    double x, square, dot, product;
    double numbers;
};

/* A task's channels, in its thread's scratch: coefficients, and sums over positions [channels]. */
struct channels {
    struct norm_slope by;
    double *x, *square, *dot, *product;
};
_Static_assert(NORM_CHANNELS *(6 * sizeof(float) + 4 * sizeof(double)) <= SCRATCH_BYTES, "a task of the most channels");

static struct channels channels_of(const struct norm *n, int thread, int64_t count)
{
    double *d = (double *)cpu_scratch(n->cpu, thread);
    float *f = (float *)(d + 4 * count);
    struct norm_slope by = {f, f + count, f + 2 * count, f + 3 * count, f + 4 * count, f + 5 * count};
    return (struct channels){by, d, d + count, d + 2 * count, d + 3 * count};
}

/* Scale and shift that normalize and apply gain and bias, for channels [first, first + count) of a group, which are
 * those from `at` on of the task's. Returns 1 / sqrt(var + eps). */
static double coefficients(const struct norm *n, const struct channels *c, int64_t at, int64_t first, int64_t count,
                           struct sums s)
{
    const float *gain = n->weight->data, *bias = n->weight->bias;
    float *scale = c->by.scale + at, *shift = c->by.shift + at;
    double mean = s.x / s.numbers, variance = s.square / s.numbers - mean * mean;
    double factor = 1 / sqrt((variance > 0 || isnan(variance) ? variance : 0) + (double)n->eps);
    for (int64_t i = 0; i < count; i++) {
        double by = gain[first + i] * factor;
        scale[i] = (float)by;
        shift[i] = (float)((bias ? bias[first + i] : 0) - mean * by);
    }
    return factor;
}

/* The other coefficients, which a tangent needs too: the same for all channels of a group. */
static void tangent_coefficients(const struct channels *c, int64_t at, int64_t count, struct sums s, double factor)
{
    double mean = s.x / s.numbers, dot_mean = s.dot / s.numbers;
    double pull = factor * factor * (s.product / s.numbers - mean * dot_mean);
    double rest = pull * (mean - (float)mean) - (dot_mean - (float)dot_mean);
    for (int64_t i = at; i < at + count; i++) {
        c->by.mean[i] = (float)mean;
        c->by.dot_mean[i] = (float)dot_mean;
        c->by.pull[i] = (float)pull;
        c->by.rest[i] = (float)rest;
    }
}

/* Writes a tangent's channels [first, first + count) of one position. */
static void write_tangent(const struct norm *n, int64_t lane, int64_t primal, int64_t position, int64_t first,
                          int64_t count, const struct norm_slope *by)
{
    const float *x = tensor_row(n->x, primal, position) + first, *dot = tensor_row(n->x, lane, position) + first;
    n->kernels->norm_slope(tensor_row(n->y, lane, position) + first, dot, x, by, count, n->act);
}

static double total_of(const double *sums, int64_t count)
{
    double total = 0;
    for (int64_t i = 0; i < count; i++)
        total += sums[i];
    return total;
}

/* Task: some groups of one lane. Each channel is summed over all positions, then a group over its channels. */
static void group_task(void *arg, int64_t i, int thread)
{
    const struct norm *n = arg;
    int64_t lane = n->first_lane + i / n->slabs, primal = mapped_lane(n->of, lane);
    int64_t group = i % n->slabs * n->slab_groups, size = n->x.channels / n->groups;
    int64_t groups = smaller(n->slab_groups, n->groups - group), first = group * size, count = groups * size;
    struct channels c = channels_of(n, thread, count);
    memset(c.x, 0, (size_t)(4 * count) * sizeof *c.x);
    for (int64_t p = 0; p < tensor_positions(n->x); p++) {
        const float *x = tensor_row(n->x, primal, p) + first;
        n->kernels->gather_moments(c.x, c.square, x, count);
        if (lane != primal)
            n->kernels->gather_products(c.dot, c.product, tensor_row(n->x, lane, p) + first, x, count);
    }
    for (int64_t at = 0; at < count; at += size) {
        struct sums s = {total_of(c.x + at, size), total_of(c.square + at, size), total_of(c.dot + at, size),
                         total_of(c.product + at, size), (double)(size * tensor_positions(n->x))};
        double factor = coefficients(n, &c, at, first + at, size, s);
        if (lane != primal)
            tangent_coefficients(&c, at, size, s, factor);
    }
    for (int64_t p = 0; lane == primal && p < tensor_positions(n->x); p++)
        n->kernels->scale_shift(tensor_row(n->y, lane, p) + first, tensor_row(n->x, lane, p) + first, c.by.scale,
                                c.by.shift, count, n->act);
    for (int64_t p = 0; lane != primal && p < tensor_positions(n->x); p++)
        write_tangent(n, lane, primal, p, first, count, &c.by);
}

enum { ROWS = 16 }; /* positions in a layer norm's task */

static void layer_task(void *arg, int64_t i, int thread)
{
    const struct norm *n = arg;
    int64_t positions = tensor_positions(n->x), end = smaller((i + 1) * ROWS, n->lanes * positions);
    int64_t channels = n->x.channels;
    struct channels c = channels_of(n, thread, channels);
    for (int64_t r = i * ROWS; r < end; r++) {
        int64_t lane = n->first_lane + r / positions, primal = mapped_lane(n->of, lane), position = r % positions;
        const float *x = tensor_row(n->x, primal, position);
        struct sums s = {.numbers = (double)channels};
        n->kernels->row_moments(&s.x, &s.square, x, channels);
        double factor = coefficients(n, &c, 0, 0, channels, s);
        if (lane == primal) {
            float *y = tensor_row(n->y, lane, position);
            n->kernels->scale_shift(y, x, c.by.scale, c.by.shift, channels, n->act);
            continue;
        }
        n->kernels->row_products(&s.dot, &s.product, tensor_row(n->x, lane, position), x, channels);
        tangent_coefficients(&c, 0, channels, s, factor);
        write_tangent(n, lane, primal, position, 0, channels, &c.by);
    }
}

/* Groups in a task: as many as fill two cache lines of a position, or one if there are more threads than tasks. */
static void cut_into_slabs(struct norm *n)
{
    enum { LINE = 16 };
    int64_t size = n->x.channels / n->groups;
    for (int64_t channels = 2 * LINE; channels >= LINE; channels /= 2) {
        n->slab_groups = (channels + size - 1) / size;
        n->slabs = (n->groups + n->slab_groups - 1) / n->slab_groups;
        if (n->lanes * n->slabs >= pool_threads(n->cpu->pool))
            break;
    }
}

static void norm_lanes(struct norm *n, int64_t first, int64_t count)
{
    n->first_lane = first;
    n->lanes = count;
    if (n->groups == 0) {
        pool_run(n->cpu->pool, (count * tensor_positions(n->x) + ROWS - 1) / ROWS, layer_task, n);
        return;
    }
    cut_into_slabs(n);
    pool_run(n->cpu->pool, count * n->slabs, group_task, n);
}

void cpu_norm(struct device *device, struct tensor y, struct tensor x, const struct weight *w, int64_t groups,
              float eps, enum act act)
{
    struct norm n = {.cpu = cpu_of(device), .y = y, .x = x, .weight = w, .groups = groups, .eps = eps, .act = act};
    int64_t primal = primal_lanes(device, x);
    n.kernels = n.cpu->kernels;
    n.of = device->tangents.of;
    if (primal < x.lanes)
        norm_lanes(&n, primal, x.lanes - primal);
    norm_lanes(&n, 0, primal);
}

void cpu_channel_rms(struct device *device, double *rms, struct tensor x, int64_t lane)
{
    int64_t positions = tensor_positions(x);
    (void)device;
    memset(rms, 0, (size_t)x.channels * sizeof *rms);
    for (int64_t i = 0; i < positions; i++)
        for (int64_t c = 0; c < x.channels; c++)
            rms[c] += (double)tensor_row(x, lane, i)[c] * (double)tensor_row(x, lane, i)[c];
    for (int64_t c = 0; c < x.channels; c++)
        rms[c] = sqrt(rms[c] / (double)positions);
}
