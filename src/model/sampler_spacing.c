#include <math.h>

#include "model/sampler_type.h"

enum spacing sampler_spacing(const struct sampler *s)
{
    enum spacing spacing = s->schedule->sampling.spacing;
    return spacing != SPACING_DEFAULT ? spacing : s->type->own_spacing;
}

double sampler_spaced(const struct sampler *s, int64_t i, int64_t n)
{
    int64_t all = s->schedule->steps, spare = s->type->spare, place = n - 1 - i + spare;
    switch (sampler_spacing(s)) {
    case SPACING_LINSPACE: {
        int64_t last = n - 1 + spare;
        double t = last > 0 ? (double)place * ((double)(all - 1) / (double)last) : 0;
        return s->type->fractional ? (double)(float)t : nearbyint(t);
    }
    case SPACING_TRAILING: { // rounded like numpy.arange's stride, because of ties
        double stride = ((double)all - (double)all / (double)n) - (double)all;
        return nearbyint((double)all + (double)i * stride) - 1;
    }
    default:
        return (double)(place * (all / (n + spare)) + s->schedule->sampling.steps_offset);
    }
}

/* -------------------------------------------------------------------------------- noise at a timestep */

/* Classes that step from sigma to sigma put 2^-24 for the alpha of 0 that a zero terminal SNR ends with. */
static double alpha_in(const struct sampler *s, int64_t t)
{
    const struct noise_schedule *n = s->schedule;
    return s->type->sigmas && n->zero_snr && t == n->steps - 1 ? 0x1p-24 : (double)n->alphas_cumprod[t];
}

double sampler_alpha(const struct sampler *s, int64_t t)
{
    const struct sampling *with = &s->schedule->sampling;
    if (t >= 0)
        return alpha_in(s, t);
    bool one = with->has_alpha_to_one ? with->set_alpha_to_one : s->type->ends_clean;
    return one ? 1 : alpha_in(s, 0);
}

static double sigma_in(const struct sampler *s, int64_t t)
{
    double a = alpha_in(s, t);
    return sqrt((1 - a) / a);
}

static double sigma_at(const struct sampler *s, double t)
{
    int64_t low = (int64_t)floor(t), last = s->schedule->steps - 1;
    low = low < 0 ? 0 : low > last ? last : low;
    int64_t high = low < last ? low + 1 : last;
    double from = sigma_in(s, low), to = sigma_in(s, high);
    return from + (to - from) * (t - (double)low);
}

/* -------------------------------------------------------------------------------- sigmas first */

/* diffusers keeps the logarithms in float. */
static float log_sigma(const struct sampler *s, int64_t t)
{
    return (float)log((double)(float)sigma_in(s, t));
}

/* The timestep of a sigma, in logarithms between its neighbours: _sigma_to_t. */
static double timestep_of(const struct sampler *s, double sigma)
{
    double wanted = log(fmax(sigma, 1e-10));
    int64_t low = 0, end = s->schedule->steps - 1; // the last one that is not above it
    while (end - low > 1) {
        int64_t middle = low + (end - low) / 2;
        if ((double)log_sigma(s, middle) <= wanted)
            low = middle;
        else
            end = middle;
    }
    float from = log_sigma(s, low), to = log_sigma(s, low + 1);
    double share = fmin(fmax(((double)from - wanted) / (double)(from - to), 0), 1);
    return (1 - share) * (double)low + share * (double)(low + 1);
}

/* How each class makes a visited timestep of it: Euler's stay between two, DPM-Solver rounds but for the cosine schedule,
 * and what is not rounded is cut. */
static double visited(const struct sampler *s, double t)
{
    if (s->type->fractional)
        return (double)(float)t;
    bool rounds = s->karras || s->lu, cuts = s->type->class == CLASS_DPM && s->schedule->cosine;
    return rounds && !cuts ? nearbyint(t) : floor(t);
}

/* Karras et al. 2022, equation (5), with rho = 7; without bound for rho, it is even in the logarithm. */
static double spread(double high, double low, double share, bool karras)
{
    enum { RHO = 7 };
    if (!karras)
        return exp(log(high) + share * (log(low) - log(high)));
    double from = pow(high, 1.0 / RHO), to = pow(low, 1.0 / RHO);
    return pow(from + share * (to - from), RHO);
}

/* Between the schedule's ends, or, as Euler's class has it, between those of the timesteps that it would have visited. */
static void spread_sigmas(struct sampler *s)
{
    const struct sampling *with = &s->schedule->sampling;
    bool euler = s->type->class == CLASS_EULER, given = !s->lu;
    double high = euler ? s->sigmas[0] : sigma_in(s, s->schedule->steps - 1);
    double low = euler ? s->sigmas[s->calls - 1] : sigma_in(s, 0);
    if (s->lu) { // which begins with the logarithms
        high = exp((double)log_sigma(s, s->schedule->steps - 1));
        low = exp((double)log_sigma(s, 0));
    }
    if (given && !isnan(with->sigma_max))
        high = with->sigma_max;
    if (given && !isnan(with->sigma_min))
        low = with->sigma_min;
    for (int64_t i = 0; i < s->calls; i++) {
        double share = s->calls > 1 ? (double)i / (double)(s->calls - 1) : 0;
        double sigma = spread(high, low, share, s->karras);
        s->timesteps[i] = visited(s, timestep_of(s, sigma));
        s->sigmas[i] = (double)(float)sigma;
    }
}

static double last_sigma(const struct sampler *s)
{
    if (!s->type->spread || !s->schedule->sampling.ends_at_sigma_min)
        return 0;
    bool own = s->type->class == CLASS_UNIPC && s->spreads;
    return own ? s->sigmas[s->calls - 1] : (double)(float)sigma_in(s, 0);
}

/* -------------------------------------------------------------------------------- all */

/* A step from pure noise needs a network that says what the picture is. */
static struct error check_timestep(const struct sampler *s, double t)
{
    const struct noise_schedule *n = s->schedule;
    if (t < 0 || t > (double)(n->steps - 1))
        return error_input("is %lld, and with the model's steps_offset %lld this needs timestep %.0f of %lld",
                           (long long)s->steps, (long long)n->sampling.steps_offset, t, (long long)n->steps);
    if (n->prediction == PREDICT_EPSILON && alpha_in(s, (int64_t)t) == 0)
        return error_input("is %lld, and with that %s begins at pure noise, from which a model with prediction_type "
                           "epsilon tells it nothing; expected another scheduler, such as euler",
                           (long long)s->steps, s->type->name);
    return ok();
}

struct error sampler_space(struct sampler *s)
{
    for (int64_t i = 0; i < s->calls; i++) {
        double t = s->type->space ? s->type->space(s, i) : sampler_spaced(s, i, s->steps);
        TRY(check_timestep(s, t));
        s->timesteps[i] = t;
        s->sigmas[i] = (double)(float)sigma_at(s, t); // in float, as torch keeps them
    }
    if (s->spreads)
        spread_sigmas(s);
    s->sigmas[s->calls] = last_sigma(s);
    return ok();
}
