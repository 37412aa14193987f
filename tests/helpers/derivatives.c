/* derivatives CONFIG.json ROUNDS N...
 *
 * Training steps with differences and with tangents, beside one another in one process: for each number N of directions
 * a training of each kind on the same loaded model, which take ROUNDS steps in turn after one that is not counted. So
 * both meet the machine in the same moments. Prints a line of JSON for each N and kind: lanes and slopes of a step,
 * seconds of the steps, and the processor's seconds in all threads, which other work on the machine changes less.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/memory.h"
#include "device/kinds.h"
#include "helper.h"
#include "load.h"
#include "pipeline/derivative.h"
#include "pipeline/subject.h"
#include "zo/lane_check.h"
#include "zo/train.h"

enum { KINDS = 2 };

static const enum derivative kinds[KINDS] = {DERIVATIVE_DIFFERENCE, DERIVATIVE_TANGENT};

struct pair {
    struct config configs[KINDS]; /* the subject's, with another kind and n: what they point to is the subject's */
    struct training trainings[KINDS];
    double *seconds[KINDS]; /* [2 rounds]: by the clock, then of the processor */
};

/* Stands before the check that comes before the first step (CMakeLists.txt says how): one rank alone does not need what
 * it finds, and it takes longer than the steps that are measured here. The names are the linker's for that. */
struct error __real_lane_check(struct training *t, double *cost); // NOLINT
struct error __wrap_lane_check(struct training *t, double *cost); // NOLINT

struct error __wrap_lane_check(struct training *t, double *cost) // NOLINT
{
    if (comm_size(t->parts.comm) > 1)
        return __real_lane_check(t, cost);
    *cost = 1;
    return ok();
}

static struct error time_steps(struct pair *p, int64_t rounds)
{
    for (int64_t round = -1; round < rounds; round++)
        for (int k = 0; k < KINDS; k++) {
            double began = clock_seconds(), used = clock_processor();
            TRY(training_step(&p->trainings[k]));
            if (round < 0)
                continue;
            p->seconds[k][round] = clock_seconds() - began;
            p->seconds[k][rounds + round] = clock_processor() - used;
        }
    return ok();
}

static void print_list(const double *numbers, int64_t count)
{
    printf("[");
    for (int64_t i = 0; i < count; i++)
        printf("%s%.6f", i ? ", " : "", numbers[i]);
    printf("]");
}

static void print_pair(const struct pair *p, int64_t rounds)
{
    for (int k = 0; k < KINDS; k++) {
        const struct config *c = &p->configs[k];
        printf("{\"derivative\": \"%s\", \"n\": %lld, \"lanes\": %lld, \"slopes\": %lld, \"seconds\": ",
               derivative_name(kinds[k]), (long long)c->zo.n, (long long)p->trainings[k].lanes,
               (long long)(c->zo.n * c->optim.batch_size));
        print_list(p->seconds[k], rounds);
        printf(", \"processor_seconds\": ");
        print_list(p->seconds[k] + rounds, rounds);
        printf("}\n");
    }
    fflush(stdout);
}

static struct error measure(const struct subject *s, int64_t rounds, int64_t n)
{
    struct training_parts parts = subject_parts(s);
    struct pair p = {0};
    struct error e = ok();
    int made = 0;
    while (made < KINDS && e.code == ERROR_NONE) {
        struct config *c = &p.configs[made];
        *c = s->config;
        c->zo.n = n;
        c->zo.derivative = kinds[made];
        parts.config = c;
        device_set_tangents(parts.device, tangent_bits(c, s->pipeline)); // differences, the first, have none
        p.seconds[made] = memory_alloc(2 * rounds + 1, sizeof(double));
        e = p.seconds[made] ? training_new(&p.trainings[made], &parts, false) : error_memory("the times");
        made += e.code == ERROR_NONE;
    }
    if (e.code == ERROR_NONE)
        e = time_steps(&p, rounds);
    if (e.code == ERROR_NONE && comm_rank(parts.comm) == 0)
        print_pair(&p, rounds);
    for (int k = 0; k < KINDS; k++) {
        if (k < made)
            training_free(&p.trainings[k]);
        memory_free(p.seconds[k]);
    }
    return e;
}

static struct error work(int argc, char **argv, struct comm *comm)
{
    if (argc < 4)
        return error_input("usage: derivatives CONFIG.json ROUNDS N...");
    struct subject s;
    struct pipeline p;
    TRY(subject_open(&s, &p, argv[1], &(struct text_list){0}, comm, device_kinds(), START_NEW));
    struct error e = helper_load(&s);
    for (int i = 3; i < argc && e.code == ERROR_NONE; i++)
        e = measure(&s, atoll(argv[2]), atoll(argv[i]));
    subject_close(&s);
    return e;
}

int main(int argc, char **argv)
{
    return helper_on_ranks("derivatives", argc, argv, work);
}
