#include "base/slope_noise.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const double TOO_MUCH = 0.1;

enum { STEPS_FOR_ONE = 100, ALL_FAMILIES = 7 };

bool slope_noise_due(const struct slope_noise *n, int64_t step, int64_t steps, int64_t families)
{
    int64_t all = steps < STEPS_FOR_ONE ? 1 : steps / STEPS_FOR_ONE;
    if (n->compared >= all || !(families & ~n->fallen))
        return false;
    return n->count < SLOPES_NEEDED || step > n->compared * (steps / all);
}

void slope_noise_add(struct slope_noise *n, const double *codes, const double *exact, int64_t count)
{
    for (int64_t i = 0; i < count; i++) { // checkpoints hold finite numbers only
        if (n->count == SLOPES_KEPT)
            memmove(n->slopes[0], n->slopes[1], --n->count * sizeof *n->slopes);
        n->slopes[n->count][0] = isfinite(codes[i]) ? (float)codes[i] : FLT_MAX;
        n->slopes[n->count++][1] = isfinite(exact[i]) ? (float)exact[i] : 0;
    }
    n->compared++;
}

double slope_noise_of(const struct slope_noise *n, bool *enough)
{
    double away = 0, exact = 0;
    *enough = n->count >= SLOPES_NEEDED;
    for (int64_t i = 0; i < n->count; i++) {
        double difference = (double)n->slopes[i][0] - (double)n->slopes[i][1];
        away += difference * difference;
        exact += (double)n->slopes[i][1] * (double)n->slopes[i][1];
    }
    return n->count == 0 ? NAN : away > 0 ? sqrt(away / exact) : 0; // slopes may all be 0
}

int64_t slope_noise_judge(struct slope_noise *n, int64_t families)
{
    bool enough;
    double noise = slope_noise_of(n, &enough);
    int64_t left = families & ~n->fallen, next = left & -left;
    if (!enough || noise <= TOO_MUCH || left == 0) // what is not a number is too much
        return 0;
    n->fallen |= next;
    n->count = 0;
    return next;
}

void slope_noise_text(char text[SLOPE_NOISE_TEXT], const struct slope_noise *n)
{
    snprintf(text, SLOPE_NOISE_TEXT, "compared %lld, fallen %lld", (long long)n->compared, (long long)n->fallen);
}

bool slope_noise_parse(struct slope_noise *n, const char *text)
{
    long long compared, fallen;
    char exact[SLOPE_NOISE_TEXT];
    if (sscanf(text, "compared %18lld, fallen %1lld", &compared, &fallen) != 2)
        return false;
    struct slope_noise read = {.compared = compared, .fallen = fallen};
    slope_noise_text(exact, &read);
    if (strcmp(text, exact) != 0 || compared < 1 || fallen < 0 || fallen > ALL_FAMILIES)
        return false;
    *n = read;
    return true;
}
