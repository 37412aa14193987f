#include <string.h>

#include "device/cpu/cpu.h"
#include "device/step_core.h"

/* A training step's own ops. They are small compared with the networks, so one thread computes them. */

void cpu_draw(struct device *device, struct tensor y, struct tensor step, uint64_t seed, uint32_t stream)
{
    const struct kernels *kernels = cpu_of(device)->kernels;
    uint64_t at = (uint64_t) * (const int64_t *)tensor_data(step);
    for (int64_t l = 0; l < y.lanes; l++)
        kernels->normals(seed, at, stream + (uint32_t)l, tensor_positions(y) * y.channels, tensor_row(y, l, 0));
}

void cpu_add_noise(struct device *device, struct tensor noisy, struct tensor target, struct tensor timesteps,
                   const struct add_noise *n)
{
    int64_t positions = tensor_positions(noisy), c = noisy.channels;
    const int32_t *choice = tensor_data(n->choice);
    for (int64_t l = 0; l < noisy.lanes; l++, choice += 3) {
        if (choice[0] < 0 || choice[0] >= n->moments.lanes || choice[1] < 0 || choice[1] >= n->levels.lanes ||
            choice[2] < 0 || choice[2] >= n->noise.lanes) {
            device_fail(device, error_failed("op_add_noise: a picture, timestep or place that does not exist"));
            return;
        }
        const float *levels = tensor_row(n->levels, choice[1], 0);
        *tensor_row(timesteps, l, 0) = (float)choice[1];
        for (int64_t p = 0; p < positions; p++) {
            const float *moments = tensor_row(n->moments, choice[0], p);
            const float *posterior = n->posterior.base ? tensor_row(n->posterior, choice[2], p) : NULL;
            const float *noise = tensor_row(n->noise, choice[2], p);
            for (int64_t k = 0; k < c; k++)
                step_add_noise(moments[k], moments[c + k], posterior ? posterior[k] : 0, noise[k], n->scaling,
                               levels[0], levels[1], n->velocity, tensor_row(noisy, l, p) + k,
                               tensor_row(target, l, p) + k);
        }
    }
}

void cpu_perturb(struct device *device, struct tensor rows, struct tensor embedding, struct tensor directions,
                 struct tensor which, double eps)
{
    int64_t dim = tensor_positions(embedding) * embedding.channels;
    const float *e = tensor_data(embedding);
    for (int64_t l = 0; l < rows.lanes; l++) {
        int32_t i = ((const int32_t *)tensor_data(which))[l];
        if (i < -directions.lanes || i > directions.lanes) {
            device_fail(device, error_failed("op_perturb: direction %d does not exist", i));
            return;
        }
        float *row = tensor_row(rows, l, 0);
        if (i == 0) {
            memcpy(row, e, (size_t)dim * sizeof *row);
            continue;
        }
        const float *z = tensor_row(directions, (i < 0 ? -i : i) - 1, 0);
        for (int64_t k = 0; k < dim; k++)
            row[k] = step_perturb(e[k], i < 0 ? -eps : eps, z[k]);
    }
}

void cpu_mix(struct device *device, struct tensor y, struct tensor weights, struct tensor basis)
{
    enum { AT_ONCE = 64 };
    (void)device;
    int64_t rank = basis.lanes, dim = basis.channels, rows = y.lanes * tensor_positions(weights);
    const float *w = tensor_data(weights), *u = tensor_data(basis);
    float *to = tensor_data(y);
    for (int64_t i = 0; i < rows; i++, w += rank, to += dim)
        for (int64_t first = 0; first < dim; first += AT_ONCE) {
            double sums[AT_ONCE] = {0};
            int64_t count = dim - first < AT_ONCE ? dim - first : AT_ONCE;
            for (int64_t r = 0; r < rank; r++)
                for (int64_t k = 0; k < count; k++)
                    sums[k] += (double)w[r] * (double)u[r * dim + first + k];
            for (int64_t k = 0; k < count; k++)
                to[first + k] = (float)sums[k];
        }
}

/* sum_j factor_j z_j, z_j being directions or their weights in a basis. */
static void estimate(const struct update *u, double scale, double *gradient)
{
    const struct step_slots slots = {u->n, u->batch, u->sides, u->eps, u->tangents};
    int64_t count = tensor_positions(u->directions) * u->directions.channels;
    memset(gradient, 0, (size_t)count * sizeof *gradient);
    for (int64_t j = 0; j < u->directions.lanes; j++) {
        double factor = step_factor(&slots, tensor_data(u->slots), j, u->directions.lanes, scale);
        const float *z = tensor_row(u->directions, j, 0);
        for (int64_t k = 0; k < count; k++)
            gradient[k] += factor * (double)z[k];
    }
}

/* g -= its part along each removed direction. They are orthonormal: one after the other is the same as all at once. */
static void project(const struct update *u, int32_t rows, double *gradient, int64_t dim)
{
    for (int64_t i = 0; i < rows; i++) {
        const float *row = tensor_row(u->removed, i, 0);
        double along = 0;
        for (int64_t k = 0; k < dim; k++)
            along += gradient[k] * (double)row[k];
        for (int64_t k = 0; k < dim; k++)
            gradient[k] -= along * (double)row[k];
    }
}

/* x = Ut y */
static void from_coordinates(const struct update *u, const double *y, double *x, int64_t dim)
{
    memset(x, 0, (size_t)dim * sizeof *x);
    for (int64_t r = 0; r < u->basis.lanes; r++) {
        const float *row = tensor_row(u->basis, r, 0);
        for (int64_t k = 0; k < dim; k++)
            x[k] += y[r] * (double)row[k];
    }
}

/* y = U x */
static void to_coordinates(const struct update *u, const double *x, double *y, int64_t dim)
{
    for (int64_t r = 0; r < u->basis.lanes; r++) {
        const float *row = tensor_row(u->basis, r, 0);
        y[r] = 0;
        for (int64_t k = 0; k < dim; k++)
            y[r] += x[k] * (double)row[k];
    }
}

static void update_coordinates(const struct update *u, const struct step_betas *adam, int32_t removed, int64_t dim)
{
    const double *rates = tensor_data(u->rates);
    double *gradient = tensor_data(u->gradient), *y = tensor_data(u->coordinates);
    float *e = tensor_data(u->embedding), *m = tensor_data(u->m), *v = tensor_data(u->v);
    estimate(u, rates[0], y);
    from_coordinates(u, y, gradient, dim);
    if (removed > 0) {
        project(u, removed, gradient, dim);
        to_coordinates(u, gradient, y, dim);
    }
    for (int64_t r = 0; r < u->basis.lanes; r++)
        y[r] = (double)step_adam(adam, (float)rates[1], (float)rates[2], y[r], m + r, v + r);
    for (int64_t k = 0; k < dim; k++) {
        double step = 0;
        for (int64_t r = 0; r < u->basis.lanes; r++)
            step += y[r] * (double)tensor_row(u->basis, r, 0)[k];
        e[k] = (float)((double)e[k] + step);
    }
}

static void update_word(const struct update *u, const struct step_betas *adam, int32_t removed, int64_t dim)
{
    const double *rates = tensor_data(u->rates);
    double *gradient = tensor_data(u->gradient);
    float *e = tensor_data(u->embedding), *m = tensor_data(u->m), *v = tensor_data(u->v);
    estimate(u, rates[0], gradient);
    project(u, removed, gradient, dim);
    for (int64_t k = 0; k < dim; k++)
        e[k] += step_adam(adam, (float)rates[1], (float)rates[2], gradient[k], m + k, v + k);
}

void cpu_update(struct device *device, const struct update *u)
{
    (void)device;
    int64_t dim = tensor_positions(u->embedding) * u->embedding.channels;
    const struct step_betas adam = {u->weight1, u->weight2, u->beta2, u->adam_eps};
    int32_t removed = *(const int32_t *)tensor_data(u->removed_rows);
    if (removed > u->removed.lanes)
        removed = (int32_t)u->removed.lanes;
    if (u->basis.base)
        update_coordinates(u, &adam, removed, dim);
    else
        update_word(u, &adam, removed, dim);
}
