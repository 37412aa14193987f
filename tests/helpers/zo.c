/* zo OPERATION IN.safetensors OUT.safetensors [NUMBER]...
 *
 *     subspace TAU NU      `history` F32 [rows, dim], pushed row by row, `gradient` F64 [1, dim]
 *                          -> `removed`, `gradient`
 *     adam B1 B2 EPS       `embedding` F32 [1, dim], `gradients` F64 [steps, dim], `rates` F64 [1, steps]
 *                          -> `embeddings`
 *     gradient SIDES EPS REMOVED   `slots` F64 [SIDES n + 1, batch]: losses, or if SIDES is 0 [n + 1, batch]: losses of
 *                          the batch and slopes; `directions` F32 [n, dim], or [batch n, dim] -> `gradient` F64
 *     coordinates SIDES EPS   `slots` as above, `weights` F32 [n, rank], or [batch n, rank], of the directions in
 *                          `basis` F32 [rank, dim], `removed` F32 [rows, dim] -> `directions`, `gradient`, and
 *                          `embedding` [1, dim], `m` and `v` [1, rank] after one update from zeros
 *
 * zo rates SCHEDULE LR STEPS WARMUP DECAY   prints a learning rate a line
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/lr_schedule.h"
#include "base/memory.h"
#include "device/kinds.h"
#include "files/safetensors.h"
#include "files/safetensors_write.h"
#include "helper.h"
#include "zo/optimizer.h"
#include "zo/subspace.h"

/* op_update on plain arrays, on the device that the environment's DEVICE names (cpu without it). */
struct job {
    int64_t dim, n, sides, batch, rows, removed_rows; /* rows: of directions */
    bool tangents;
    const double *slots, *rates; /* [(sides n + 1) batch], [3] */
    const float *directions, *removed;
    int64_t rank; /* with a basis, in which directions are weights; else 0 */
    const float *basis;
    float *mixed; /* out */
    double eps, beta1, beta2, adam_eps;
    float *embedding, *m, *v; /* in and out */
    double *gradient;         /* out */
};

/* The tensors of an update, filled in from the job. */
static struct error make_update(struct update *u, struct device *d, const struct job *j)
{
    int64_t lanes = (j->sides * j->n + 1) * j->batch, moments = j->rank ? j->rank : j->dim;
    int32_t rows = (int32_t)j->removed_rows;
    TRY(device_alloc_state(d, F32, 1, 1, 1, j->dim, &u->embedding));
    TRY(device_alloc_state(d, F32, 1, 1, 1, moments, &u->m));
    TRY(device_alloc_state(d, F32, 1, 1, 1, moments, &u->v));
    TRY(device_alloc_state(d, F64, 1, 1, 1, j->dim, &u->gradient));
    TRY(device_alloc_state(d, F64, lanes, 1, 1, 1, &u->slots));
    TRY(device_alloc_state(d, F32, j->rows, 1, 1, moments, &u->directions));
    TRY(device_alloc_state(d, F32, rows ? rows : 1, 1, 1, j->dim, &u->removed));
    TRY(device_alloc_state(d, I32, 1, 1, 1, 1, &u->removed_rows));
    TRY(device_alloc_state(d, F64, 1, 1, 1, 3, &u->rates));
    if (j->rank) {
        TRY(device_alloc_state(d, F32, j->rank, 1, 1, j->dim, &u->basis));
        TRY(device_alloc_state(d, F64, 1, 1, 1, j->rank, &u->coordinates));
        device_write(d, u->basis, j->basis);
    }
    device_write(d, u->embedding, j->embedding);
    device_write(d, u->m, j->m);
    device_write(d, u->v, j->v);
    device_write(d, u->slots, j->slots);
    device_write(d, u->directions, j->directions);
    if (rows)
        device_write(d, u->removed, j->removed);
    device_write(d, u->removed_rows, &rows);
    device_write(d, u->rates, j->rates);
    return device_wait(d);
}

static struct error run_update(const struct job *j)
{
    const char *kind = getenv("DEVICE");
    struct device *d;
    TRY(device_open(&d, device_kinds(), kind ? kind : "cpu", 0, 1));
    struct update u = {.n = j->n,
                       .batch = j->batch,
                       .sides = j->sides,
                       .tangents = j->tangents,
                       .eps = j->eps,
                       .weight1 = (float)(1 - j->beta1),
                       .weight2 = (float)(1 - j->beta2),
                       .beta2 = (float)j->beta2,
                       .adam_eps = (float)j->adam_eps};
    TRY(make_update(&u, d, j));
    op_update(d, &u);
    struct tensor mixed = {0};
    if (j->rank) {
        TRY(device_alloc_state(d, F32, j->rows, 1, 1, j->dim, &mixed));
        op_mix(d, mixed, u.directions, u.basis);
        device_read(d, j->mixed, mixed);
    }
    device_read(d, j->embedding, u.embedding);
    device_read(d, j->m, u.m);
    device_read(d, j->v, u.v);
    device_read(d, j->gradient, u.gradient);
    struct error e = device_wait(d);
    struct tensor *const kept[] = {&u.embedding, &u.m,          &u.v,           &u.gradient,
                                   &u.slots,     &u.directions, &u.removed,     &u.removed_rows,
                                   &u.rates,     &u.basis,      &u.coordinates, &mixed};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        device_free_state(d, kept[i]);
    device_close(d);
    return e;
}

/* One direction whose slope is 1: the gradient is the one requested, rounded to float. */
static const double unit_slots[] = {0, 1}, unit_rates[] = {1, 0, 1};

static struct error update_along(struct job *j, const double *gradient, double *out)
{
    float *direction = memory_alloc(j->dim, sizeof *direction);
    for (int64_t k = 0; k < j->dim; k++)
        direction[k] = (float)gradient[k];
    j->n = j->sides = j->batch = j->rows = 1;
    j->eps = 1;
    j->slots = unit_slots;
    j->directions = direction;
    j->gradient = out;
    struct error e = run_update(j);
    memory_free(direction);
    return e;
}

static struct error run_subspace(const struct safetensors *in, const char *out, char **numbers)
{
    int64_t rows, dim, one;
    float *history = helper_rows(in, "history", F32, &rows, &dim);
    double *gradient = helper_rows(in, "gradient", F64, &one, &dim);
    float *zeros = memory_alloc(3 * dim, sizeof *zeros);
    struct subspace s;
    TRY(subspace_new(&s, dim, atoll(numbers[0]), atof(numbers[1])));
    for (int64_t i = 0; i < rows; i++)
        subspace_push(&s, history + i * dim);
    struct job j = {.dim = dim,
                    .rates = unit_rates,
                    .removed = s.removed,
                    .removed_rows = s.removed_rows,
                    .embedding = zeros,
                    .m = zeros + dim,
                    .v = zeros + 2 * dim,
                    .adam_eps = 1};
    struct error e = update_along(&j, gradient, gradient);
    const struct entry results[] = {helper_entry("removed", F32, s.removed_rows, dim, s.removed),
                                    helper_entry("gradient", F64, 1, dim, gradient)};
    if (e.code == ERROR_NONE)
        e = safetensors_write(out, results, 2, NULL, 0);
    subspace_free(&s);
    memory_free(history);
    memory_free(gradient);
    memory_free(zeros);
    return e;
}

static struct error run_adam(const struct safetensors *in, const char *out, char **numbers)
{
    int64_t steps, dim, one;
    float *embedding = helper_rows(in, "embedding", F32, &one, &dim);
    double *lr = helper_rows(in, "rates", F64, &one, &steps),
           *gradients = helper_rows(in, "gradients", F64, &steps, &dim);
    float *all = memory_alloc(steps * dim, sizeof *all);
    double rates[3] = {1}, *unused = memory_alloc(dim, sizeof *unused);
    float *zeros = memory_alloc(2 * dim, sizeof *zeros);
    struct job j = {.dim = dim,
                    .rates = rates,
                    .embedding = embedding,
                    .m = zeros,
                    .v = zeros + dim,
                    .beta1 = atof(numbers[0]),
                    .beta2 = atof(numbers[1]),
                    .adam_eps = atof(numbers[2])};
    struct error e = ok();
    for (int64_t i = 0; i < steps && e.code == ERROR_NONE; i++) {
        optimizer_rates(j.beta1, j.beta2, i + 1, lr[i], &rates[1], &rates[2]);
        e = update_along(&j, gradients + i * dim, unused);
        memcpy(all + i * dim, embedding, (size_t)dim * sizeof *all);
    }
    const struct entry results[] = {helper_entry("embeddings", F32, steps, dim, all)};
    if (e.code == ERROR_NONE)
        e = safetensors_write(out, results, 1, NULL, 0);
    memory_free(zeros);
    memory_free(embedding);
    memory_free(lr);
    memory_free(gradients);
    memory_free(unused);
    memory_free(all);
    return e;
}

static struct error run_gradient(const struct safetensors *in, const char *out, char **numbers)
{
    int64_t rows, batch, directions_rows, dim, sides = atoll(numbers[0]) ? atoll(numbers[0]) : 1;
    double *slots = helper_rows(in, "slots", F64, &rows, &batch);
    float *directions = helper_rows(in, "directions", F32, &directions_rows, &dim),
          *zeros = memory_alloc(3 * dim, sizeof *zeros);
    double *gradient = memory_alloc(dim, sizeof *gradient);
    const double rates[] = {optimizer_scale(directions_rows, dim, atoll(numbers[2])), 0, 1};
    const struct job j = {.dim = dim,
                          .n = (rows - 1) / sides,
                          .sides = sides,
                          .batch = batch,
                          .rows = directions_rows,
                          .tangents = atoll(numbers[0]) == 0,
                          .slots = slots,
                          .rates = rates,
                          .directions = directions,
                          .eps = atof(numbers[1]),
                          .adam_eps = 1,
                          .embedding = zeros,
                          .m = zeros + dim,
                          .v = zeros + 2 * dim,
                          .gradient = gradient};
    struct error e = run_update(&j);
    const struct entry results[] = {helper_entry("gradient", F64, 1, dim, gradient)};
    if (e.code == ERROR_NONE)
        e = safetensors_write(out, results, 1, NULL, 0);
    memory_free(slots);
    memory_free(directions);
    memory_free(zeros);
    memory_free(gradient);
    return e;
}

static struct error run_coordinates(const struct safetensors *in, const char *out, char **numbers)
{
    int64_t rows, batch, count, rank, dim, removed, sides = atoll(numbers[0]) ? atoll(numbers[0]) : 1;
    double *slots = helper_rows(in, "slots", F64, &rows, &batch);
    float *weights = helper_rows(in, "weights", F32, &count, &rank),
          *basis = helper_rows(in, "basis", F32, &rank, &dim);
    float *gone = helper_rows(in, "removed", F32, &removed, &dim), *zeros = memory_alloc(dim + 2 * rank, sizeof *zeros);
    float *mixed = memory_alloc(count * dim, sizeof *mixed);
    double *gradient = memory_alloc(dim, sizeof *gradient);
    const double rates[] = {optimizer_scale(count, rank, 0), -1, 1};
    const struct job j = {.dim = dim,
                          .n = (rows - 1) / sides,
                          .sides = sides,
                          .batch = batch,
                          .rows = count,
                          .removed_rows = removed,
                          .tangents = atoll(numbers[0]) == 0,
                          .slots = slots,
                          .rates = rates,
                          .directions = weights,
                          .removed = gone,
                          .rank = rank,
                          .basis = basis,
                          .mixed = mixed,
                          .eps = atof(numbers[1]),
                          .beta1 = 0.9,
                          .beta2 = 0.999,
                          .adam_eps = 1e-3,
                          .embedding = zeros,
                          .m = zeros + dim,
                          .v = zeros + dim + rank,
                          .gradient = gradient};
    struct error e = run_update(&j);
    const struct entry results[] = {helper_entry("directions", F32, count, dim, mixed),
                                    helper_entry("gradient", F64, 1, dim, gradient),
                                    helper_entry("embedding", F32, 1, dim, j.embedding),
                                    helper_entry("m", F32, 1, rank, j.m), helper_entry("v", F32, 1, rank, j.v)};
    if (e.code == ERROR_NONE)
        e = safetensors_write(out, results, sizeof results / sizeof *results, NULL, 0);
    memory_free(slots);
    memory_free(weights);
    memory_free(basis);
    memory_free(gone);
    memory_free(zeros);
    memory_free(mixed);
    memory_free(gradient);
    return e;
}

static const struct {
    const char *name;
    int numbers;
    struct error (*run)(const struct safetensors *in, const char *out, char **numbers);
} operations[] = {{"subspace", 2, run_subspace},
                  {"adam", 3, run_adam},
                  {"gradient", 3, run_gradient},
                  {"coordinates", 2, run_coordinates}};

static int print_rates(char **argv)
{
    int schedule = 0;
    while (lr_schedule_name(schedule) && strcmp(lr_schedule_name(schedule), argv[0]) != 0)
        schedule++;
    for (int64_t step = 1; step <= atoll(argv[2]); step++)
        printf("%.17g\n",
               lr_schedule_rate(schedule, atof(argv[1]), step, atoll(argv[2]), atoll(argv[3]), atoll(argv[4])));
    return 0;
}

static struct error run_operation(int argc, char **argv)
{
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++) {
        if (argc != 4 + operations[i].numbers || strcmp(argv[1], operations[i].name) != 0)
            continue;
        struct safetensors in;
        TRY(safetensors_open(&in, argv[2]));
        struct error e = operations[i].run(&in, argv[3], argv + 4);
        safetensors_close(&in);
        return e;
    }
    return error_input("usage: zo OPERATION IN OUT [NUMBER]...");
}

int main(int argc, char **argv)
{
    if (argc == 7 && strcmp(argv[1], "rates") == 0)
        return print_rates(argv + 2);
    return helper_end("zo", run_operation(argc, argv));
}
