#include <math.h>
#include <string.h>

#include "device/cpu/cpu.h"

/* -------------------------------------------------------------------------------- copy */

enum { ROWS = 64 }; /* positions in a task */

struct copy {
    struct tensor y, x, map;
    int64_t lanes; /* of y that are copied; all others are tangents of what does not depend on the word */
};

static int64_t row_tasks(struct tensor y)
{
    return (y.lanes * tensor_positions(y) + ROWS - 1) / ROWS;
}

static char *row_bytes(struct tensor t, int64_t lane, int64_t position)
{
    return (char *)tensor_data(t) + (lane * t.lane_stride + position * t.row_stride) * dtype_size(t.type);
}

static void copy_task(void *arg, int64_t i, int thread)
{
    (void)thread;
    const struct copy *p = arg;
    int64_t positions = tensor_positions(p->y), end = smaller((i + 1) * ROWS, p->y.lanes * positions);
    for (int64_t r = i * ROWS; r < end; r++) {
        int64_t lane = r / positions;
        char *y = row_bytes(p->y, lane, r % positions);
        size_t bytes = (size_t)(p->y.channels * dtype_size(p->y.type));
        if (lane < p->lanes)
            memmove(y, row_bytes(p->x, mapped_lane(p->map, lane), r % positions), bytes);
        else
            memset(y, 0, bytes);
    }
}

/* Does the map name a lane that x does not have? Its contents are known only now. */
static bool names_missing_lane(struct tensor map, int64_t lanes, int64_t source_lanes)
{
    for (int64_t l = 0; l < lanes; l++)
        if (mapped_lane(map, l) < 0 || mapped_lane(map, l) >= source_lanes)
            return true;
    return false;
}

/* Is a lane's primal not what struct tangents allows? */
static bool has_wrong_primal(struct tensor of, int64_t lanes, int64_t primal)
{
    for (int64_t l = 0; l < lanes; l++)
        if (mapped_lane(of, l) < 0 || mapped_lane(of, l) >= primal || (l < primal && mapped_lane(of, l) != l))
            return true;
    return false;
}

void cpu_copy(struct device *device, struct tensor y, struct tensor x, struct tensor map)
{
    struct copy p = {.y = y, .x = x, .map = map, .lanes = only_primal(device, x, y) ? x.lanes : y.lanes};
    if (names_missing_lane(map, p.lanes, x.lanes))
        device_fail(device, error_failed("op_copy: the map names a lane that does not exist"));
    else
        pool_run(cpu_of(device)->pool, row_tasks(y), copy_task, &p);
}

/* -------------------------------------------------------------------------------- embeddings */

struct embedding {
    struct tensor y, ids, rows;
    const struct weight *table, *positions;
    int64_t first;
    int64_t primal; /* lanes, others being tangents */
    float scale;    /* of tangents */
};

static const void *table_row(const struct weight *table, int64_t row)
{
    return (const char *)table->data + row * table->in * dtype_size(table->type);
}

static int32_t id_at(struct tensor ids, int64_t lane, int64_t position)
{
    return ((const int32_t *)tensor_data(ids))[lane * ids.lane_stride + position * ids.row_stride];
}

/* Only the word's rows have a derivative: a tangent lane's own, which are its direction. */
static void embed_tangent(const struct embedding *e, int64_t lane, int64_t place)
{
    int64_t id = id_at(e->ids, lane, place), dim = e->y.channels;
    float *y = tensor_row(e->y, lane, place);
    const float *z = id >= e->first ? tensor_row(e->rows, lane, id - e->first) : NULL;
    for (int64_t c = 0; c < dim; c++)
        y[c] = z ? e->scale * z[c] : 0;
}

/* Task: one position of one lane. */
static void embed_task(void *arg, int64_t i, int thread)
{
    enum { PIECE = 256 };
    (void)thread;
    const struct embedding *e = arg;
    int64_t length = tensor_positions(e->y), lane = i / length, place = i % length, dim = e->y.channels;
    if (lane >= e->primal) {
        embed_tangent(e, lane, place);
        return;
    }
    int64_t id = id_at(e->ids, lane, place), size = dtype_size(e->positions->type);
    float *y = tensor_row(e->y, lane, place), piece[PIECE];
    if (id >= e->first)
        memcpy(y, tensor_row(e->rows, lane, id - e->first), (size_t)dim * sizeof *y);
    else
        dtype_to_float(y, table_row(e->table, id), e->table->type, dim);
    for (int64_t c = 0; c < dim; c += PIECE) {
        int64_t count = smaller(PIECE, dim - c);
        dtype_to_float(piece, (const char *)table_row(e->positions, place) + c * size, e->positions->type, count);
        for (int64_t j = 0; j < count; j++)
            y[c + j] += piece[j];
    }
}

/* Is there an id without a row? Contents are known only when the op runs. */
static bool find_bad_id(const struct embedding *e, int32_t *bad)
{
    int64_t length = tensor_positions(e->ids), vectors = tensor_positions(e->rows);
    for (int64_t i = 0; i < e->ids.lanes * length; i++) {
        int32_t id = id_at(e->ids, i / length, i % length);
        if (id >= 0 && (id >= e->first ? id - e->first < vectors : id < e->table->out))
            continue;
        *bad = id;
        return true;
    }
    return false;
}

void cpu_embed(struct device *device, struct tensor y, struct tensor ids, const struct weight *table,
               const struct weight *positions, struct tensor rows, int64_t first)
{
    struct embedding e = {.y = y, .ids = ids, .rows = rows, .table = table, .positions = positions, .first = first};
    e.primal = primal_lanes(device, y);
    e.scale = (float)device->tangents.scale;
    int32_t bad;
    if (find_bad_id(&e, &bad))
        device_fail(device, error_failed("op_embed: token id %d has no row", (int)bad));
    else if (has_wrong_primal(device->tangents.of, y.lanes, e.primal))
        device_fail(device, error_failed("op_embed: a tangent of a lane that is not primal"));
    else
        pool_run(cpu_of(device)->pool, y.lanes * tensor_positions(y), embed_task, &e);
}

/* As diffusers does in float: e_j = exp(-log(10000) j / (half - shift)), then sin(t e_j) and cos(t e_j). The three
 * functions are computed in double and rounded once. */
void cpu_timestep(struct device *device, struct tensor y, struct tensor t, bool flip_sin_to_cos, float shift)
{
    (void)device;
    int64_t half = y.channels / 2;
    for (int64_t lane = 0; lane < y.lanes; lane++) {
        float step = *tensor_row(t, lane, 0), *to = tensor_row(y, lane, 0);
        for (int64_t j = 0; j < half; j++) {
            float exponent = -9.210340371976184f * (float)j / ((float)half - shift);
            float angle = step * (float)exp((double)exponent);
            to[flip_sin_to_cos ? half + j : j] = (float)sin((double)angle);
            to[flip_sin_to_cos ? j : half + j] = (float)cos((double)angle);
        }
        if (y.channels % 2)
            to[y.channels - 1] = 0;
    }
}

/* -------------------------------------------------------------------------------- loss */

struct loss {
    const struct kernels *kernels;
    struct tensor slots, pred, target, map, mask;
    int64_t primal; /* lanes, others being tangents */
    struct tangents tangents;
};

/* Runs of numbers of one weight that lie one after the other in predictions and targets: a whole lane, or each of its
 * positions. */
static int64_t runs_of(const struct loss *l)
{
    bool dense = !l->mask.base && l->pred.row_stride == l->pred.channels && l->target.row_stride == l->target.channels;
    return dense ? 1 : tensor_positions(l->pred);
}

/* Task: one lane. A tangent's is the loss's derivative, from its primal's prediction and target. */
static void loss_task(void *arg, int64_t lane, int thread)
{
    (void)thread;
    const struct loss *l = arg;
    bool tangent = lane >= l->primal;
    int64_t primal = mapped_lane(l->tangents.of, lane), from = mapped_lane(l->map, primal);
    int64_t numbers = tensor_positions(l->pred) * l->pred.channels, runs = runs_of(l), count = numbers / runs;
    double sum = 0;
    for (int64_t r = 0; r < runs; r++) {
        const float *pred = tensor_row(l->pred, primal, r), *target = tensor_row(l->target, from, r);
        double run = tangent ? l->kernels->error_product(pred, target, tensor_row(l->pred, lane, r), count)
                             : l->kernels->squared_error(pred, target, count);
        sum += l->mask.base ? (double)*tensor_row(l->mask, from, r) * run : run;
    }
    double mean = tangent ? 2 * sum / (double)numbers / l->tangents.scale : sum / (double)numbers;
    ((double *)tensor_data(l->slots))[lane * l->slots.lane_stride] = mean;
}

void cpu_loss(struct device *device, struct tensor slots, struct tensor pred, struct tensor target, struct tensor map,
              struct tensor mask)
{
    const struct cpu *cpu = cpu_of(device);
    struct loss l = {.kernels = cpu->kernels, .slots = slots, .pred = pred, .target = target, .map = map, .mask = mask};
    l.primal = primal_lanes(device, pred);
    l.tangents = device->tangents;
    if (names_missing_lane(map, pred.lanes, target.lanes))
        device_fail(device, error_failed("op_loss: the map names a lane that does not exist"));
    else if (has_wrong_primal(l.tangents.of, pred.lanes, l.primal))
        device_fail(device, error_failed("op_loss: a tangent of a lane that is not primal"));
    else
        pool_run(cpu->pool, pred.lanes, loss_task, &l);
}
