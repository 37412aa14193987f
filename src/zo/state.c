#include "zo/state.h"

#include <string.h>
#include <zlib.h>

#include "base/memory.h"

struct error state_new(struct state *s, int64_t dim, int64_t tau, double nu)
{
    *s = (struct state){.dim = dim};
    s->embedding = memory_alloc(dim, sizeof *s->embedding);
    s->m = memory_alloc(dim, sizeof *s->m);
    s->v = memory_alloc(dim, sizeof *s->v);
    s->best = memory_alloc(dim, sizeof *s->best);
    struct error e =
        s->embedding && s->m && s->v && s->best ? subspace_new(&s->subspace, dim, tau, nu) : error_memory("the state");
    if (e.code != ERROR_NONE)
        state_free(s);
    return e;
}

void state_free(struct state *s)
{
    memory_free(s->embedding);
    memory_free(s->m);
    memory_free(s->v);
    memory_free(s->best);
    subspace_free(&s->subspace);
    basis_free(&s->basis);
    memory_free(s->outliers);
    *s = (struct state){0};
}

int64_t state_moments(const struct state *s)
{
    return s->coordinates ? s->basis.rank : s->dim;
}

struct error state_broadcast(struct state *s, struct comm *comm)
{
    int64_t counts[] = {s->step, s->subspace.filled, s->subspace.removed_rows, s->basis.rank, s->outlier_count};
    TRY(comm_broadcast(comm, counts, sizeof counts, 0));
    s->step = counts[0];
    s->subspace.filled = counts[1];
    s->subspace.removed_rows = counts[2];
    TRY(comm_broadcast(comm, &s->looked, sizeof s->looked, 0));
    TRY(comm_broadcast(comm, &s->ending, sizeof s->ending, 0));
    TRY(comm_broadcast(comm, &s->noise, sizeof s->noise, 0));
    if (s->basis.rank != counts[3]) // no other rank had any
        s->basis.rows = memory_alloc(counts[3] * s->basis.dim, sizeof *s->basis.rows);
    s->basis.rank = counts[3];
    if (s->outlier_count != counts[4])
        s->outliers = memory_alloc(2 * counts[4], sizeof *s->outliers);
    s->outlier_count = counts[4];
    bool room = (s->basis.rank == 0 || s->basis.rows) && (s->outlier_count == 0 || s->outliers);
    TRY(comm_agree(comm, room ? ok() : error_memory("the state")));
    float *const rows[STATE_TENSORS] = {s->embedding,        s->m,    s->v,          s->subspace.history,
                                        s->subspace.removed, s->best, s->basis.rows, s->noise.slopes[0],
                                        s->outliers};
    struct entry tensors[STATE_TENSORS];
    state_tensors(s, tensors);
    for (int i = 0; i < STATE_TENSORS; i++)
        TRY(comm_broadcast(comm, rows[i], tensors[i].count * (int64_t)sizeof(float), 0));
    return ok();
}

bool state_due(const struct state *s, int64_t period)
{
    return period > 0 && s->step % period == 0;
}

const float *state_kept(const struct state *s)
{
    return s->looked.best_step > 0 ? s->best : s->embedding;
}

int64_t state_kept_step(const struct state *s)
{
    return s->looked.best_step > 0 ? s->looked.best_step : s->step;
}

static struct entry rows_entry(const char *name, const float *data, int64_t rows, int64_t dim)
{
    return (struct entry){
        .name = name, .type = F32, .dimensions = 2, .shape = {rows, dim}, .count = rows * dim, .data = data};
}

void state_tensors(const struct state *s, struct entry tensors[STATE_TENSORS])
{
    tensors[0] = rows_entry("embedding", s->embedding, 1, s->dim);
    tensors[1] = rows_entry("m", s->m, 1, state_moments(s));
    tensors[2] = rows_entry("v", s->v, 1, state_moments(s));
    tensors[3] = rows_entry("history", s->subspace.history, s->subspace.filled, s->dim);
    tensors[4] = rows_entry("noise", s->subspace.removed, s->subspace.removed_rows, s->dim);
    tensors[STATE_BEST] = rows_entry("best", s->best, s->looked.best_step > 0, s->dim);
    tensors[STATE_BASIS] = rows_entry("basis", s->basis.rows, s->basis.rank, s->basis.dim);
    tensors[STATE_SLOPES] = rows_entry("slopes", s->noise.slopes[0], s->noise.count, 2);
    tensors[STATE_OUTLIERS] = rows_entry("outliers", s->outliers, s->outlier_count, 2);
}

uint32_t state_crc(uint32_t sum, const struct entry tensors[STATE_TENSORS])
{
    for (int i = 0; i < STATE_TENSORS; i++) {
        if (i >= STATE_ALWAYS && tensors[i].count == 0)
            continue;
        sum = (uint32_t)crc32_z(sum, (const void *)tensors[i].shape, 2 * sizeof *tensors[i].shape);
        if (tensors[i].count > 0)
            sum = (uint32_t)crc32_z(sum, tensors[i].data, (size_t)tensors[i].count * sizeof(float));
    }
    return sum;
}

uint32_t state_hash(const struct state *s)
{
    struct entry tensors[STATE_TENSORS];
    char looked[LOOKED_TEXT], ending[ENDING_TEXT], noise[SLOPE_NOISE_TEXT];
    struct ending agreed = s->ending;
    agreed.seconds = 0; // rank 0's alone
    state_tensors(s, tensors);
    looked_text(looked, &s->looked);
    ending_text(ending, &agreed);
    slope_noise_text(noise, &s->noise);
    uint32_t sum = (uint32_t)crc32_z(0, (const void *)looked, strlen(looked));
    sum = (uint32_t)crc32_z(sum, (const void *)noise, strlen(noise));
    return state_crc((uint32_t)crc32_z(sum, (const void *)ending, strlen(ending)), tensors);
}
