/* slope_noise STEPS COUNT OFF [LESS]: a run of so many steps with COUNT slopes in each, whose codes are off by the share OFF,
 * and by LESS of it after each family that fell. Prints a line for each comparison: step, noise, the family that fell. */
#include <stdio.h>
#include <stdlib.h>

#include "base/slope_noise.h"
#include "helper.h"

enum { MOST = 64, FAMILIES = 7 };

static struct error work(int argc, char **argv)
{
    if (argc < 4 || atoll(argv[2]) > MOST)
        return error_input("usage: slope_noise STEPS COUNT OFF [LESS]");
    int64_t steps = atoll(argv[1]), count = atoll(argv[2]);
    double off = atof(argv[3]), less = argc > 4 ? atof(argv[4]) : 1, codes[MOST], exact[MOST];
    struct slope_noise n = {0};
    for (int64_t step = 1; step <= steps; step++) {
        char text[SLOPE_NOISE_TEXT];
        struct slope_noise read;
        bool enough;
        if (!slope_noise_due(&n, step, steps, FAMILIES))
            continue;
        for (int64_t i = 0; i < count; i++) {
            exact[i] = 1 + (double)i;
            codes[i] = exact[i] * (1 + (i % 2 ? off : -off));
        }
        slope_noise_add(&n, codes, exact, count);
        double noise = slope_noise_of(&n, &enough);
        int64_t fell = slope_noise_judge(&n, FAMILIES);
        slope_noise_text(text, &n);
        if (!slope_noise_parse(&read, text) || read.compared != n.compared || read.fallen != n.fallen)
            return error_failed("%s: does not read back", text);
        printf("%lld %.6g %lld\n", (long long)step, noise, (long long)fell);
        off *= fell ? less : 1;
    }
    return ok();
}

int main(int argc, char **argv)
{
    return helper_end("slope_noise", work(argc, argv));
}
