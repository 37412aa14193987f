#include <math.h>
#include <string.h>

#include "device/cpu/cpu.h"

/* Sums run in double, in an order that follows from the shape of one lane. */

struct norm {
    const struct cpu *cpu;
    const struct kernels *kernels;
    struct tensor y, x;
    const struct weight *weight;
    int64_t groups;
    float eps;
    enum act act;
    int64_t slab_groups, slabs; /* groups in a task: enough that it reads whole cache lines */
};

/* scale and shift [count] that normalize and apply gain and bias, for channels [first, first + count) of one group. */
static void coefficients(const struct norm *n, float *scale, float *shift, int64_t first, int64_t count, double sum,
                         double square, double numbers)
{
    const float *gain = n->weight->data, *bias = n->weight->bias;
    double mean = sum / numbers, variance = square / numbers - mean * mean;
    double factor = 1 / sqrt((variance > 0 || isnan(variance) ? variance : 0) + (double)n->eps);
    for (int64_t c = 0; c < count; c++) {
        double by = gain[first + c] * factor;
        scale[c] = (float)by;
        shift[c] = (float)((bias ? bias[first + c] : 0) - mean * by);
    }
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
    int64_t lane = i / n->slabs, group = i % n->slabs * n->slab_groups, size = n->x.channels / n->groups;
    int64_t groups = smaller(n->slab_groups, n->groups - group), first = group * size, count = groups * size;
    double *sum = (double *)cpu_scratch(n->cpu, thread), *square = sum + count;
    float *scale = (float *)(square + count), *shift = scale + count;
    memset(sum, 0, (size_t)(2 * count) * sizeof *sum);
    for (int64_t p = 0; p < tensor_positions(n->x); p++)
        n->kernels->gather_moments(sum, square, tensor_row(n->x, lane, p) + first, count);
    for (int64_t g = 0; g < groups; g++)
        coefficients(n, scale + g * size, shift + g * size, first + g * size, size, total_of(sum + g * size, size),
                     total_of(square + g * size, size), (double)(size * tensor_positions(n->x)));
    for (int64_t p = 0; p < tensor_positions(n->x); p++)
        n->kernels->scale_shift(tensor_row(n->y, lane, p) + first, tensor_row(n->x, lane, p) + first, scale, shift,
                                count, n->act);
}

enum { ROWS = 16 }; /* positions in a layer norm's task */

static void layer_task(void *arg, int64_t i, int thread)
{
    const struct norm *n = arg;
    int64_t positions = tensor_positions(n->x), end = smaller((i + 1) * ROWS, n->x.lanes * positions);
    int64_t channels = n->x.channels;
    float *scale = cpu_scratch(n->cpu, thread), *shift = scale + channels;
    for (int64_t r = i * ROWS; r < end; r++) {
        const float *x = tensor_row(n->x, r / positions, r % positions);
        double sum, square;
        n->kernels->row_moments(&sum, &square, x, channels);
        coefficients(n, scale, shift, 0, channels, sum, square, (double)channels);
        n->kernels->scale_shift(tensor_row(n->y, r / positions, r % positions), x, scale, shift, channels, n->act);
    }
}

void cpu_norm(struct device *device, struct tensor y, struct tensor x, const struct weight *w, int64_t groups,
              float eps, enum act act)
{
    enum { SLAB = 32 };
    struct norm n = {.cpu = cpu_of(device), .y = y, .x = x, .weight = w, .groups = groups, .eps = eps, .act = act};
    n.kernels = n.cpu->kernels;
    if (groups == 0) {
        pool_run(n.cpu->pool, (x.lanes * tensor_positions(x) + ROWS - 1) / ROWS, layer_task, &n);
        return;
    }
    int64_t size = x.channels / groups;
    n.slab_groups = (SLAB + size - 1) / size;
    n.slabs = (groups + n.slab_groups - 1) / n.slab_groups;
    pool_run(n.cpu->pool, x.lanes * n.slabs, group_task, &n);
}
