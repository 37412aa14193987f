/* UniPC, multistep, B(h) (Zhao et al. 2023, algorithms 5 to 8, prediction of x0): every output first corrects the step
 * that led to it (UniC), then predicts the next one (UniP). */
#include <math.h>
#include <string.h>

#include "model/sampler_type.h"

enum { ORDERS = 3 };

/* A step from sigma to sigma, and the x0 that it combines: x_to = keep x - alpha B(h) sum(rho D) + ... */
struct unipc_step {
    int64_t order;
    double keep, clean, scale; /* of the sample, of the x0 at its start, of the differences from that */
    double rates[ORDERS];      /* where the other outputs lie along lambda, in steps */
    double rhos[ORDERS];       /* weights of the differences divided by their rates */
};

/* Gauss without exchanges: a Vandermonde matrix of distinct rates has no zero there. a [n, n] and b [n] are used up. */
static void solve(int64_t n, double a[ORDERS][ORDERS], double b[ORDERS], double x[ORDERS])
{
    for (int64_t p = 0; p < n; p++)
        for (int64_t r = p + 1; r < n; r++) {
            double factor = a[r][p] / a[p][p];
            for (int64_t c = p; c < n; c++)
                a[r][c] -= factor * a[p][c];
            b[r] -= factor * b[p];
        }
    for (int64_t p = n - 1; p >= 0; p--) {
        x[p] = b[p];
        for (int64_t c = p + 1; c < n; c++)
            x[p] -= a[p][c] * x[c];
        x[p] /= a[p][p];
    }
}

/* sum over m of rhos[m] rates[m]^k = k-th moment, k < n: the first n conditions of the order. */
static void find_rhos(struct unipc_step *u, int64_t n, double hh, double scale)
{
    double a[ORDERS][ORDERS], b[ORDERS], phi = expm1(hh) / hh - 1, factorial = 1;
    for (int64_t k = 0; k < n; k++) {
        for (int64_t m = 0; m < n; m++)
            a[k][m] = pow(u->rates[m], (double)k);
        b[k] = phi * factorial / scale;
        factorial *= (double)(k + 2);
        phi = phi / hh - 1 / factorial;
    }
    solve(n, a, b, u->rhos);
}

/* The step that ends at s->sigmas[end]. corrects: its end's own output is known, and counts as one of the others. */
static struct unipc_step step_to(const struct sampler *s, int64_t end, int64_t order, bool corrects)
{
    double from = s->sigmas[end - 1], to = s->sigmas[end], hh = log(to) - log(from), alpha = sampler_alpha_of(to);
    struct unipc_step u = {
        .order = order, .keep = to * alpha / (from * sampler_alpha_of(from)), .clean = -alpha * expm1(hh)};
    double scale = s->schedule->sampling.bh1 ? hh : expm1(hh);
    int64_t others = order - 1;
    for (int64_t m = 0; m < others; m++)
        u.rates[m] = (log(from) - log(s->sigmas[end - 2 - m])) / -hh;
    u.rates[others] = 1;
    int64_t unknown = corrects ? order : others;
    u.scale = unknown > 0 ? -alpha * scale : 0;
    if (unknown == 1)
        u.rhos[0] = 0.5;
    else if (unknown > 1)
        find_rhos(&u, unknown, hh, scale);
    return u;
}

/* start [count] -> end [count], from the kept outputs, the newest of which is that at the start; reached: the output at
 * the end, or NULL. */
static void take(const struct sampler *s, const struct unipc_step *u, const float *start, const float *reached,
                 float *end)
{
    for (int64_t k = 0; k < s->count; k++) {
        double now = (double)s->outputs[0][k], sum = 0;
        for (int64_t m = 0; m < u->order - 1; m++)
            sum += u->rhos[m] * ((double)s->outputs[m + 1][k] - now) / u->rates[m];
        if (reached)
            sum += u->rhos[u->order - 1] * ((double)reached[k] - now);
        end[k] = (float)(u->keep * (double)start[k] + u->clean * now + u->scale * sum);
    }
}

/* At sigma 0 only the newest x0 is left; and a step of no length has no rates. */
static int64_t order_of(const struct sampler *s, int64_t i)
{
    const struct sampling *with = &s->schedule->sampling;
    int64_t left = s->calls - i, order = with->order < i + 1 ? with->order : i + 1;
    if (s->sigmas[i + 1] == 0 || s->sigmas[i + 1] == s->sigmas[i])
        return 1;
    return with->lower_order_final && left < order ? left : order;
}

void sampler_step_unipc(struct sampler *s, int64_t i, const float *output, float *sample)
{
    float *clean = s->noise;
    for (int64_t k = 0; k < s->count; k++)
        clean[k] = (float)sampler_clean_of(s, s->sigmas[i], (double)sample[k], (double)output[k]);
    if (i > 0) {
        const struct unipc_step back = step_to(s, i, order_of(s, i - 1), true);
        take(s, &back, s->held, clean, sample);
    }
    sampler_keep(s, clean);
    memcpy(s->held, sample, (size_t)s->count * sizeof *sample);
    const struct unipc_step on = step_to(s, i + 1, order_of(s, i), false);
    take(s, &on, s->held, NULL, sample);
}
