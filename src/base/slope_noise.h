/* base/slope_noise.h
 *
 * How far slopes of tangents in codes are from exact ones, and what follows from it. Now and then a step's slopes are
 * computed both ways. Over the last SLOPES_KEPT of them,
 *
 *     noise = sqrt(sum (slope in codes - exact slope)^2 / sum exact slope^2)
 *
 * An estimate's second moment grows by 1 + noise^2, so a tenth is free. Where it is more, a family of products takes
 * floats from then on, and the count begins anew: attention first, then convolutions, then linear layers.
 *
 * A comparison costs a step's evaluations again. A run has one for each hundred of its steps, spread evenly, and at
 * least one; the first follow each other until there are SLOPES_NEEDED slopes, without which there is no verdict.
 *
 * Invariant: everything follows from struct slope_noise and the config, so ranks agree and a resumed run goes on alike.
 */
#ifndef ZOODIP_BASE_SLOPE_NOISE_H
#define ZOODIP_BASE_SLOPE_NOISE_H

#include <stdbool.h>
#include <stdint.h>

enum { SLOPES_KEPT = 32, SLOPES_NEEDED = 16 };

struct slope_noise {
    int64_t compared;             /* steps */
    int64_t fallen;               /* families that take floats, bits as the device has them; rising bits fall in turn */
    int64_t count;                /* slopes kept */
    float slopes[SLOPES_KEPT][2]; /* [count]: in codes, exact; the oldest first */
};

/* Is step `step` (from 1) of `steps` to be computed both ways? families: those that take codes unless they have fallen. */
bool slope_noise_due(const struct slope_noise *n, int64_t step, int64_t steps, int64_t families);

/* Adds a step's slopes [count]. */
void slope_noise_add(struct slope_noise *n, const double *codes, const double *exact, int64_t count);

/* The noise, and whether there are enough slopes for a verdict; NAN without any slopes. */
double slope_noise_of(const struct slope_noise *n, bool *enough);

/* If the noise is too much: the family that falls, of `families`, after which the count begins anew. Else 0. */
int64_t slope_noise_judge(struct slope_noise *n, int64_t families);

/* The numbers besides the slopes, as a checkpoint has them, and back: false if it is not such a text. */
enum { SLOPE_NOISE_TEXT = 80 };
void slope_noise_text(char text[SLOPE_NOISE_TEXT], const struct slope_noise *n);
bool slope_noise_parse(struct slope_noise *n, const char *text);

#endif
