/* zo OPERATION IN.safetensors OUT.safetensors [NUMBER]...
 *
 *     subspace TAU NU      `history` F32 [rows, dim], pushed row by row, `gradient` F64 [1, dim] -> `noise`, `gradient`
 *     adam B1 B2 EPS       `embedding` F32 [1, dim], `gradients` F64 [steps, dim], `rates` F64 [1, steps] ->
 * `embeddings` gradient SIDES EPS REMOVED   `losses` F64 [rows, batch], `directions` F32 [n, dim] -> `gradient` F64
 *
 * zo rates SCHEDULE LR STEPS WARMUP   prints a learning rate a line
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "files/safetensors.h"
#include "zo/estimator.h"
#include "zo/optimizer.h"
#include "zo/subspace.h"

/* A tensor of the file, copied so that it is aligned; its shape in rows, columns. */
static void *load(const struct safetensors *file, const char *name, int64_t *rows, int64_t *columns)
{
    const struct entry *e = safetensors_find(file, name);
    void *copy = e ? memory_take(e->count, dtype_size(e->type)) : NULL;
    if (!copy || e->ranks != 2) {
        fprintf(stderr, "zo: no %s [rows, columns]\n", name);
        exit(2);
    }
    memcpy(copy, e->data, (size_t)(e->count * dtype_size(e->type)));
    *rows = e->shape[0];
    *columns = e->shape[1];
    return copy;
}

static struct entry result(const char *name, enum dtype type, int64_t rows, int64_t columns, const void *data)
{
    return (struct entry){name, type, 2, {rows, columns}, rows * columns, data};
}

static struct error run_subspace(const struct safetensors *in, const char *out, char **numbers)
{
    int64_t rows, dim, one;
    float *history = load(in, "history", &rows, &dim);
    double *gradient = load(in, "gradient", &one, &dim);
    struct subspace s;
    TRY(subspace_new(&s, dim, atoll(numbers[0]), atof(numbers[1])));
    struct error e = ok();
    for (int64_t i = 0; i < rows && e.code == ERROR_NONE; i++)
        e = subspace_push(&s, history + i * dim);
    subspace_project(&s, gradient);
    const struct entry results[] = {result("noise", F32, s.noise_rows, dim, s.noise),
                                    result("gradient", F64, 1, dim, gradient)};
    if (e.code == ERROR_NONE)
        e = safetensors_write(out, results, 2, NULL, 0);
    subspace_free(&s);
    memory_free(history);
    memory_free(gradient);
    return e;
}

static struct error run_adam(const struct safetensors *in, const char *out, char **numbers)
{
    int64_t steps, dim, one;
    float *embedding = load(in, "embedding", &one, &dim);
    double *rates = load(in, "rates", &one, &steps), *gradients = load(in, "gradients", &steps, &dim);
    float *all = memory_take(steps * dim, sizeof *all);
    struct optimizer o;
    TRY(optimizer_new(&o, dim, atof(numbers[0]), atof(numbers[1]), atof(numbers[2])));
    for (int64_t i = 0; i < steps; i++) {
        optimizer_update(&o, embedding, gradients + i * dim, rates[i]);
        memcpy(all + i * dim, embedding, (size_t)dim * sizeof *all);
    }
    const struct entry results[] = {result("embeddings", F32, steps, dim, all)};
    struct error e = safetensors_write(out, results, 1, NULL, 0);
    optimizer_free(&o);
    memory_free(embedding);
    memory_free(rates);
    memory_free(gradients);
    memory_free(all);
    return e;
}

static struct error run_gradient(const struct safetensors *in, const char *out, char **numbers)
{
    int64_t rows, batch, n, dim;
    double *losses = load(in, "losses", &rows, &batch);
    float *directions = load(in, "directions", &n, &dim);
    double *gradient = memory_take(dim, sizeof *gradient);
    estimate_gradient(gradient, losses, directions, n, atoll(numbers[0]), batch, dim, atof(numbers[1]),
                      atoll(numbers[2]));
    const struct entry results[] = {result("gradient", F64, 1, dim, gradient)};
    struct error e = safetensors_write(out, results, 1, NULL, 0);
    memory_free(losses);
    memory_free(directions);
    memory_free(gradient);
    return e;
}

static const struct {
    const char *name;
    int numbers;
    struct error (*run)(const struct safetensors *in, const char *out, char **numbers);
} operations[] = {{"subspace", 2, run_subspace}, {"adam", 3, run_adam}, {"gradient", 3, run_gradient}};

static int print_rates(char **argv)
{
    for (int64_t step = 1; step <= atoll(argv[2]); step++)
        printf("%.17g\n", schedule_rate(schedule_find(argv[0]), atof(argv[1]), step, atoll(argv[2]), atoll(argv[3])));
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
    if (argc == 6 && strcmp(argv[1], "rates") == 0)
        return print_rates(argv + 2);
    struct error e = run_operation(argc, argv);
    if (e.code != ERROR_NONE)
        fprintf(stderr, "zo: %s\n", e.text);
    return e.code;
}
